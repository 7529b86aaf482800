"""Operations and memory of a training on a GPU, counted on any machine, as JSON lines.

Steps run on a device that computes nothing (`benchmarks.fake_device`). Operations are those of PyTorch's dispatcher
without views: about a kernel each. Memory is that of live tensors, at the peak of each phase of a training. With an
estimate of what comes on top, a line has the sizes of GPUs that are enough for a training on some minutes of speech.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar, get_args

import torch

from benchmarks.fake_device import FakeStep, LiveBytes, Operations, fake_device
from rvc_engine.compute.accelerators import CONTEXT_BYTES
from rvc_engine.compute.precision import FormatName
from rvc_engine.config import TrainingConfig
from rvc_engine.training.cuda_graphs import CapturedStep, GraphShape
from rvc_engine.training.step import training_pass

WORKSPACE_BYTES = 300 * 2**20
"""Workspaces of cuDNN, and gaps between blocks of memory: an estimate, which no GPU has confirmed."""
GPU_GIB = (4, 6, 8)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Peaks:
    """Bytes of live tensors at the peak of each phase, with weights, moments and inputs."""

    state: int
    """Between steps. After losses that are not finite the state is built again, once the old one is freed."""
    forward: int
    """The first pass of both models, before any backward pass."""
    step: int
    """A step, one kernel after another."""
    capture: int
    """The capture of its graph, whose memory is kept."""
    evaluation: int
    """The conversion of a held-out clip, without graphs."""

    @property
    def beside_graphs(self) -> int:
        """A step of another length, one kernel after another, beside the memory that graphs keep."""
        return self.step + self.capture - self.state


def peaks(step: FakeStep, limit: int, operations: Operations) -> Peaks:
    """Memory of each phase of a run that has taken a step; counts the operations of a step. Within `fake_device`."""
    state, inputs = step.state, step.inputs

    def peak(work: Callable[[], object]) -> int:
        state.generator_optimizer.zero_grad()
        memory = LiveBytes(step.tensors())
        with memory:
            work()
        return memory.peak

    def forward() -> None:
        with training_pass(state, state.synthesizer):
            output = state.synthesizer(*inputs.forward_arguments)
        with training_pass(state, state.discriminators):
            state.discriminate(torch.cat([inputs.real_segments(state.hparams), output.wave.detach()]))

    def take() -> None:
        with operations:
            step.take(limit)

    def capture() -> None:
        clips, frames = inputs.num_clips, inputs.batch.spec.shape[2]
        CapturedStep.capture(state, _RunningCapturer(), inputs, GraphShape(clips, frames, limit, clips))

    def evaluation() -> None:
        batch, frames = inputs.batch, inputs.batch.spec.shape[2]
        one = (each if each is None else each[:1] for each in (batch.features, batch.coarse_f0, batch.f0))
        source = inputs.batch.wave.new_empty(1, frames * state.hparams.hop_length) if state.hparams.f0 else None
        noise = inputs.noise.posterior[:1]
        with torch.no_grad():
            state.synthesizer.infer(*one, batch.lengths[:1], batch.speakers[:1], noise, source)

    return Peaks(peak(lambda: None), peak(forward), peak(take), peak(capture), peak(evaluation))


class _RunningCapturer:
    """Runs what is captured: on a GPU a capture takes the memory of a run."""

    def capture(self, work: Callable[[], Result]) -> Callable[[], Result]:
        result = work()
        return lambda: result


def needed_bytes(peak_bytes: int, config: TrainingConfig, minutes: float) -> int:
    """Memory of a GPU for a training with this peak, whose clips are kept on the device as well."""
    hop_length = config.sample_rate_hz // 100
    clips = minutes * 60 * 100 * (2 * config.feature_size + 4 * hop_length + (12 if config.f0 else 0))
    return peak_bytes + CONTEXT_BYTES + WORKSPACE_BYTES + int(clips)


def enough_gib(peak_bytes: int, config: TrainingConfig, minutes: float) -> list[int]:
    """The sizes of GPUs, in GiB, that have so much memory."""
    return [size for size in GPU_GIB if needed_bytes(peak_bytes, config, minutes) <= size * 2**30]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=list(get_args(FormatName)), choices=get_args(FormatName))
    parser.add_argument("--width", type=int, default=192, help="192 is the published size")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--micro-batch-size", type=int, help="by default the batch size")
    parser.add_argument("--frames", type=int, default=376, help="padded length of the clips")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--minutes", type=float, default=10.0, help="speech that is trained on")
    options = parser.parse_args()
    limit = options.micro_batch_size or options.batch_size
    config = TrainingConfig(
        width=options.width, pretrained="none", gradient_checkpointing=options.gradient_checkpointing
    )
    with fake_device():
        for number_format in options.formats:
            setting = {
                "format": number_format,
                "width": options.width,
                "clips": options.batch_size,
                "micro_batch": limit,
                "gradient_checkpointing": options.gradient_checkpointing,
            }
            step, operations = FakeStep.build(config, number_format, options.batch_size, options.frames), Operations()
            step.take(limit)  # makes the optimizers' state
            phases = peaks(step, limit, operations)
            line = {
                "operations": operations.num_kernels,
                "casts": operations.num_casts,
                "results_elsewhere": sum(operations.elsewhere.values()),
                "peak_gb": round(phases.step / 1e9, 3),
                "state_gb": round(phases.state / 1e9, 3),
            }
            print(json.dumps({"name": "training step on a GPU, counted", **setting, **line}), flush=True)
            line = {f"{name}_gb": round(value / 1e9, 3) for name, value in asdict(phases).items()}
            line |= {
                "beside_graphs_gb": round(phases.beside_graphs / 1e9, 3),
                "minutes": options.minutes,
                "enough_gib": enough_gib(phases.beside_graphs, config, options.minutes),
                "enough_gib_without_graphs": enough_gib(phases.step, config, options.minutes),
            }
            print(json.dumps({"name": "memory of a training on a GPU, counted", **setting, **line}), flush=True)


if __name__ == "__main__":
    main()
