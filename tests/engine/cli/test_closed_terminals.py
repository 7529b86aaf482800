"""A terminal that is closed in mid-run: the run is asked to stop, and nothing fails because of the terminal."""

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rvc_engine.cli.console import Terminal, open_report
from rvc_engine.events import EXIT_STOPPED, Stopped, Warned
from rvc_engine.pipeline.process import EventLines, StopSwitch
from rvc_engine.workspace.layout import Workspace
from tests.systems import terminals

pytestmark = terminals
ROOT = Path(__file__).parents[3]
SCRIPT, SAMPLES = ROOT / "rvc_training_pipeline.py", ROOT / "samples"


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests run under nohup, it is ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal: the window, and the program's side."""
    window, side = os.openpty()
    yield window, side
    for descriptor in (window, side):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def text_file(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), write_through=True)


def test_a_hangup_requests_a_stop_unless_it_is_ignored_as_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    switch = StopSwitch()
    switch.on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not switch()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    switch.on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert switch()


def test_after_a_hangup_output_goes_nowhere(terminal: tuple[int, int]) -> None:
    window, side = terminal
    saved = os.dup(2)
    try:
        os.dup2(side, 2)
        switch = StopSwitch()
        switch.on_signals()
        os.close(window)
        with pytest.raises(OSError, match="Input/output"):
            os.write(2, b"lost")
        signal.raise_signal(signal.SIGHUP)
        assert os.write(2, b"nowhere") == 7
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def test_the_log_has_the_end_of_a_run_whose_terminal_is_gone(
    terminal: tuple[int, int], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, side = terminal
    monkeypatch.setattr(sys, "stderr", text_file(side))
    with open_report(workspace) as report:
        report(Warned(message="before"))
        while b"before" not in os.read(window, 1000):
            pass
        os.close(window)
        report(Stopped(message="stopped as requested"))
    assert workspace.log.read_text().endswith("INFO    stopped as requested\n")


def test_events_for_a_terminal_that_is_gone_request_a_stop(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    window, side = terminal
    monkeypatch.setattr(sys, "stdout", text_file(side))
    switch = StopSwitch()
    os.close(window)
    EventLines(switch)(Warned(message="lost"))
    assert switch()


def test_a_terminal_without_errors_shows_every_line(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    window, side = terminal
    monkeypatch.setattr(sys, "stderr", text_file(side))
    shown = Terminal("info")
    for word in ("one", "two"):
        shown(Warned(message=word))
    shown.close()
    text = b""
    while b"two" not in text:
        text += os.read(window, 1000)
    assert b"one" in text


@pytest.mark.long
def test_a_run_whose_terminal_is_closed_saves_and_is_resumed(terminal: tuple[int, int], tmp_path: Path) -> None:
    window, side = terminal
    words = [
        "-e",
        "anna",
        "--dataset",
        str(SAMPLES),
        "--content",
        "whisper-tiny",
        "--pretrained",
        "none",
        "--pitch",
        "dio",
    ]
    words += ["--set", "width=24", "--set", "evaluate=never", "-te", "100"]
    run = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, str(SCRIPT), *words],  # the terminal's own session, as a shell's
        cwd=tmp_path,
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""},
    )
    os.close(side)
    log = tmp_path / "logs" / "anna" / "train.log"
    deadline = time.monotonic() + 240
    while not (log.is_file() and "step 3:" in log.read_text()):
        assert time.monotonic() < deadline
        if select.select([window], [], [], 0.1)[0]:
            os.read(window, 10_000)
    os.close(window)
    assert run.wait(60) == EXIT_STOPPED
    assert "stopped as requested" in log.read_text().splitlines()[-1]
    assert list((tmp_path / "logs" / "anna" / "recovery").glob("step_*.pt"))
