"""Files written while training goes on: a copy of the state is taken between two steps, a thread does the rest."""

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

SHARE_FOR_COPIES = 0.25
"""Of the machine's free memory, for a copy of what is being saved; what takes more is saved before training goes on."""


class BackgroundSaver:
    """One thread that writes one thing at a time. What it failed at is raised where it is next asked for."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "saver")
        self._end: Callable[[], None] | None = None
        self._job: Future[Any] | None = None

    def begin(self, tree: Any, write: Callable[[Any], T], then: Callable[[T], None]) -> None:
        """Let `write` save `tree` as it is now; `then` hears in this thread, at `look` or `wait`, what it made.

        Waits for what is still being written. Where memory is short for a copy of the tree it is written at once.
        """
        self.wait()
        as_now = _host_copy(tree)
        if as_now is None:
            then(write(tree))
            return
        job = self._job = self._pool.submit(lambda: write(as_now()))
        self._end = lambda: then(job.result())

    def look(self) -> None:
        """Tell of what has been written meanwhile. Raises what it failed at."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Come back when nothing is being written any more. Raises what it failed at."""
        end, self._end, self._job = self._end, None, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Wait for the thread; after an error, which is the news then, its own is not raised."""
        try:
            with suppress(*() if kind is None else (Exception,)):
                self.wait()
        finally:
            self._pool.shutdown()


def _host_copy(tree: Any) -> Callable[[], Any] | None:
    """What gives the tree as it is now, with its tensors in the machine's memory; None where that is short.

    On CUDA the copies follow the work that is under way, and the one who asks for them waits, not the caller of this.
    """
    if tensor_bytes(tree) > SHARE_FOR_COPIES * psutil.virtual_memory().available:
        return None
    copied, device = _copied(tree), _cuda_device(tree)
    if device is None:
        return lambda: copied
    copies_are_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copies_are_there.record(torch.cuda.current_stream(device))

    def when_there() -> Any:
        copies_are_there.synchronize()
        return copied

    return when_there


def _cuda_device(tree: Any) -> torch.device | None:
    """Where the tree's tensors are, if on CUDA: all on one device."""
    if isinstance(tree, Tensor):
        return tree.device if tree.is_cuda else None
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return next(filter(None, map(_cuda_device, parts)), None)


def _copied(tree: Any) -> Any:
    """The tree with tensors of its own; from CUDA into pinned memory, without waiting."""
    if isinstance(tree, Tensor):
        value = tree.detach()
        return value.to("cpu", non_blocking=True) if value.is_cuda else value.clone()
    if isinstance(tree, dict):
        copied = copy(tree)  # a state dict carries more than its items
        copied.update((key, _copied(value)) for key, value in tree.items())
        return copied
    return type(tree)(map(_copied, tree)) if isinstance(tree, list | tuple) else tree
