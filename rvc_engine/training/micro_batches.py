"""Micro-batches of a global batch, made smaller when memory runs out.

The sum of the micro-batches' gradients is the whole batch's, so smaller ones cost time and nothing else.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.process_group import SINGLE_PROCESS, DistributedContext
from rvc_engine.errors import GpuOutOfMemory

T = TypeVar("T")


class MicroBatcher:
    """The micro-batch size of a rank. Halved for good when memory runs out."""

    def __init__(
        self, limit: int, distributed: DistributedContext = SINGLE_PROCESS, warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self.limit, self.distributed, self._warn = limit, distributed, warn

    def attempt(self, num_clips: int, backward: Callable[[int], T], step: Callable[[T], object]) -> None:
        """Run half a step: `backward(limit)` accumulates gradients, `step(result)` changes the weights.

        When memory runs out in `backward` on any rank, all ranks run it again with half the limit; it must start
        anew each time. `step` runs once. `num_clips` is the global batch's. Raises GpuOutOfMemory when
        single clips do not fit.
        """
        while True:
            results: list[T] = []
            is_oom = _runs_out_of_memory(lambda into=results: into.append(backward(self.limit)))  # type: ignore[misc]
            if not self.distributed.all_reduce_any(is_oom):
                # Alone, this may be tried again too: the optimizer's kernel takes no memory once it has begun.
                is_oom = _runs_out_of_memory(lambda of=results: step(of[0]), self.distributed.world_size == 1)  # type: ignore[misc]
                if not is_oom:
                    return
            del results
            self._reduce_limit(self.distributed.max_shard_size(num_clips))

    def _reduce_limit(self, most_clips: int) -> None:
        clips = min(self.limit, most_clips)
        if clips == 1:
            raise GpuOutOfMemory(
                "the device ran out of memory with a single clip at a time; free it of other programs, set "
                "gradient_checkpointing=true, or use precision=bf16 or a smaller width"
            )
        self.limit = clips // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn(
            f"the device ran out of memory with {clips} clips at a time; going on with {self.limit} at a time and "
            "gradients added up, so that the batch stays as large as it was"
        )


def _runs_out_of_memory(work: Callable[[], object], may_retry: bool = True) -> bool:
    """True on out of memory. Returns outside the except block, so that the traceback with the graph is freed."""
    try:
        work()
    except RuntimeError as error:
        if not (may_retry and is_out_of_memory(error)):
            raise
        return True
    return False
