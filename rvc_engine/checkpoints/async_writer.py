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
    copied, device = _copy_tensors(tree), _cuda_device(tree)
    if device is None:
        return lambda: copied
    copies_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
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


def _copy_tensors(tree: Any) -> Any:
    """Copy of the tree and its tensors; from CUDA into pinned memory, without waiting."""
    if isinstance(tree, Tensor):
        value = tree.detach()
        return value.to("cpu", non_blocking=True) if value.is_cuda else value.clone()
    if isinstance(tree, dict):
        copied = copy(tree)  # a state dict carries more than its items
        copied.update((key, _copy_tensors(value)) for key, value in tree.items())
        return copied
    return type(tree)(map(_copy_tensors, tree)) if isinstance(tree, list | tuple) else tree
