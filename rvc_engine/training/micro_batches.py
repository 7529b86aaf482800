"""Size of a rank's micro-batches, halved when memory runs out.

The gradients of all micro-batches are summed, so smaller ones change the cost of a step and not its result.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rvc_engine.compute.accelerators import empty_cache
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.process_group import SINGLE_PROCESS, DistributedContext
from rvc_engine.errors import GpuOutOfMemory


class _RankOutOfMemory(RuntimeError):
    """Memory ran out on one of several ranks; raised on all of them."""


class MicroBatcher:
    """The micro-batch size of a rank, in clips."""

    def __init__(
        self,
        limit: int,
        distributed: DistributedContext = SINGLE_PROCESS,
        warn: Callable[[str], None] = lambda _: None,
        *,
        halves: bool = True,
    ) -> None:
        """`limit` clips at most in a micro-batch; `halves=False` raises the out-of-memory error instead."""
        self.limit, self.distributed, self._warn, self._halves = limit, distributed, warn, halves
        self.release: Callable[[], bool] = lambda: False
        """Frees memory that is held beside a step, which is then repeated as it was; False where there is none."""

    @contextmanager
    def synchronized(self) -> Iterator[None]:
        """Context of work that may run out of memory. An out-of-memory error on any rank is raised on all ranks.

        Without it the other ranks would wait forever for the gradients of the one that failed.
        """
        is_oom = False
        try:
            yield
        except RuntimeError as error:
            if self.distributed.world_size == 1 or not is_out_of_memory(error):
                raise
            is_oom = True
        if self.distributed.all_reduce_any(is_oom):
            raise _RankOutOfMemory("a rank ran out of memory")

    def can_retry(self, error: RuntimeError) -> bool:
        """Whether `error` is an out-of-memory error after which the work can be done again in smaller micro-batches.

        With several ranks these are the errors that `synchronized` raised on all of them. A single process repeats a
        failed optimizer step, too: the fused kernel allocates nothing once it has begun, so no weight has changed.
        """
        is_alone = self.distributed.world_size == 1
        return self._halves and (isinstance(error, _RankOutOfMemory) or (is_alone and is_out_of_memory(error)))

    def halve(self, num_clips: int) -> None:
        """Halve the limit for good and free cached memory; `num_clips` is the size of the global batch.

        Where other memory can be released, such as that of graphs, the limit stays. Raises GpuOutOfMemory when a
        micro-batch was a single clip already.
        """
        if self.release():
            free_cached_memory()
            return
        clips = min(self.limit, self.distributed.max_shard_size(num_clips))
        if clips == 1:
            raise GpuOutOfMemory(
                "the device ran out of memory with a single clip at a time; close other programs that use it, set "
                "gradient_checkpointing=true, or use precision=bf16 or a smaller width"
            )
        self.limit = clips // 2
        free_cached_memory()
        self._warn(
            f"the device ran out of memory with {clips} clips at a time; going on with {self.limit} at a time and "
            "summed gradients, so the effective batch size stays the same"
        )


def free_cached_memory() -> None:
    """Collect garbage and return PyTorch's cached memory to the device. The caller drops its tensors before."""
    gc.collect()
    empty_cache()
