"""Cosine of 16-bit gradients and float32 gradients, over all of G and all of D, as JSON lines.

Full-size models from scratch, at the start and after some 16-bit training steps; synthetic clips, or with `--prepared`
those of a preprocessed v2 40k folder.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.lines import print_line
from benchmarks.made_up_clips import write_clips
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles, epoch_batches, list_clips, load_clip
from rvc_engine.data.loader import pad
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.step import draw_starts, training_step
from rvc_engine.workspace.layout import Workspace

BATCH_SIZE = 4
CPU = torch.device("cpu")


class Steps:
    """Inputs of the steps of a training, without an end."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters) -> None:
        self.clips, self.hparams = clips, hparams

    def inputs(self, step: int) -> tuple[Batch, Tensor, Noise]:
        """Batch, segment starts and noise of a step."""
        lengths = [clip.frames for clip in self.clips]
        per_epoch = -(-len(lengths) // BATCH_SIZE)
        chosen = epoch_batches(lengths, BATCH_SIZE, 0, step // per_epoch)[step % per_epoch]
        loaded = [load_clip(self.clips[clip]) for clip in chosen]
        batch = pad(loaded, max(clip.frames for clip in loaded), self.hparams).batch(self.hparams)
        rng = torch.Generator().manual_seed(step)
        starts = draw_starts(batch.lengths, self.hparams.segment_frames, rng)
        return batch, starts, Noise.draw(self.hparams, len(chosen), batch.spec.shape[2], rng)


class Probe:
    """Models with a learning rate of 0, for computing gradients."""

    def __init__(self, hparams: Hyperparameters) -> None:
        self.state = GanTrainState.build(hparams, CPU, 0.0)

    def cosines(self, state: GanTrainState, inputs: tuple[Batch, Tensor, Noise]) -> tuple[float, float]:
        """Cosines of the gradients of G and of D in the state's precision with those in float32."""
        self.state.synthesizer.load_state_dict(state.synthesizer.state_dict())
        self.state.discriminators.load_state_dict(state.discriminators.state_dict())
        found = [self._gradients(precision, inputs) for precision in (state.precision, state.precision.fp32())]
        g, d = (cosine(short, full) for short, full in zip(*found, strict=True))
        return g, d

    def _gradients(self, precision: Precision, inputs: tuple[Batch, Tensor, Noise]) -> tuple[Tensor, Tensor]:
        self.state.set_precision(precision)
        training_step(self.state, *inputs)
        return flat_gradient(self.state.synthesizer), flat_gradient(self.state.discriminators)


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """All gradients of a model in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def cosine(ours: Tensor, theirs: Tensor) -> float:
    """Cosine of the angle between two gradients, in float64: float32 sums of so many terms are not exact enough."""
    ours, theirs = ours.double(), theirs.double()
    return float(ours @ theirs / (ours.norm() * theirs.norm()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, help="a preprocessed v2 40k folder; by default synthetic clips")
    parser.add_argument("--after", type=int, nargs="*", default=[24], help="steps after which to measure again")
    parser.add_argument("--precision", choices=["auto", "bf16"], default="auto")
    options = parser.parse_args()
    precision = Precision.choose(options.precision, CPU)
    if precision.name == "fp32":
        return  # nothing to compare
    hparams = Hyperparameters.from_config(TrainingConfig())
    with tempfile.TemporaryDirectory() as name:
        prepared = options.prepared or Path(name)
        if options.prepared is None:
            write_clips(prepared, hparams, 16, 3.7)
        clips, _ = list_clips(Workspace(prepared, "bench"), hparams)
        steps = Steps(clips, hparams)
        torch.manual_seed(0)
        state, probe = GanTrainState.build(hparams, CPU, 1e-4, precision), Probe(hparams)
        kind = "real" if options.prepared else "synthetic"
        source = f"{len(clips)} {kind} clips, batch {BATCH_SIZE}, no base weights"
        for step in range(max(options.after, default=0) + 1):
            inputs = steps.inputs(step)
            if step in {0, *options.after}:
                for model, value in zip("GD", probe.cosines(state, inputs), strict=True):
                    notes = f"cosine to float32's over all of {model}, v2 40k f0, {source}; should be above 0.999"
                    print_line(f"gradient of {model} in {precision.name}, step {step}", value, 1.0, "cosine", notes)
            training_step(state, *inputs)


if __name__ == "__main__":
    main()
