"""README's section "From a program" is run as it stands, on a machine without published weights."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rvc_train.cli.services import free_port

ROOT = Path(__file__).parents[2]
HEADINGS = {"README.md": "## From a program", "README.zh-CN.md": "## 在程序里调用"}
IN_SHORT = ('"max_train_seconds": 60', '"max_train_seconds": 1, "width": 24, "batch_size": 4, "evaluate": "never"')


def commands_of(page: str) -> str:
    """The commands of the section's first block, without the comments after them."""
    block = (ROOT / page).read_text().split(HEADINGS[page])[1].split("```")[1]
    return "\n".join(line.removeprefix("$ ") for line in block.splitlines()[1:])


@pytest.fixture
def local_station(tmp_path: Path, open_station: Callable[..., Any]) -> Iterator[Any]:
    station = open_station(tmp_path, None)
    station.environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody there: nothing is downloaded
        "RVC_TRAIN_LEASE_SECONDS": "30",
    }
    yield station
    station.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["scripted", pytest.param("real", marks=pytest.mark.long)])
def test_every_command_of_the_section_works_on_a_fresh_machine(local_station: Any, tmp_path: Path, engine: str) -> None:
    station = local_station
    if engine == "scripted":
        station.follow_script(["train", 10, 0.05, 5], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    here = tmp_path / "here"
    (here / "samples").mkdir(parents=True)
    for recording in sorted(station.samples.glob("vm-*.flac"))[:3]:
        shutil.copy(recording, here / "samples")
    programs = tmp_path / "programs"
    programs.mkdir()
    command = f"env PYTHONPATH={ROOT} {sys.executable} -m rvc_train.cli.main"
    (programs / "rvc-train").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (programs / "rvc-train").chmod(0o755)
    environment = station.environment | {
        "RVC_TRAIN_SERVER": station.url,
        "PATH": f"{programs}:{station.environment['PATH']}",
    }
    commands = commands_of("README.md").replace("127.0.0.1:8000", f"127.0.0.1:{station.port}")
    assert IN_SHORT[0] in commands
    script = "set -e -o pipefail -u\n" + commands.replace(*IN_SHORT)
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + station.words()
    assert '"type":"succeeded"' in re.sub(r"\s", "", done.stdout), done.stdout
    (job,) = station.client.jobs()
    (voice,) = [each for each in station.client.artifacts(job.id) if each.kind == "voice"]
    assert (here / "carla.pth").stat().st_size == voice.size


def test_the_chinese_page_has_the_same_commands() -> None:
    def bare(page: str) -> list[str]:
        return [line.split("  #")[0].rstrip() for line in commands_of(page).splitlines()]

    assert bare("README.zh-CN.md") == bare("README.md")
