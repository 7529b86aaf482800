"""kill -9 at random moments, also inside the write of a checkpoint: the voice at the end is the same to the bit."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.events import EXIT_SUCCEEDED
from rvc_engine.workspace.layout import Workspace
from tests.systems import forked

pytestmark = forked
CONFIG = {
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "width": 24,
    "batch_size": 2,
    "save_every_epochs": 1,
    "checkpoint_every_steps": 1,
    "learning_rate": 1e-3,
    "evaluate": "never",
}


class Forks:
    """Engines that start quickly, as forks of a process with torch loaded."""

    def __init__(self, dataset: Path, cache: Path) -> None:
        self.dataset, self.cache = dataset, cache
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forking_engine.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
        )

    def start(self, root: Path, epochs: int) -> int:
        """Start or resume a run; returns its pid."""
        config = json.dumps(CONFIG | {"total_epochs": epochs})
        request = {"workspace": str(root), "dataset": str(self.dataset), "config": config}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request | {"cache": str(self.cache)}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def forks(recordings: Path, cache: Path) -> Iterator[Forks]:
    forks = Forks(recordings, cache)
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Runs without interruption, by their epochs."""

    @functools.cache
    def run(epochs: int) -> Path:
        root = tmp_path_factory.mktemp("whole") / "anna"
        forks.start(root, epochs)
        assert forks.answer() == EXIT_SUCCEEDED
        return root

    return run


def generator(root: Path) -> dict[str, torch.Tensor]:
    return load_trained_synthesizer(Workspace(root, "anna"))[0]


def half_written(root: Path) -> list[Path]:
    return [*(root / "recovery").glob(".*.tmp"), *root.glob(".*.tmp"), *(root / "weights").glob(".*.tmp")]


def kill_often(forks: Forks, root: Path, epochs: int, times: int, seed: int) -> int:
    """Kill a run `times` times, every second time while a file is half written; returns how many were."""
    moments = random.Random(seed)
    num_within_a_write = 0
    for number in range(times):
        pid = forks.start(root, epochs)
        time.sleep(moments.uniform(0.05, 0.8))
        with contextlib.suppress(ProcessLookupError):
            if number % 2 == 0:
                stop_within_a_write(pid, root)
            os.kill(pid, signal.SIGKILL)
        code = forks.answer()
        num_within_a_write += bool(half_written(root))
        if code == EXIT_SUCCEEDED:
            break
        assert code == -signal.SIGKILL
    return num_within_a_write


def stop_within_a_write(pid: int, root: Path) -> None:
    """Stop a run while a file is half written, or after a minute without one; ProcessLookupError: it ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        os.kill(pid, signal.SIGSTOP if half_written(root) else 0)
        if half_written(root):  # a stopped run can't finish the write before it is killed
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.0002)


def check(forks: Forks, whole: Path, root: Path, epochs: int) -> None:
    forks.start(root, epochs)
    assert forks.answer() == EXIT_SUCCEEDED
    ours, theirs = generator(root), generator(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    exported = [torch.load(each / "weights" / "anna.pth", weights_only=True)["weight"] for each in (root, whole)]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[1])
    assert half_written(root) == []


def test_a_run_killed_at_random_moments_ends_with_the_very_weights(
    forks: Forks, whole: Callable[[int], Path], tmp_path: Path
) -> None:
    root = tmp_path / "anna"
    assert kill_often(forks, root, 2, times=4, seed=time.time_ns()) >= 1
    check(forks, whole(2), root, 2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_twenty_times_ends_with_the_very_weights(
    forks: Forks, whole: Callable[[int], Path], tmp_path: Path, seed: int
) -> None:
    root = tmp_path / "anna"
    assert kill_often(forks, root, 4, times=20, seed=seed) >= 3
    check(forks, whole(4), root, 4)
