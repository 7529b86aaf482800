"""Errors that reach the entry point of a program."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rvc_engine.translation.program_errors import describe, errors_reported
from tests.systems import full_device

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/nowhere/voice.pth"), "the disk of / is full ("),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "TMPDIR"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/a"), "no permission for /srv/a"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/a"), "there is no file or folder /srv/a"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "set TMPDIR"),
        (ImportError("cannot import name 'x'"), "install this program again"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UTF-8"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
        (httpx.InvalidURL("Invalid port: ':1]'"), "--log-level debug"),
        (ZeroDivisionError("division by zero"), "unexpected error (ZeroDivisionError: division by zero)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_any_family_is_a_sentence_that_says_what_to_do(error: Exception, sentence: str) -> None:
    assert sentence in describe(error)


def test_an_error_ends_the_program_without_a_traceback_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with errors_reported():
            raise ZeroDivisionError("one by nought")

    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.delenv("RVC_TRAIN_LOG_LEVEL", raising=False)
    with pytest.raises(SystemExit, match="1"):
        fail()
    assert capsys.readouterr().err.startswith("error: unexpected error (ZeroDivisionError: one by nought); ")
    for arguments, level in ((["program", "--log-level", "debug"], ""), (["program"], "debug")):
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setenv("RVC_TRAIN_LOG_LEVEL", level)
        with pytest.raises(SystemExit):
            fail()
        assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_traceback_of_a_fault_is_in_a_log_and_that_of_the_system_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> str:
        with pytest.raises(SystemExit), errors_reported(shows_traceback=True):
            raise error
        return capsys.readouterr().err

    monkeypatch.setattr(sys, "argv", ["program"])
    monkeypatch.delenv("RVC_TRAIN_LOG_LEVEL", raising=False)
    assert "Traceback" in fail(ZeroDivisionError("one by nought"))
    assert "Traceback" not in fail(PermissionError(errno.EACCES, "Permission denied", "/srv/a"))


CLIENT = (sys.executable, "-m", "rvc_train.cli.main")
ENGINE = (sys.executable, "-m", "rvc_engine")
SCRIPT = (sys.executable, str(ROOT / "rvc_training_pipeline.py"))


def shell(command: str, *program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a shell, as `$@`."""
    return subprocess.run(
        ["bash", "-c", command, "bash", *program],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"} | environment,
        timeout=120,
    )


@full_device
@pytest.mark.parametrize("program", [CLIENT, ENGINE, SCRIPT], ids=["rvc-train", "rvc-engine", "script"])
def test_output_that_nobody_can_receive_is_no_traceback(program: tuple[str, ...]) -> None:
    full = shell('"$@" --help > /dev/full', *program)
    assert (full.returncode, "Traceback" in full.stderr, "is full" in full.stderr) == (1, False, True)
    closed = shell('"$@" --help >&- 2>&-; echo $?', *program)
    assert closed.stdout == "0\n"
    piped = shell('"$@" --help | true', *program)
    assert "Traceback" not in piped.stderr
    assert "Exception ignored" not in piped.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user's id")
def test_a_user_without_a_home_and_a_name_gets_sentences() -> None:
    other = "env -u HOME -u XDG_CONFIG_HOME -u XDG_CACHE_HOME setpriv --reuid=12345 --regid=12345 --clear-groups"
    python = "/usr/bin/python3"  # that of the tests may be in a folder of their user
    version = shell('"$@"', python, "-c", "import sys; print(sys.version_info >= (3, 11))")
    if version.stdout != "True\n":
        pytest.skip("needs a Python of the system")
    path = os.pathsep.join([str(ROOT), *(folder for folder in sys.path if folder.endswith("site-packages"))])
    upload = ("dataset", "upload", "samples", "--server", "http://127.0.0.1:1")
    done = shell(f'{other} "$@"', python, "-P", "-m", "rvc_train.cli.main", *upload, PYTHONPATH=path)
    assert done.returncode == 3, done.stderr
    assert "no answer from the server" in done.stderr
