"""Training on a GPU, and a whole voice, against a plain implementation of the reference's method, as JSON lines.

Steps at batch 4 and 16 in turns, with and without CUDA graphs; peak memory of each, in a process of its own; losses
after 500 steps, with three seeds each; and a whole run on 10 minutes of speech. It needs a checkout and its wheels: by
default the recordings are the samples, repeated up to 10 minutes; models start without base weights, and the content
encoder is the one that comes with the package.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from benchmarks.lines import cpu_name, print_line
from benchmarks.two_trainings import LOSSES, WAYS, PlainTraining, Setting
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event, StageChanged
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.training.auto_batch import clips_bytes
from rvc_engine.workspace.layout import Workspace

SAMPLES = Path(__file__).parents[1] / "samples"
SPEECH_SECONDS = 600.0
TARGET_SECONDS = 240.0
"""Target of a whole run on an H200."""
LOSS_TOLERANCE = 0.03
NO_CUDA = "benchmarks.whole_voice needs a CUDA device, and PyTorch finds none on this machine."


@dataclass(frozen=True)
class Plan:
    """Amount of measurement."""

    device: torch.device
    recordings: Path
    speech_seconds: float = SPEECH_SECONDS
    width: int = 192
    batch_sizes: tuple[int, ...] = (4, 16)
    turns: int = 5
    steps_a_turn: int = 20
    warm_up_steps: int = 40
    """Steps before timing, so that each padded length has its graph."""
    loss_steps: int = 500
    loss_window: int = 100
    """Last steps whose losses are averaged."""
    seeds: int = 3
    epochs: int = 200
    num_loaders: int = 4
    is_tiny: bool = False

    @classmethod
    def tiny(cls, device: torch.device, recordings: Path) -> "Plan":
        """A plan of seconds, with small models and few steps, to test that the benchmark runs."""
        amounts = {"turns": 1, "steps_a_turn": 1, "warm_up_steps": 1, "loss_steps": 1, "loss_window": 1}
        amounts |= {"seeds": 1, "epochs": 1, "num_loaders": 0}
        return cls(device, recordings, 10.0, 24, (2,), is_tiny=True, **amounts)

    def config(self, **changes: object) -> TrainingConfig:
        """Config of a v2 40k voice with pitch."""
        usual = {"content": "whisper-tiny", "pretrained": "none", "width": self.width, "evaluate": "never"}
        return TrainingConfig.model_validate({**usual, **changes})

    def setting(self, workspace: Workspace, **changes: object) -> Setting:
        """Setting of both trainings."""
        return Setting(workspace, self.config(**changes), self.device, self.num_loaders)

    @property
    def device_name(self) -> str:
        """Name of the device for the output."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()


def speech(plan: Plan, folder: Path) -> Path:
    """A folder of recordings of the planned length, repeated where there are too few."""
    folder.mkdir()
    paths = sorted(path for path in plan.recordings.iterdir() if path.suffix in {".flac", ".wav"})
    written, number = 0.0, 0
    while written < plan.speech_seconds:
        path = paths[number % len(paths)]
        (folder / f"{number:04}{path.suffix}").symlink_to(path.absolute())
        written += soundfile.info(path).duration
        number += 1
    return folder


def prepare(plan: Plan, folder: Path) -> Workspace:
    """Preprocess the speech: slices, pitch and features."""
    workspace = Workspace(folder / "prepared", "bench")
    machine = Machine(device=str(plan.device))
    make_voice(
        folder / "speech", workspace, plan.config(), machine, lambda _: None, selection=StageSelection(training=False)
    )
    return workspace


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_steps(plan: Plan, workspace: Workspace, batch_size: int) -> None:
    """Print the seconds of a step of each training, measured in turns of some steps."""
    setting = plan.setting(workspace, batch_size=batch_size)
    trainings = {name: begin(setting) for name, begin in WAYS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for training in trainings.values():
        for _ in range(plan.warm_up_steps):
            training.step()
    for _ in range(plan.turns):
        for name, training in trainings.items():
            _synchronize(plan.device)
            start = time.perf_counter()
            for _ in range(plan.steps_a_turn):
                training.step()
            _synchronize(plan.device)
            seconds[name].append((time.perf_counter() - start) / plan.steps_a_turn)
    for training in trainings.values():
        training.close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    notes = f"batch {batch_size}, median of {plan.turns} turns of {plan.steps_a_turn} steps each, loading included"
    for name in ("ours", "ours without graphs"):
        title = f"training step on a GPU{name.removeprefix('ours')}"
        print_line(title, medians[name], medians["reference"], "s", notes, plan.device_name)


def peak_memory(plan: Plan, workspace: Workspace, way: str, batch_size: int) -> int:
    """Peak memory of a few steps in bytes, without clips cached on the device; to be run in a process of its own."""
    setting = plan.setting(workspace, batch_size=batch_size)
    training = WAYS[way](setting)
    for _ in range(plan.warm_up_steps):
        training.step()
    training.close()
    _synchronize(plan.device)
    if plan.device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cached = 0 if isinstance(training, PlainTraining) else clips_bytes(setting.clips(), setting.hparams)
    return torch.cuda.max_memory_reserved(plan.device) - cached


def compare_memory(plan: Plan, workspace: Workspace, batch_size: int) -> None:
    """Print the peak memory of each training, measured in a process of its own."""
    found = {}
    for way in ("ours", "reference"):
        command = [
            sys.executable,
            "-m",
            "benchmarks.whole_voice",
            "--memory-of",
            way,
            "--workspace",
            str(workspace.root),
        ]
        command += [
            "--batch-size",
            str(batch_size),
            "--device",
            str(plan.device),
            *(["--tiny"] if plan.is_tiny else []),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = int(done.stdout.split()[-1]) / 1e9
    notes = f"batch {batch_size}; peak reserved by PyTorch, without the clips cached on the device"
    print_line("most memory in training", found["ours"], found["reference"], "GB", notes, plan.device_name)


def compare_losses(plan: Plan, workspace: Workspace) -> None:
    """Print mean losses of the last steps over several seeds; should differ no more than the reference's seeds do."""
    means: dict[str, list[list[float]]] = {"ours": [], "reference": []}
    for seed in range(1, plan.seeds + 1):
        for way, found in means.items():
            training = WAYS[way](plan.setting(workspace, seed=seed, batch_size=plan.batch_sizes[0]))
            read = [training.step() for _ in range(plan.loss_steps)][-plan.loss_window :]
            found.append(torch.stack(read).mean(0).tolist())
            training.close()
    for position, name in enumerate(LOSSES):
        ours, theirs = ([each[position] for each in means[way]] for way in ("ours", "reference"))
        mean = statistics.mean(theirs)
        allowed = max(max(theirs) - min(theirs), LOSS_TOLERANCE * abs(mean))
        is_near = abs(statistics.mean(ours) - mean) <= allowed
        notes = (
            f"mean of steps {plan.loss_steps - plan.loss_window} to {plan.loss_steps}, seeds: ours "
            f"{', '.join(f'{each:.4g}' for each in ours)}; reference {', '.join(f'{each:.4g}' for each in theirs)}; "
            f"{'within' if is_near else 'NOT within'} {allowed:.4g} of each other"
        )
        print_line(name, statistics.mean(ours), mean, "loss", notes, plan.device_name)


def time_a_run(plan: Plan, folder: Path) -> None:
    """Print the seconds of a whole run, from recordings to a checked voice."""
    seconds: dict[str, float] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, StageChanged) and event.seconds is not None:
            seconds[event.stage] = event.seconds

    config = plan.config(batch_size=plan.batch_sizes[-1], total_epochs=plan.epochs)
    start = time.perf_counter()
    workspace = Workspace(folder / "run", "bench")
    make_voice(folder / "speech", workspace, config, Machine(device=str(plan.device)), on_event)
    total = time.perf_counter() - start
    stages = ", ".join(f"{stage} {each:.1f}" for stage, each in seconds.items())
    notes = (
        f"{plan.speech_seconds / 60:.3g} min of speech, {plan.epochs} epochs, batch {plan.batch_sizes[-1]}; seconds by "
        f"stage: {stages}; the reference value is the target on an H200"
    )
    print_line("recordings to voice", total, TARGET_SECONDS, "s", notes, plan.device_name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--recordings", type=Path, default=SAMPLES, help="a folder of FLAC or WAV files")
    parser.add_argument("--tiny", action="store_true", help="only test that it runs, with small models, on any device")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    plan = Plan.tiny(device, options.recordings) if options.tiny else Plan(device, options.recordings)
    if options.memory_of:
        print(peak_memory(plan, Workspace(options.workspace, "bench"), options.memory_of, options.batch_size))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speech(plan, folder / "speech")
        workspace = prepare(plan, folder)
        for batch_size in plan.batch_sizes:
            time_steps(plan, workspace, batch_size)
            compare_memory(plan, workspace, batch_size)
        compare_losses(plan, workspace)
        time_a_run(plan, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
