"""Operations and memory of a training step on a GPU, counted on any machine, as JSON lines.

The step runs on a device that computes nothing (`benchmarks.fake_device`). Operations are those of PyTorch's dispatcher
without views: about a kernel each. Memory is that of live tensors; CUDA itself and cuDNN's workspaces come on top.
"""

import argparse
import json
from dataclasses import dataclass
from typing import get_args

from benchmarks.fake_device import FakeStep, LiveBytes, Operations, fake_device
from rvc_engine.compute.precision import FormatName
from rvc_engine.config import TrainingConfig


@dataclass(frozen=True)
class Counts:
    """Costs of a step."""

    kernels: int
    casts: int
    """Copies between number formats, among the kernels."""
    elsewhere: int
    """Results on another device."""
    peak_bytes: int
    state_bytes: int
    """Weights, moments and inputs, of the peak."""


def count(config: TrainingConfig, number_format: FormatName, clips: int, frames: int, limit: int) -> Counts:
    """Count the second step of a run: the first makes the optimizers' state. Within `fake_device`."""
    step = FakeStep.build(config, number_format, clips, frames)
    step.take(limit)
    step.state.generator_optimizer.zero_grad()
    memory, operations = LiveBytes(step.tensors()), Operations()
    state_bytes = memory.now
    with memory, operations:
        step.take(limit)
    elsewhere = sum(operations.elsewhere.values())
    return Counts(operations.num_kernels, operations.num_casts, elsewhere, memory.peak, state_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=list(get_args(FormatName)), choices=get_args(FormatName))
    parser.add_argument("--width", type=int, default=192, help="192 is the published size")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--micro-batch-size", type=int, help="by default the batch size")
    parser.add_argument("--frames", type=int, default=376, help="padded length of the clips")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    options = parser.parse_args()
    limit = options.micro_batch_size or options.batch_size
    config = TrainingConfig(
        width=options.width, pretrained="none", gradient_checkpointing=options.gradient_checkpointing
    )
    with fake_device():
        for number_format in options.formats:
            found = count(config, number_format, options.batch_size, options.frames, limit)
            line = {
                "name": "training step on a GPU, counted",
                "format": number_format,
                "width": options.width,
                "clips": options.batch_size,
                "micro_batch": limit,
                "gradient_checkpointing": options.gradient_checkpointing,
                "operations": found.kernels,
                "casts": found.casts,
                "results_elsewhere": found.elsewhere,
                "peak_gb": round(found.peak_bytes / 1e9, 3),
                "state_gb": round(found.state_bytes / 1e9, 3),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
