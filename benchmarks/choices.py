"""Defaults that only voices can judge, each trained and scored on recordings put aside, as JSON lines with means:

- `gaps`: the F0 of unvoiced frames, interpolated between the voiced ones around them, or 0, in training and in what is
  scored. The model has no other word on whether a frame is voiced.
- `batch_size`: the bound of batch_size=auto. All sizes pass the recordings equally often, so a larger one takes fewer
  steps; `seconds` has what that saves on this machine.

Small nets from scratch do not decide for the published size; hours of a CPU give a hint, and a GPU the answer (`--width
192 --device cuda:0`).
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pitch_choice import Means
from benchmarks.put_aside import SAMPLES, TRAINED, divide, read_generator, scorer
from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.pitch.world import HarvestEstimator
from rvc_engine.workspace.layout import Workspace

GAPS = ("interpolated", "zero")


@contextmanager
def gaps(choice: str) -> Iterator[None]:
    """A context in which curves are written with unvoiced frames of this kind."""

    def keep(hz: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(hz, np.float64)

    filled = pitch_stage.interpolate_unvoiced if choice == "interpolated" else keep
    with patch.object(pitch_stage, "interpolate_unvoiced", filled):
        yield


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["gaps", "batch_size"], help="repeatable")
    parser.add_argument("--recordings", type=Path, default=SAMPLES, help="a folder of one speaker")
    parser.add_argument("--seconds", type=float, default=100, help="length of the recordings to use")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="short trainings need a high one")
    parser.add_argument("--pitch", default="swift", help="F0 estimator")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = TrainingConfig(
        width=options.width,
        content="whisper-tiny",
        pretrained="none",
        sample_rate="32k",
        pitch=options.pitch,
        learning_rate=options.learning_rate,
        total_epochs=options.epochs,
        save_every_epochs=options.epochs,
        evaluate="never",
    )
    means = Means("choice")
    with tempfile.TemporaryDirectory(prefix="rvc-bench-") as folder:
        root = Path(folder)
        divide(options.recordings, options.seconds, root)
        if "gaps" in (options.only or ["gaps"]):
            for choice in GAPS:
                with gaps(choice):
                    train_voices(root, choice, "gaps", config, options, means)
        if "batch_size" in (options.only or ["batch_size"]):
            for size in options.batch_sizes:
                config = config.model_copy(update={"batch_size": size})
                train_voices(root, str(size), "batch_size", config, options, means)
    means.print()


def train_voices(
    root: Path, choice: str, part: str, config: TrainingConfig, options: argparse.Namespace, means: Means
) -> None:
    """Train and score a voice for each seed. Results of stages are shared by the seeds alone."""
    folder = root / part / choice
    folder.mkdir(parents=True)
    machine = Machine(options.device, torch.get_num_threads(), cache_folder=folder / "cache")
    evaluator = scorer(root, config, machine, HarvestEstimator(), folder / "scored")
    for seed in range(1, options.seeds + 1):
        workspace, started = Workspace(folder / str(seed), "voice"), time.monotonic()
        seeded = config.model_copy(update={"seed": seed})
        selection = StageSelection(index=False)
        make_voice(root / TRAINED, workspace, seeded, machine, lambda _: None, selection=selection)
        seconds = time.monotonic() - started
        model, steps = read_generator(workspace.root, Hyperparameters.from_config(config))
        values = {**evaluator.evaluate(model).values, "steps": steps, "seconds": seconds}
        means.add(f"seed {seed}", part, choice, values)


if __name__ == "__main__":
    main()
