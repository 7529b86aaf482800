"""Cosine of 16-bit gradients and float32 gradients, over all of G and all of D, as JSON lines.

Full-size models from scratch, at the start and after some training steps; synthetic clips, or with `--prepared` those
of a preprocessed v2 40k folder. `--rules gpu` measures the formats of GPUs on any machine, from a training in float32:
the layers are those that run on a GPU, and convolutions round as there, to 16 bits what comes in and goes out, with
sums in float32.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.overrides import TorchFunctionMode

from benchmarks.lines import print_line
from benchmarks.made_up_clips import write_clips
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import ClipFiles, epoch_batches, list_clips, load_clip
from rvc_engine.data.loader import pad
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.backend import PYTORCH, Backend, use_backend
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.step import draw_starts, training_step
from rvc_engine.workspace.layout import Workspace

BATCH_SIZE = 4
CPU = torch.device("cpu")


class Steps:
    """Inputs of the steps of a training, without an end."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters, batch_size: int = BATCH_SIZE) -> None:
        self.clips, self.hparams, self.batch_size = clips, hparams, batch_size

    def inputs(self, step: int) -> tuple[Batch, Tensor, Noise]:
        """Batch, segment starts and noise of a step."""
        lengths = [clip.frames for clip in self.clips]
        per_epoch = -(-len(lengths) // self.batch_size)
        chosen = epoch_batches(lengths, self.batch_size, 0, step // per_epoch)[step % per_epoch]
        loaded = [load_clip(self.clips[clip]) for clip in chosen]
        batch = pad(loaded, max(clip.frames for clip in loaded), self.hparams).batch(self.hparams)
        rng = torch.Generator().manual_seed(step)
        starts = draw_starts(batch.lengths, self.hparams.segment_frames, rng)
        return batch, starts, Noise.draw(self.hparams, len(chosen), batch.spec.shape[2], rng)


class _ThroughoutBackend(Backend):
    """bfloat16 in the sensitive layers too."""

    def run_sensitive(self, layer: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        """Run a layer in the format that is set."""
        return layer(x, *others)

    def residual_sum(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x

    def cached_weight(self, weight: Tensor, dtype: torch.dtype | None, keep_fp32: bool) -> Tensor:
        """The weight in the 16-bit format."""
        return weight.to(dtype or weight.dtype)


GPU_RULES: dict[str, tuple[Precision, Backend]] = {
    "fp16": (Precision("fp16", "cpu"), PYTORCH),
    "bf16": (Precision("bf16", "cpu"), PYTORCH),
    "bf16 throughout": (Precision("bf16", "cpu"), _ThroughoutBackend()),
}
"""The formats of GPUs."""
PROBE_SCALE = 64.0
"""Loss scale that a probe in float16 begins with. Where gradients overflow it is halved, as in a run."""


class _RoundedConvolution(torch.autograd.Function):
    """A convolution of 16-bit tensors as a GPU computes it: products and sums in float32, results rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        """Convolve x with weight and bias, all of one 16-bit format, as is the result."""
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.bias_sizes = options, None if bias is None else [len(bias)]
        wide = None if bias is None else bias.float()
        return torch.ops.aten.convolution(x.float(), weight.float(), wide, *options).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        mask = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(
            gradients[0].float(), x.float(), weight.float(), ctx.bias_sizes, *ctx.options, mask
        )
        return *(None if part is None else part.to(x.dtype) for part in found), *[None] * len(ctx.options)


class _GpuConvolutions(TorchFunctionMode):
    """Convolutions inside autocast round as on a GPU; a CPU's own in float16 take minutes for a step."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, a convolution by another way."""
        if func not in {F.conv1d, F.conv2d, F.conv_transpose1d} or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        x, weight, bias, *rest = args
        dtype = torch.get_autocast_dtype("cpu")
        one, dims = [1] * (x.ndim - 2), x.ndim - 2
        stride, padding, dilation, groups = [*rest, *[1, 0, 1, 1][len(rest) :]]
        stride, padding, dilation = (
            [each] * dims if isinstance(each, int) else each for each in (stride, padding, dilation)
        )
        is_transposed = func is F.conv_transpose1d
        options = (stride, padding, one if is_transposed else dilation, is_transposed, [0] * dims, groups)
        bias = None if bias is None else bias.to(dtype)
        return _RoundedConvolution.apply(x.to(dtype), weight.to(dtype), bias, *options)


class Probe:
    """Models with a learning rate of 0, for computing gradients."""

    def __init__(self, hparams: Hyperparameters, rules: str) -> None:
        self.state, self._is_gpu = GanTrainState.build(hparams, CPU, 0.0), rules == "gpu"

    def cosines(
        self, state: GanTrainState, inputs: tuple[Batch, Tensor, Noise], precision: Precision
    ) -> dict[str, tuple[float, float]]:
        """Cosines of the gradients of G and of D with those in float32, by format: a GPU's, or `precision`."""
        self.state.synthesizer.load_state_dict(state.synthesizer.state_dict())
        self.state.discriminators.load_state_dict(state.discriminators.state_dict())
        exact = self._gradients(precision.fp32(), inputs)
        found = {}
        for name, (each, backend) in (GPU_RULES if self._is_gpu else {precision.name: (precision, None)}).items():
            if backend is not None:
                use_backend(self.state.synthesizer, backend)
                use_backend(self.state.discriminators, backend)
            g, d = map(cosine, self._gradients(each, inputs), exact)
            found[name] = g, d
        return found

    def _gradients(self, precision: Precision, inputs: tuple[Batch, Tensor, Noise]) -> tuple[Tensor, Tensor]:
        self.state.set_precision(precision)
        if precision.name == "fp16":
            self.state.generator_scaler = GradScaler("cpu", PROBE_SCALE)
            self.state.discriminator_scaler = GradScaler("cpu", PROBE_SCALE)
        convolutions: AbstractContextManager[Any] = _GpuConvolutions() if self._is_gpu else nullcontext()
        with convolutions:
            while not bool(training_step(self.state, *inputs).stacked().isfinite().all()):
                assert precision.name == "fp16", "the gradients are not finite"
        return flat_gradient(self.state.synthesizer), flat_gradient(self.state.discriminators)


def flat_gradient(model: torch.nn.Module) -> Tensor:
    """All gradients of a model in one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def cosine(ours: Tensor, theirs: Tensor) -> float:
    """Cosine of the angle between two gradients, in float64: float32 sums of so many terms are not exact enough."""
    ours, theirs = ours.double(), theirs.double()
    return float(ours @ theirs / (ours.norm() * theirs.norm()))


def measure(clips: Sequence[ClipFiles], hparams: Hyperparameters, options: argparse.Namespace, seed: int) -> None:
    """Train from scratch with a seed, and print the cosines at the start and after some steps."""
    steps, is_gpu = Steps(clips, hparams, options.batch_size), options.rules == "gpu"
    precision = Precision.choose("fp32" if is_gpu else options.precision, CPU)
    torch.manual_seed(seed)
    state, probe = GanTrainState.build(hparams, CPU, 1e-4, precision), Probe(hparams, options.rules)
    kind = "real" if options.prepared else "synthetic"
    source = (
        f"{len(clips)} {kind} clips, batch {options.batch_size}, width {options.width}, seed {seed}, no base weights"
    )
    for step in range(max(options.after, default=0) + 1):
        inputs = steps.inputs(step + 1000 * seed)
        if step in {0, *options.after}:
            for name, values in probe.cosines(state, inputs, precision).items():
                for model, value in zip("GD", values, strict=True):
                    title = f"gradient of {model} in {name}{' by the rules of GPUs' if is_gpu else ''}, step {step}"
                    notes = f"cosine to float32's over all of {model}, v2 40k f0, {source}; should be above 0.999"
                    print_line(title, value, 1.0, "cosine", notes)
        training_step(state, *inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, help="a preprocessed v2 40k folder; by default synthetic clips")
    parser.add_argument("--after", type=int, nargs="*", default=[24], help="steps after which to measure again")
    parser.add_argument("--precision", choices=["auto", "bf16"], default="auto", help="the CPU's format")
    parser.add_argument("--rules", choices=["cpu", "gpu"], default="cpu", help="whose formats and layers")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--width", type=int, default=192, help="192 is the published size")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    options = parser.parse_args()
    if options.rules == "cpu" and Precision.choose(options.precision, CPU).name == "fp32":
        return  # nothing to compare
    hparams = Hyperparameters.from_config(TrainingConfig(width=options.width, pretrained="none"))
    with tempfile.TemporaryDirectory() as name:
        prepared = options.prepared or Path(name)
        if options.prepared is None:
            write_clips(prepared, hparams, 16, 3.7)
        clips, _ = list_clips(Workspace(prepared, "bench"), hparams)
        for seed in options.seeds:
            measure(clips, hparams, options, seed)


if __name__ == "__main__":
    main()
