"""Checkpoints written while training continues: the state is copied between two steps, a thread writes it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil
import torch
from torch import Tensor

from rvc_engine.checkpoints.io import tensor_bytes

T = TypeVar("T")

MAX_COPY_FRACTION = 0.25
"""Largest share of free memory for a copy of the state; a larger state is written before training continues."""


BLOCK_BYTES = 2**26
"""A power of two, to which PyTorch rounds pinned memory up."""
ALIGNMENT = 64


class AsyncCheckpointer:
    """Writer of one checkpoint at a time, in a thread. Its errors are raised at the next `submit`, `poll` or `wait`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "saver")
        self._on_finished: Callable[[], None] | None = None
        self._future: Future[Any] | None = None

    def submit(self, tree: Any, write: Callable[[Any], T], on_done: Callable[[T], None]) -> None:
        """Save `tree` as it is now with `write`; `on_done(result)` runs on the caller's thread, at `poll` or `wait`.

        Waits for the previous write. Writes at once, in this thread, where memory is short for a copy of the tree.
        """
        self.wait()
        snapshot = _host_copy(tree)
        if snapshot is None:
            on_done(write(tree))
            return
        future = self._future = self._pool.submit(lambda: write(snapshot()))
        self._on_finished = lambda: on_done(future.result())

    def poll(self) -> None:
        """Run `on_done` of a finished write. Raises the error of a failed one."""
        if self._future is not None and self._future.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the current write and run its `on_done`. Raises the error of a failed one."""
        on_finished, self._on_finished, self._future = self._on_finished, None, None
        if on_finished is not None:
            on_finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Wait for the thread. An error of the `with` block takes precedence over one of the write."""
        try:
            with suppress(*() if kind is None else (Exception,)):
                self.wait()
        finally:
            self._pool.shutdown()


def _host_copy(tree: Any) -> Callable[[], Any] | None:
    """Function that returns the tree as it is now, tensors in host memory; None where memory is short.

    On CUDA the copies are queued behind the current work, and the returned function waits for them, not this one.
    """
    if tensor_bytes(tree) > MAX_COPY_FRACTION * psutil.virtual_memory().available:
        return None
    device = _cuda_device(tree)
    if device is None:
        copied = _copy_tensors(tree, lambda tensor: tensor.clone())
        return lambda: copied
    staging = StagingMemory(lambda count: torch.empty(count, dtype=torch.uint8, pin_memory=True))
    copied = _copy_tensors(tree, staging.copy)
    copies_done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copies_done.record(torch.cuda.current_stream(device))

    def wait_for_copies() -> Any:
        copies_done.synchronize()
        return copied

    return wait_for_copies


def _cuda_device(tree: Any) -> torch.device | None:
    """CUDA device of the tree's tensors, which share one; None for a tree on the CPU."""
    if isinstance(tree, Tensor):
        return tree.device if tree.is_cuda else None
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return next(filter(None, map(_cuda_device, parts)), None)


class StagingMemory:
    """Pinned memory for copies of many tensors, in a few blocks.

    To pin memory takes the driver some time, whatever its size, and PyTorch rounds it up to a power of two: for each of
    a state's thousands of tensors that would be a second, and up to twice the memory.
    """

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        """`allocate` makes a block of so many bytes."""
        self._allocate = allocate
        self._block = memoryview(b"")
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor, contiguous, in memory that it shares with none; filled without waiting."""
        count = tensor.numel() * tensor.element_size()
        if not count:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + count > len(self._block):
            self._block, start = memoryview(self._allocate(max(BLOCK_BYTES, count)).numpy().data), 0
        self._used = start + count
        # A tensor of its own over a part of the block: of views into one, a file would hold the whole for each.
        copied = torch.frombuffer(self._block, dtype=tensor.dtype, count=tensor.numel(), offset=start)
        return copied.view(tensor.shape).copy_(tensor, non_blocking=True)


def _copy_tensors(tree: Any, copy_tensor: Callable[[Tensor], Tensor]) -> Any:
    """Copy of the tree and its tensors."""
    if isinstance(tree, Tensor):
        return copy_tensor(tree.detach())
    if isinstance(tree, dict):
        copied = copy(tree)  # a state dict carries more than its items
        copied.update((key, _copy_tensors(value, copy_tensor)) for key, value in tree.items())
        return copied
    return type(tree)(_copy_tensors(part, copy_tensor) for part in tree) if isinstance(tree, list | tuple) else tree
