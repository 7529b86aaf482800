"""The guide to the HTTP interface is run: its commands and programs, in their order, against a real server."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rvc_train.cli.services import free_port
from server.http.problem_types import guide_table

GUIDE = Path(__file__).parents[2] / "docs" / "api-guide.md"
BLOCK = re.compile(r"^```(?!http|py$)(\w+)( error)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEY = re.compile(r'"([A-Za-z_][\w/]*)"\s*:')
END = "=== end of the block"
SCRIPT = (
    ["log", "this engine trains nothing"],
    ["evaluated", 10, 21.5, True],
    ["quality_scored", 10, {"similarity": 0.71, "similarity/floor": 0.55, "similarity/ceiling": 0.88}],
    ["preview", 10, "a clip"],
    ["train", 120, 0.04, 10],
    ["artifact", "voice", 64_000],
    ["artifact", "index", 3200],
    ["succeed"],
)


class Shell:
    """One bash for all blocks, so that variables last. `curl` fails on an error of the server's."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        programs = folder / "programs"
        programs.mkdir()
        commands = {
            "curl": f"{shutil.which('curl')} $CURL_FAILS",
            "rvc-train": f"env PYTHONPATH={GUIDE.parents[1]} {sys.executable} -m rvc_train.cli.main",
        }
        for name, command in commands.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (programs / name).chmod(0o755)
        self._process = subprocess.Popen(
            ["bash", "-u"],
            cwd=folder,
            env=environment | {"PATH": f"{programs}:{environment['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, block: str, *, may_fail: bool) -> str:
        """The block's output. What it must not do is fail anywhere."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        fails = "" if may_fail else "--fail-with-body"
        process.stdin.write(f"export CURL_FAILS={fails}\nset -e -o pipefail\n{block}\necho; echo '{END}'\n")
        process.stdin.flush()
        lines = []
        for line in process.stdout:
            if line.startswith(END):
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"this failed:\n{block}\nIts output:\n{''.join(lines)}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def run_python(block: str, names: dict[str, object]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(block, str(GUIDE), "exec"), names)  # noqa: S102 - the guide is ours
    return output.getvalue()


def check_answer(language: str, shown: str, said: str) -> None:
    """Every key that the guide shows of an answer was in the real one; every line of other output, up to dots."""
    if language == "json":
        json.loads(shown)
        assert set(KEY.findall(shown)) <= set(KEY.findall(said)), f"shown:\n{shown}\nsaid:\n{said}"
    else:
        for line in shown.splitlines():
            assert line.partition("...")[0] in said, f"not said: {line}\nsaid:\n{said}"


@pytest.mark.timeout(90)
def test_every_command_and_program_of_the_guide_does_what_the_guide_says(station, tmp_path, monkeypatch):
    hook_port = free_port()
    station.follow_script(*SCRIPT)
    station.environment |= {
        "RVC_TRAIN_OUTBOUND_NETWORKS": "127.0.0.1",
        "RVC_TRAIN_WEBHOOK_POLL_SECONDS": "0.1",
        "RVC_TRAIN_LEASE_SECONDS": "30",  # a worker that is late on a busy machine still counts
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody there: nothing is downloaded
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    station.start_server()
    station.start_worker()
    here = tmp_path / "here"
    (here / "anna").mkdir(parents=True)
    for recording in sorted(station.samples.glob("vm-*.flac"))[:3]:
        shutil.copy(recording, here / "anna")
    monkeypatch.chdir(here)
    for name in ("RVC_TRAIN_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, station.environment[name])
    monkeypatch.setenv("RVC_TRAIN_SERVER", station.url)
    text = GUIDE.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{station.port}")
    text = text.replace("127.0.0.1:8001", f"127.0.0.1:{hook_port}").replace(
        '"127.0.0.1", 8001', f'"127.0.0.1", {hook_port}'
    )
    shell, names, said = Shell(here, station.environment | dict(os.environ)), {"__name__": "guide"}, ""
    record = tmp_path / "record.md"  # what was said, for whoever mends the guide
    try:
        for language, mark, block in BLOCK.findall(text):
            if language == "bash":
                said = shell.run(block, may_fail=bool(mark))
            elif language == "python":
                said = run_python(block, names)
            else:
                check_answer(language, block, said)
                continue
            with record.open("a") as file:
                file.write(f"$ {block}\n{said}\n----------\n")
    finally:
        shell.close()
        if (receiver := names.get("receiver")) is not None:
            receiver.shutdown()
            receiver.server_close()
        if (client := names.get("client")) is not None:
            client._http.close()
    assert names["received"]


def test_the_guide_has_the_servers_own_table_of_codes():
    assert f"\n{guide_table()}\n" in GUIDE.read_text()
