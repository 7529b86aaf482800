"""The engine as a process: events on its output, signals, the lock, and kills at any moment."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

import rvc_engine
from rvc_engine import events
from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.events import Event, parse_event
from rvc_engine.workspace.layout import Workspace

TINY = {
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "width": 24,
    "batch_size": 2,
    "total_epochs": 3,
    "checkpoint_every_steps": 2,
    "learning_rate": 1e-3,
}


SIGNALS = ("SIGTERM", "SIGHUP")


class Engine:
    """One engine process with small models, and its events so far."""

    def __init__(self, root: Path, recordings: Path, cache: Path, *words: str, **changes: object) -> None:
        config = root.parent / f"{root.name}.json"
        config.write_text(json.dumps({**TINY, **changes}))
        self.root = root
        self.events: list[Event] = []
        command = [sys.executable, "-P", "-m", "rvc_engine", "run", f"--workspace={root}", "--voice=anna"]
        command += [f"--dataset={recordings}", f"--config={config}", f"--cache={cache}", "--threads=1", "--device=cpu"]
        self.process = subprocess.Popen(
            [*command, "--events", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
        )

    def follow(self) -> Iterator[Event]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = parse_event(line)
            self.events.append(event)
            yield event

    def until(self, kind: type[Event], count: int = 1) -> Event:
        """Read until the `count`-th event of a kind."""
        for event in self.follow():
            if isinstance(event, kind):
                count -= 1
                if count == 0:
                    return event
        raise AssertionError(f"the engine ended before: {self.events[-3:]} {self.error_text()}")

    def end(self) -> int:
        """Read to the end; returns the exit code."""
        for _ in self.follow():
            pass
        return self.process.wait(60)

    def error_text(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def losses(self) -> dict[int, dict[str, float]]:
        """Metrics by step, without those of speed."""
        metrics = (event for event in self.events if isinstance(event, events.Metric))
        return {
            event.step: {key: value for key, value in event.values.items() if not key.startswith("speed/")}
            for event in metrics
        }

    def weights(self) -> dict[str, torch.Tensor]:
        return load_trained_synthesizer(Workspace(self.root, "anna"))[0]


@pytest.fixture
def start(tmp_path: Path, recordings: Path, cache: Path) -> Iterator[object]:
    engines: list[Engine] = []

    def start_one(name: str, *words: str, **changes: object) -> Engine:
        engines.append(Engine(tmp_path / name, recordings, cache, *words, **changes))
        return engines[-1]

    yield start_one
    for engine in engines:
        engine.close()


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.long  # test_killing.py kills runs each day, and compares the weights at the end
def test_a_run_killed_in_the_middle_goes_on_and_ends_with_the_same_losses_and_weights(start) -> None:
    whole = start("whole")
    assert whole.end() == events.EXIT_SUCCEEDED, whole.error_text()
    assert isinstance(whole.events[-1], events.Succeeded)

    killed = start("killed")
    killed.until(events.CheckpointSaved, 2)  # of step 4, reported at step 5 or so: later steps will be lost
    killed.process.kill()
    assert killed.end() == -signal.SIGKILL
    again = start("killed")
    assert again.end() == events.EXIT_SUCCEEDED, again.error_text()

    first = min(again.losses())
    assert first in {5, 7}
    assert again.losses() == {step: values for step, values in whole.losses().items() if step >= first}
    assert same(again.weights(), whole.weights())


@pytest.mark.long  # as above: half of those kills come within a write
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(start, tmp_path: Path) -> None:
    engine = start("writing", checkpoint_every_steps=1)
    engine.until(events.CheckpointSaved, 3)
    recovery = tmp_path / "writing" / "recovery"
    deadline = time.monotonic() + 30
    while not list(recovery.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.0005)
    engine.process.kill()
    engine.end()
    again = start("writing", checkpoint_every_steps=1)
    assert again.end() == events.EXIT_SUCCEEDED, again.error_text()
    assert min(again.losses()) >= 4
    assert not [event for event in again.events if isinstance(event, events.Warned) and "checkpoint" in event.message]
    assert not list(recovery.glob(".*.tmp"))


@pytest.mark.parametrize("how", [*(pytest.param(name, marks=pytest.mark.long) for name in SIGNALS), "end of input"])
def test_a_run_that_is_asked_to_stop_saves_and_says_so(start, how: str) -> None:
    engine = start("stopped", checkpoint_every_steps=1000, total_epochs=2)
    step = engine.until(events.Metric, 2)
    if how == "end of input":
        engine.process.stdin.close()
    else:
        engine.process.send_signal(signal.Signals[how])
    assert engine.end() == events.EXIT_STOPPED, engine.error_text()
    assert isinstance(engine.events[-1], events.Stopped)
    assert isinstance(engine.events[-2], events.CheckpointSaved)
    assert engine.events[-2].step - step.step <= 2
    again = start("stopped", total_epochs=2)
    assert again.until(events.Metric).step == engine.events[-2].step + 1


def test_a_second_engine_in_a_workspace_is_turned_away_or_waits(start) -> None:
    first = start("shared", total_epochs=1)
    first.until(events.StageChanged)
    second = start("shared", total_epochs=1)
    assert second.end() == events.EXIT_FAILED
    assert second.events[-1].code == "workspace_busy"
    third = start("shared", "--lock-wait=60", total_epochs=1)
    first.process.kill()
    third.until(events.StageChanged)


def test_a_dataset_of_nothing_usable_fails_with_the_reasons(start, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "nonsense"
    folder.mkdir()
    (folder / "notes.wav").write_text("this is no sound")
    engine = Engine(tmp_path / "bad", folder, cache)
    try:
        assert engine.end() == events.EXIT_FAILED
    finally:
        engine.close()
    assert engine.events[-1].code == "invalid_dataset"
    assert "notes.wav" in engine.events[-1].message


def test_a_wrong_option_is_told_in_one_sentence_before_any_work(start, tmp_path: Path) -> None:
    engine = start("wrong", version="v3")
    assert engine.end() == events.EXIT_USAGE
    assert engine.error_text() == "error: version: Input should be 'v1' or 'v2'\n"
    assert not (tmp_path / "wrong").exists()


# --- several processes


def ranks_of(engine: Engine) -> list[psutil.Process]:
    """All child processes of the engine."""
    return psutil.Process(engine.process.pid).children(recursive=True)


def pid_of_the_second(engine: Engine) -> int:
    lines = [event.message for event in engine.events if isinstance(event, events.Log)]
    [message] = [message for message in lines if message.startswith("process 2 of 2 trains on cpu as pid")]
    return int(message.split()[-1])


@pytest.mark.long  # minutes; that two processes compute what one does is tested each day, in test_micro_batches.py
def test_a_killed_process_of_two_ends_the_run_as_crashed_and_the_next_goes_on_until_it_is_stopped(start) -> None:
    engine = start("two", "--processes=2", checkpoint_every_steps=1, total_epochs=1000)
    engine.until(events.CheckpointSaved, 2)
    running = ranks_of(engine)
    assert len(running) >= 3  # torchrun and two ranks
    os.kill(pid_of_the_second(engine), signal.SIGKILL)
    killed_at = time.monotonic()
    assert engine.end() == events.EXIT_FAILED
    assert time.monotonic() - killed_at < 10
    failed = engine.events[-1]
    assert isinstance(failed, events.Failed)
    assert (failed.code, failed.code.retryable) == ("engine_crashed", True)
    assert "process 2 of 2" in failed.message
    assert "SIGKILL" in failed.message
    assert not [process for process in running if process.is_running()]

    saved = [event.step for event in engine.events if isinstance(event, events.CheckpointSaved)]
    again = start("two", "--processes=2", checkpoint_every_steps=1000, total_epochs=1000)
    step = again.until(events.Metric, 2)
    assert min(again.losses()) - saved[-1] in {1, 2}  # one more may be complete but not reported yet
    again.process.terminate()
    assert again.end() == events.EXIT_STOPPED, again.error_text()
    assert isinstance(again.events[-1], events.Stopped)
    last = [event for event in again.events if isinstance(event, events.CheckpointSaved)][-1]
    assert last.step >= step.step


@pytest.mark.long  # as above
def test_processes_train_to_the_end_and_what_a_library_does_at_its_exit_makes_no_crash_of_it(
    start, hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo's threads sometimes abort a process during its exit.

    The engine is imported from a folder of `PYTHONPATH`, and the current folder has other packages of the same names.
    """
    abort_at_exit = (
        "import atexit, os, pathlib\n"
        "if 'LOCAL_RANK' in os.environ:\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'rank ' + os.environ['LOCAL_RANK']).touch()\n"
        "    atexit.register(os.abort)\n"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(abort_at_exit)
    (tmp_path / "site" / "rvc_engine").symlink_to(Path(rvc_engine.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    executed = hostile(tmp_path / "current", "rvc_engine", "torch", "numpy", "random", "yaml")
    monkeypatch.chdir(tmp_path / "current")
    engine = start("two", "--processes=2", total_epochs=1)
    assert engine.end() == events.EXIT_SUCCEEDED, engine.error_text()
    assert max(engine.losses()) == 2  # 6 clips, 4 a step
    assert not executed.exists()
    assert {path.name for path in tmp_path.glob("rank *")} == {"rank 0", "rank 1"}


@pytest.mark.long
def test_processes_end_themselves_when_their_engine_is_killed_and_one_goes_on_alone(start) -> None:
    engine = start("two", "--processes=2", checkpoint_every_steps=1, total_epochs=2)
    saved = engine.until(events.CheckpointSaved)
    running = ranks_of(engine)
    engine.process.kill()
    engine.process.wait()
    _, alive = psutil.wait_procs(running, timeout=15)
    assert not alive
    alone = start("two", batch_size=4, total_epochs=2)  # as many clips per step as the two together
    assert alone.end() == events.EXIT_SUCCEEDED, alone.error_text()
    assert min(alone.losses()) > saved.step
    assert not [event for event in alone.events if isinstance(event, events.Warned) and "anew" in event.message]
