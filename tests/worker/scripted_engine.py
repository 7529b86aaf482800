"""Engine that follows a script: it has the real one's options and protocol, but trains nothing.

    python scripted_engine.py SCRIPT.json --workspace=... --dataset=... (as the worker calls it)

The script is a list of steps, each with the name and the arguments of a method of `Engine`. It holds the workspace's
lock, and ends with a checkpoint on SIGTERM or when its standard input closes, unless the script prevents it.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from rvc_engine.checkpoints.manifest import KEPT_CHECKPOINTS, CheckpointEntry, read_entries, write_entries
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import FailureCode, WorkspaceBusy
from rvc_engine.events import (
    EXIT_FAILED,
    EXIT_STOPPED,
    EXIT_SUCCEEDED,
    ArtifactReady,
    CheckpointSaved,
    Evaluated,
    Event,
    Failed,
    Log,
    Metric,
    PreviewReady,
    Progress,
    QualityScored,
    StageChanged,
    Stopped,
    Succeeded,
    TrainingEnded,
    Warned,
    format_event,
)
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace


class Engine:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.workspace = Workspace(Path(options.workspace), options.voice)
        self.stopping = threading.Event()
        self.step = 0
        self.artifacts: list[tuple[str, Path]] = []

    def send(self, event: Event) -> None:
        print(format_event(event), flush=True)

    # Steps of a script

    def log(self, message: str) -> None:
        self.send(Log(message=message))

    def warn(self, message: str) -> None:
        self.send(Warned(message=message))

    def print(self, text: str) -> None:
        print(text, flush=True)

    def noise(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def sleep(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            self.end_stopped()

    def wait_for_file(self, path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.02)

    def meet(self, folder: str, number: int) -> None:
        """Wait until so many engines have come to a folder: those that run at the same time."""
        here = Path(folder)
        here.mkdir(exist_ok=True)
        (here / self.workspace.root.parent.name).touch()
        while len(list(here.iterdir())) < number:
            self.sleep(0.02)

    def hang(self) -> None:
        """Hang and ignore SIGTERM, like a frozen CUDA call."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)

    def ignore_stop(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.stopping = threading.Event()

    def flood(self, lines: int) -> None:
        for i in range(lines):
            self.log(f"line {i} " + "x" * 200)

    def stage(self, name: str, seconds: float) -> None:
        """A stage without work."""
        self.send(StageChanged(stage=name, state="started"))
        self.send(StageChanged(stage=name, state="finished", seconds=seconds))

    def train(self, total_steps: int, step_seconds: float, save_every: int) -> None:
        """Go on from the last checkpoint; each step leaves a line in steps.txt, so repeats can be counted."""
        checkpoint = self.workspace.root / "checkpoint.json"
        if entries := read_entries(self.workspace.recovery):
            assert entries[-1].fault(self.workspace.recovery) is None
            self.step = entries[-1].step
            self.log(f"going on from step {self.step}")
        self.send(StageChanged(stage="train", state="started"))
        while self.step < total_steps:
            if self.stopping.wait(step_seconds):
                self.save(checkpoint)
                self.end_stopped()
            self.step += 1
            with (self.workspace.root / "steps.txt").open("a") as file:
                file.write(f"{self.step} {os.getpid()}\n")
            self.send(Metric(step=self.step, epoch=self.step, values={"loss/mel": 60.0 / self.step}))
            self.send(
                Progress(
                    stage="train",
                    stage_progress=self.step / total_steps,
                    progress=self.step / total_steps,
                    eta_seconds=(total_steps - self.step) * step_seconds,
                    epoch=self.step,
                    total_epochs=total_steps,
                    step=self.step,
                    total_steps=total_steps,
                    step_seconds=step_seconds,
                )
            )
            if self.step % save_every == 0:
                self.save(checkpoint)
        self.send(StageChanged(stage="train", state="finished", seconds=total_steps * step_seconds))

    def progress(self, step: int, total_steps: int) -> None:
        """Training that has come so far, where a time limit ends it."""
        far = {"step": step, "total_steps": total_steps, "epoch": step, "total_epochs": total_steps}
        self.send(Progress(stage="train", stage_progress=1.0, progress=1.0, **far))

    def save(self, checkpoint: Path) -> None:
        content = json.dumps({"step": self.step}).encode()
        write_atomically(checkpoint, content)
        file, digest = f"step_{self.step:09d}.pt", hashlib.sha256(content).hexdigest()
        write_atomically(self.workspace.recovery / file, content)
        entry = CheckpointEntry(file, self.step, self.step, len(content), digest)
        before = [each for each in read_entries(self.workspace.recovery) if each.file != file]
        write_entries(self.workspace.recovery, [*before, entry][-KEPT_CHECKPOINTS:])
        self.send(CheckpointSaved(step=self.step, epoch=self.step, path=str(checkpoint)))

    def artifact(self, kind: str, size: int) -> None:
        places = {"voice": self.workspace.voice_file, "best": self.workspace.best_file}
        path = places.get(kind, self.workspace.index_file)
        content = hashlib.sha256(kind.encode()).digest() * (size // 32)
        write_atomically(path, content)
        self.offer(kind, path, hashlib.sha256(content).hexdigest())

    def true_artifact(self, kind: str, source: str) -> None:
        """A copy of a true voice or index."""
        path = self.workspace.voice_file if kind == "voice" else self.workspace.index_file
        content = Path(source).read_bytes()
        write_atomically(path, content)
        self.offer(kind, path, hashlib.sha256(content).hexdigest())

    def evaluated(self, step: int, mel: float, is_best: bool) -> None:
        values = {"eval/mel": mel, "eval/f0_cents": 40.0}
        fields = {"step": step, "epoch": step, "values": values, "held_out": True, "is_best": is_best}
        self.send(Evaluated(**fields, num_clips=3, seconds=0.1))

    def end_by_itself(self, step: int, best_step: int) -> None:
        """The end of a training with total_epochs=auto."""
        end = {"step": step, "epoch": step, "best_step": best_step, "best_epoch": best_step}
        self.send(TrainingEnded(reason="no_better_save", **end))

    def quality_scored(self, step: int, values: dict[str, float]) -> None:
        found = {f"quality/{name}": value for name, value in values.items()}
        self.send(QualityScored(step=step, epoch=step, values=found, seconds=2.0))

    def preview(self, step: int, sound: str) -> None:
        """A preview whose files hold what is given."""
        folder = self.workspace.root / "previews"
        name = f"e{step}_s{step}_1"
        paths = {"audio": f"{name}.flac", "picture": f"{name}.png", "recording": "recording_1.flac"}
        for kind, file in paths.items():
            write_atomically(folder / file, f"{kind} {sound}".encode() if kind != "recording" else b"recording")
        self.send_preview(step, {kind: str(folder / file) for kind, file in paths.items()})

    def true_preview(self, step: int, audio: str, picture: str, recording: str) -> None:
        """A playable preview: copies of these files."""
        folder = self.workspace.root / "previews"
        paths = {}
        for kind, source in (("audio", audio), ("picture", picture), ("recording", recording)):
            paths[kind] = str(folder / f"{kind}_s{step}{Path(source).suffix}")
            write_atomically(Path(paths[kind]), Path(source).read_bytes())
        self.send_preview(step, paths)

    def lost_preview(self, step: int) -> None:
        """A preview whose files are not there."""
        nowhere = str(self.workspace.root / "nowhere.flac")
        self.send_preview(step, {"audio": nowhere, "picture": nowhere, "recording": nowhere})

    def send_preview(self, step: int, paths: dict[str, str]) -> None:
        self.send(PreviewReady(step=step, epoch=step, clip=1, seconds=2.5, scores={"eval/mel": 20.0}, **paths))

    def lying_artifact(self, kind: str) -> None:
        """A file with another hash than announced."""
        path = self.workspace.voice_file if kind == "voice" else self.workspace.index_file
        write_atomically(path, b"half of it")
        self.offer(kind, path, "0" * 64)

    def foreign_artifact(self, kind: str, path: str) -> None:
        content = Path(path).read_bytes()
        self.offer(kind, Path(path), hashlib.sha256(content).hexdigest())

    def missing_artifact(self, kind: str) -> None:
        path = self.workspace.root / "missing"
        self.send(ArtifactReady(kind=kind, name=path.name, path=str(path), size=1, sha256="0" * 64))

    def pipe_artifact(self, kind: str) -> None:
        """A named pipe: whoever opens it hangs until it is written to."""
        path = self.workspace.root / "pipe"
        os.mkfifo(path)
        self.send(ArtifactReady(kind=kind, name=path.name, path=str(path), size=1, sha256="0" * 64))

    def offer(self, kind: str, path: Path, sha256: str) -> None:
        self.send(ArtifactReady(kind=kind, name=path.name, path=str(path), size=path.stat().st_size, sha256=sha256))

    def crash_once(self) -> None:
        """Be killed the first time the script comes here, in any process on this workspace."""
        mark = self.workspace.root / "crashed"
        if not mark.exists():
            mark.touch()
            psutil.Process().kill()

    def die(self, number: int) -> None:
        """By this signal; on Windows, which has none, with this exit code."""
        os.kill(os.getpid(), number)

    def exit(self, code: int) -> None:
        sys.stdout.flush()
        os._exit(code)

    def fail(self, code: str, message: str) -> None:
        self.send(Failed(code=FailureCode(code), message=message))
        self.exit(EXIT_FAILED)

    def succeed(self) -> None:
        self.send(Succeeded(message="the voice is made"))
        self.exit(EXIT_SUCCEEDED)

    def report_environment(self) -> None:
        config = TrainingConfig.model_validate_json(Path(self.options.config).read_text())
        self.log(
            "environment: "
            + json.dumps(
                {
                    "environment": dict(os.environ),
                    "group_is_own": sys.platform == "win32" or os.getpgrp() == os.getpid(),
                    "config": config.model_dump(),
                    **{key: value for key, value in vars(self.options).items() if key not in {"config", "script"}},
                }
            )
        )

    def end_stopped(self) -> None:
        self.send(Stopped(message="stopped after a checkpoint"))
        self.exit(EXIT_STOPPED)

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: self.stopping.set())
        threading.Thread(target=self._wait_for_closed_input, daemon=True).start()

    def _wait_for_closed_input(self) -> None:
        stopping = self.stopping
        os.read(0, 1)
        stopping.set()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    for option in ("workspace", "dataset", "voice", "config", "device", "weights", "cache"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lock-wait", type=float, required=True)
    parser.add_argument("--jobs-per-device", type=int, default=1)
    parser.add_argument("--provenance")
    parser.add_argument("--content-folder")
    parser.add_argument("--events", action="store_true", required=True)
    options = parser.parse_args()
    engine = Engine(options)
    engine.listen()
    try:
        with engine.workspace.lock(options.lock_wait):
            for word, *values in json.loads(Path(options.script).read_text()):
                getattr(engine, word)(*values)
    except WorkspaceBusy as error:
        engine.fail(error.code, str(error))


if __name__ == "__main__":
    main()
