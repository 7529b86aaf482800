"""Data-parallel training over torch.distributed; a single process is the usual case.

Every rank holds the same models and computes gradients of its shard of each effective batch; they are summed, so that
all ranks take the same step. Decisions (stop, save, out of memory) are reduced over all ranks before any rank acts:
otherwise the others would wait forever for the one that left.
"""

import math
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rvc_engine.compute.out_of_memory import is_out_of_memory

T = TypeVar("T")

TIMEOUT = timedelta(minutes=15)
"""Time that a rank waits for the others: longer than any save, evaluation or measurement takes."""


class PeerFailure(Exception):
    """Another rank has ended or does not respond, so that this one cannot continue."""


class DistributedContext:
    """Rank and size of the training's process group, and its collectives. A single process communicates nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.world_size = rank, size

    @classmethod
    def init(cls, device: torch.device) -> "DistributedContext":
        """Join torchrun's process group: gloo for decisions and CPU gradients, NCCL for CUDA gradients.

        Where PyTorch was built without NCCL, as on Windows, gloo sums those too. NCCL connects here, and not in the
        first step: the memory for that (0.3 to 1 GB) is then taken before a batch size is measured.
        """
        is_cuda = device.type == "cuda"
        if is_cuda and dist.is_nccl_available():
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, device_id=device)
        else:
            dist.init_process_group("cpu:gloo,cuda:gloo" if is_cuda else "gloo", timeout=TIMEOUT)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and reports."""
        return self.rank == 0

    def shard(self, clips: Sequence[int]) -> slice:
        """This rank's clips of a global batch: every world_size-th, as neighbours have similar lengths; maybe none."""
        return slice(self.rank, len(clips), self.world_size)

    def max_shard_size(self, num_clips: int) -> int:
        """Number of clips in the largest shard."""
        return math.ceil(num_clips / self.world_size)

    def all_reduce_flags(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is true on any rank."""
        if self.world_size == 1:
            return list(flags)
        return [value > 0 for value in self._all_reduce([float(flag) for flag in flags], dist.ReduceOp.MAX)]

    def all_reduce_any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return self.all_reduce_flags([flag])[0]

    def all_reduce_min(self, value: int) -> int:
        """The smallest value over all ranks."""
        return value if self.world_size == 1 else int(self._all_reduce([float(value)], dist.ReduceOp.MIN)[0])

    def _all_reduce(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        """Reduce on the CPU, without waiting for a GPU."""
        tensor = torch.tensor(values, dtype=torch.float64)
        _translate_peer_failure(lambda: dist.all_reduce(tensor, operation))
        return tensor.tolist()

    def broadcast_object(self, make: Callable[[], T]) -> T:
        """Broadcast the result of `make` on rank 0, for which the others wait."""
        if self.world_size == 1:
            return make()
        made: list[Any] = [make() if self.is_main else None]
        _translate_peer_failure(lambda: dist.broadcast_object_list(made))
        return made[0]  # type: ignore[no-any-return]

    def flatten_gradients(self, model: nn.Module, losses: Tensor) -> Tensor | None:
        """Flatten this rank's gradients and losses for `all_reduce_gradients`; None for a single process.

        A step of its own because it allocates: a rank that cannot must report it before the others wait.
        """
        if self.world_size == 1:
            return None
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()]
        return torch.cat([*parts, losses.to(parts[0].dtype)])

    def all_reduce_gradients(self, model: nn.Module, losses: Tensor, flat: Tensor | None) -> Tensor:
        """Sum gradients over all ranks into the model; returns the sum of their losses, of the shape of `losses`."""
        if flat is None:
            return losses
        self.sum_over_ranks(flat)
        return self.set_gradients(model, losses, flat)

    def sum_over_ranks(self, flat: Tensor) -> None:
        """Sum flattened gradients over all ranks, in place."""
        _translate_peer_failure(lambda: dist.all_reduce(flat))

    @staticmethod
    def set_gradients(model: nn.Module, losses: Tensor, flat: Tensor) -> Tensor:
        """Set a model's gradients to views of flattened ones; returns the losses beside them, like `losses`."""
        position = 0
        for p in model.parameters():
            p.grad = flat[position : position + p.numel()].view_as(p)
            position += p.numel()
        return flat[position:].to(losses.dtype)


SINGLE_PROCESS = DistributedContext()


def _translate_peer_failure(work: Callable[[], object]) -> None:
    """Run a collective. Raises PeerFailure in place of the RuntimeError that a lost peer causes."""
    try:
        work()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PeerFailure(str(error)) from error


def local_rank() -> int:
    """Rank of this process among those of this machine, as torchrun set it."""
    return int(os.environ["LOCAL_RANK"])
