"""Standard output, standard error and `train.log` of a run, and the answers to Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from rvc_engine import events
from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from rvc_engine.cli import console
from rvc_engine.cli.console import LogFile, Terminal, open_report
from rvc_engine.cli.interruption import EXIT_INTERRUPTED, LostWork, answered_at_once
from rvc_engine.pipeline.pipeline import StageSelection
from rvc_engine.pipeline.process import StopSwitch, run_engine
from rvc_engine.workspace.layout import Workspace
from tests.systems import ctrl_c, links, proc

RVC_LINE = "2024-06-04 10:00:00,123\tanna\tINFO\t{'train': {}}\n"


def metric(step: int, epoch: int) -> events.Metric:
    return events.Metric(step=step, epoch=epoch, values={"loss/gen": 2.5, "loss/mel": 20.0, "grad_norm/g": 1.0})


def test_losses_and_results_are_on_standard_output_and_faults_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal("info")
    for event in (
        events.Warned(message="a warning"),
        metric(1, 1),
        events.Log(message="a line"),
        events.Succeeded(message="done"),
        events.Failed(code="internal", message="a fault"),
    ):
        terminal(event)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["epoch 1, step 1: loss/gen=2.5 loss/mel=20", "a line", "done"]
    assert shown.err.splitlines() == ["a warning", "failed (internal): a fault"]


def test_losses_are_shown_every_log_interval_and_at_the_end_of_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal("info")
    for step in range(1, 501):
        terminal(metric(step, 1 + (step - 1) // 250))
    terminal(events.Stopped(message="stopped"))
    shown = [int(line.split("step ")[1].split(":")[0]) for line in capsys.readouterr().out.splitlines()[:-1]]
    assert shown == [1, 200, 250, 400, 500]


def test_losses_are_shown_again_after_a_return_to_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal("info")
    terminal.log_interval = 2
    for step in (1, 2, 3, 4, 3, 4):
        terminal(metric(step, 1))
    assert capsys.readouterr().out.count("step 4:") == 2


def test_the_level_hides_losses_and_debug_shows_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal("warning")(metric(200, 1))
    assert capsys.readouterr().out == ""
    terminal = Terminal("debug")
    for step in (1, 2, 3):
        terminal(metric(step, 1))
    assert capsys.readouterr().out.count("grad_norm") == 3


def test_a_reader_of_standard_output_that_ends_does_not_end_the_run() -> None:
    receiver, sender = os.pipe()
    os.close(receiver)
    terminal = Terminal("info")
    with os.fdopen(sender, "w") as closed:
        terminal._output.file = closed
        terminal(events.Log(message="one"))
        terminal(events.Log(message="two"))


def test_the_log_rotates_and_keeps_the_lines_of_rvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MAX_LOG_BYTES", 300)
    path = tmp_path / "train.log"
    path.write_text(RVC_LINE)
    log = LogFile(path)
    for number in range(100):
        log(events.Log(message=f"line {number}"))
    log.close()
    assert RVC_LINE in (tmp_path / "train.log.old").read_text()
    numbered = sorted(each.name for each in tmp_path.glob("train.log.[0-9]*"))
    assert numbered == [f"train.log.{number}" for number in range(1, console.KEPT_LOGS + 1)]
    newest = (tmp_path / "train.log.1").read_text() + path.read_text()
    assert newest.splitlines()[-1].endswith("line 99")
    assert all(each.stat().st_size < 400 for each in tmp_path.iterdir())


def test_an_unexpected_error_is_in_the_log_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one by nought")

    monkeypatch.setattr("rvc_engine.pipeline.process.make_voice", fail)
    workspace = Workspace(tmp_path / "anna", "anna")
    with open_report(workspace) as report:
        run_engine(None, workspace, None, None, report, lambda: False, StageSelection(), 0)  # type: ignore[arg-type]
    text = workspace.log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "ZeroDivisionError: one by nought" in text


def test_the_end_of_a_run_names_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rvc_engine.pipeline.process.make_voice", lambda *_, **__: None)
    workspace, said = Workspace(tmp_path / "anna", "anna"), []
    for selection in (StageSelection(), StageSelection(training=False)):
        run_engine(None, workspace, None, None, said.append, lambda: False, selection, 0)  # type: ignore[arg-type]
    assert [event.message.partition(" is ready in ")[0] for event in said] == ["the voice anna", "the index of anna"]


@links
@pytest.mark.parametrize("part", ["weights", "recovery"])
def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(tmp_path: Path, part: str) -> None:
    workspace, said = Workspace(tmp_path / "anna", "anna"), []
    workspace.root.mkdir()
    (workspace.root / part).symlink_to("/sys")  # read-only for root too
    code = run_engine(None, workspace, None, None, said.append, lambda: False, StageSelection(), 0)  # type: ignore[arg-type]
    [failed] = said
    assert (code, failed.code) == (events.EXIT_FAILED, "invalid_config")
    assert f"cannot write to {workspace.root / part}" in failed.message
    assert "make it writable" in failed.message
    assert "free some space" not in failed.message


@proc
def test_a_read_only_folder_of_runs_gets_words_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), open_report(Workspace(Path("/sys/anna"), "anna")):
        pass
    shown = capsys.readouterr().err
    assert "make it writable" in shown
    assert "free some space" not in shown


@pytest.fixture
def stop_switch() -> Iterator[StopSwitch]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    switch = StopSwitch()
    switch.on_signals()
    yield switch
    for number, handler in before.items():
        signal.signal(number, handler)


@ctrl_c
def test_the_first_interrupt_is_answered_while_the_main_thread_is_busy(stop_switch: StopSwitch) -> None:
    said, is_said = [], threading.Event()

    def say(text: str) -> None:
        said.append((text, stop_switch()))
        is_said.set()

    with answered_at_once(say, end=lambda: None):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert is_said.wait(5)
        assert stop_switch()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(5)
    assert len(said) == 1
    assert said[0][0] == "stopping after this step; press Ctrl-C again to end now, without a checkpoint"


BUSY = """
import hashlib, signal
from rvc_engine.cli.interruption import answered_at_once
signal.signal(signal.SIGINT, lambda *_: None)
with answered_at_once(lambda text: print("first", flush=True), lambda: print("second", flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # minutes without a chance for a signal handler
"""


@ctrl_c
def test_a_second_interrupt_within_one_long_operation_ends_the_program() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for line in ("ready\n", "first\n"):
            assert program.stdout.readline() == line
            program.send_signal(signal.SIGINT)
        assert program.stdout.read() == "second\n"
        assert program.wait(5) == EXIT_INTERRUPTED


def test_an_end_at_once_names_the_steps_that_are_lost(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "anna")
    lost = LostWork(workspace)
    lost(events.StageChanged(stage="slice", state="started"))
    assert "the work of stage slice is lost" in lost.describe()
    lost(events.StageChanged(stage="train", state="started"))
    lost(metric(12, 1))
    assert "12 steps are lost, those so far, as no checkpoint was saved yet" in lost.describe()
    workspace.recovery.mkdir(parents=True)
    write_entries(workspace.recovery, [CheckpointEntry("step_000000011.pt", 11, 1, 1, "")])
    assert "1 step is lost, that since the checkpoint of step 11" in lost.describe()


def test_events_as_json_lines_are_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rvc_engine.pipeline.process import EventLines

    with open_report(Workspace(tmp_path / "anna", "anna"), EventLines(StopSwitch())) as report:
        report(metric(1, 1))
        report(events.Warned(message="a warning"))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["type"] for row in rows] == ["metric", "warning"]
