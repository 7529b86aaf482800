"""Threads of requests, in pools by what they may wait for, so that one slow thing stops no other.

Starlette's own pool serves what reads the database. Writes are apart: on a disk that syncs slowly each waits for the
commits before it. What waits for a disk itself is apart too: a sync of a full cache takes minutes, and a read from a
network folder may never end. Lists and jobs are answered meanwhile.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import anyio
from anyio.to_thread import run_sync

NUM_READERS = 16
"""Threads of Starlette's pool. More would only wait for each other: one at a time runs Python code."""
NUM_WRITERS = 12
NUM_DISK_THREADS = 12
NUM_THREADS = NUM_READERS + NUM_WRITERS + NUM_DISK_THREADS
_WRITERS = anyio.CapacityLimiter(NUM_WRITERS)
_DISK = anyio.CapacityLimiter(NUM_DISK_THREADS)

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

_M_ARENA_MAX = -8
_NUM_ARENAS = 2


def share_heaps() -> None:
    """Let all threads of this process share two heaps of the GNU C library; before any other thread is started.

    By default each of 16 threads or more (8 for each core) gets a heap of its own, and what was freed in one is of no
    use to the others: a server with 40 threads grew for an hour. mallopt(3); other C libraries are left as they are.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _NUM_ARENAS)


async def to_write(function: Callable[[Unpack[Arguments]], R], *arguments: *Arguments) -> R:
    """Run a function that writes to the database."""
    return await run_sync(function, *arguments, limiter=_WRITERS)


async def on_disk(function: Callable[[Unpack[Arguments]], R], *arguments: *Arguments) -> R:
    """Run a function that reads or writes files."""
    return await run_sync(function, *arguments, limiter=_DISK)
