"""Map of a function over independent pieces of work, in threads on the CPU.

WORLD's code, onnxruntime and PyTorch's operators release the interpreter's lock. Models gain by it too: operators that
do not divide well among threads within one batch run side by side for several batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

MAX_CALLS = 16
"""Limit of pieces at once: each has its own activations in memory. PyTorch's threads are divided among them."""
LOOK_AHEAD = 2
"""Pieces running or queued for each thread, so that none is idle while the caller is slow to take a result."""
POLL_SECONDS = 0.25

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def map_ordered(
    work: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    threads_per_call: int | None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Map `work` over pieces in threads; results are in the pieces' order. Raises a piece's error in its place.

    PyTorch's thread count over `threads_per_call` is the number of pieces at once; None is for a GPU: one at a time.
    `while_waiting` is called in the caller's thread while it waits for a result, and may raise to stop. Then, or when
    the caller takes no more results, no further piece begins, and those that run are waited for.
    """
    threads = torch.get_num_threads()
    calls = _num_calls(threads, threads_per_call, len(pieces))
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(calls, "piece", torch.set_num_threads, (threads // calls,)) as pool:
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, piece))
                if len(waiting) >= LOOK_AHEAD * calls:
                    yield _await_result(waiting.popleft(), while_waiting)
            while waiting:
                yield _await_result(waiting.popleft(), while_waiting)
        finally:
            try:
                pool.shutdown(cancel_futures=True)
            finally:
                torch.set_num_threads(threads)  # setting it in a thread has set the default of later threads too


def _num_calls(threads: int, threads_per_call: int | None, num_pieces: int) -> int:
    """Number of pieces at once: as many as there are threads for, or fewer where that leaves fewer threads idle."""
    if threads_per_call is None:
        return 1
    most = max(1, min(MAX_CALLS, threads // threads_per_call, num_pieces))
    fewer = threads // -(-threads // most)
    is_idle = most * (threads // most) < fewer * (threads // fewer)
    return fewer if is_idle and most < num_pieces else most


def _await_result(future: Future[Result], while_waiting: Callable[[], None]) -> Result:
    while not wait([future], POLL_SECONDS).done:
        while_waiting()
    return future.result()
