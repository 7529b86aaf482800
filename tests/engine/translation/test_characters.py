"""Programs whose output goes into a pipe of any code page: no character ends them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rvc_engine.events import parse_event

ENCODINGS = ("cp1252", "cp936")
NAME = "安娜 Łucja 😀 ñ"
PROGRAMS = {
    "rvc-train": ["-m", "rvc_train.cli.main", "jobs", "--lang"],
    "rvc-engine": ["-m", "rvc_engine", "inspect"],
}


def run(*arguments: str, encoding: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    environment |= {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0", "LANG": "en_US.UTF-8", **more}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("program", ["rvc-train", "rvc-engine"])
def test_a_name_that_the_code_page_lacks_ends_no_program(program: str, encoding: str, tmp_path: Path) -> None:
    done = run(*PROGRAMS[program], str(tmp_path / NAME), encoding=encoding)
    shown = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in shown
    assert "UnicodeEncodeError" not in shown
    assert "charmap" not in shown
    assert done.returncode in {1, 2}
    assert "\\U0001f600" in shown
    assert ("ñ" if encoding == "cp1252" else "\\xf1") in shown


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("program", ["rvc_train.cli.main", "rvc_engine", "server.admin"])
def test_frames_of_the_help_are_legible(program: str, encoding: str) -> None:
    done = run("-m", program, "--help", encoding=encoding)
    shown = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr
    assert "Usage" in shown
    assert "\\u" not in shown


def test_events_are_utf_8_whatever_the_pipe_has() -> None:
    code = (
        "from rvc_engine.events import Failed\n"
        "from rvc_engine.pipeline.process import EventLines, StopSwitch\n"
        "switch = StopSwitch()\n"
        f"EventLines(switch)(Failed(code='internal', message={NAME!r}))\n"
        "raise SystemExit(switch())\n"
    )
    done = run("-c", code, encoding="cp1252", PYTHONPATH=str(Path(__file__).parents[3]))
    assert done.returncode == 0, done.stderr
    event = parse_event(done.stdout.decode())
    assert event.message == NAME  # type: ignore[union-attr]


@pytest.mark.parametrize("encoding", ["cp932", "ascii"])
def test_signs_of_bars_and_frames_have_similar_ones(encoding: str) -> None:
    code = (
        "import sys\n"
        "from rvc_engine.translation.characters import accept_any_character\n"
        "accept_any_character(sys.stdout, None)\n"
        "print('a\u2026 \u251c\u2501\u2588 \u2192 \u2022')\n"
    )
    shown = run("-c", code, encoding=encoding, PYTHONPATH=str(Path(__file__).parents[3])).stdout.decode(encoding)
    assert "\\u" not in shown
    if encoding == "ascii":
        assert shown == "a... +-# -> *\n"


def test_json_has_escapes_where_the_encoding_lacks_letters() -> None:
    code = f"from rvc_train.cli.output import Output\nOutput(as_json=True).json({{'name': {NAME!r}}})\n"
    for encoding in ENCODINGS:
        shown = run("-c", code, encoding=encoding, PYTHONPATH=str(Path(__file__).parents[3])).stdout.decode(encoding)
        assert json.loads(shown) == {"name": NAME}
