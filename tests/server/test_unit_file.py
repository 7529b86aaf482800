"""The unit file of the guide is valid for systemd, and protects files and modules as the guide documents."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
UNITS = re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", GUIDE, re.DOTALL)


def test_the_guide_has_unit_files():
    assert UNITS


@pytest.mark.parametrize(("name", "text"), UNITS)
def test_a_unit_makes_files_for_its_user_alone_and_starts_our_programs(name, text):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    assert unit["Service"]["UMask"] == "0077"
    assert re.match(r"\S+/rvc-train (up|server|worker)( |$)", unit["Service"]["ExecStart"])


@pytest.mark.parametrize(("name", "text"), UNITS)
def test_systemd_takes_a_unit_without_a_complaint(tmp_path, name, text):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    program = tmp_path / "rvc-train"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text)
    (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
    assert (done.returncode, ours) == (0, [])
    (tmp_path / name).write_text(text.replace("UMask=0077", "UMask=private"))
    wrong = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
    assert name in subprocess.run(wrong, capture_output=True, text=True, check=False).stderr
