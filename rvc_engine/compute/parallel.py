"""Independent pieces of work on the CPU's threads, several pieces at once.

WORLD's code, onnxruntime and PyTorch's operators let other Python threads run meanwhile. Nets gain by it
too: what does not divide well among threads within one batch does among batches.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

MAX_CALLS = 16
"""At once; each has its own activations in memory. What threads are left are divided among them."""
LOOK_AHEAD = 2
"""Pieces begun or waiting for each call, so that none idles while the one who asks is slow to take a result."""
SECONDS_BETWEEN_LOOKS = 0.25

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def map_ordered(
    work: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    threads_per_call: int | None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Map `work` over pieces in threads; the results in their order. Raises a piece's error when its turn comes.

    As many pieces are at work as PyTorch's thread count has room for, or one when `threads_per_call` is None, as for a
    GPU. `while_waiting` is called in the caller's thread while a result is awaited, and may raise, to stop:
    then, as whenever the caller takes no more, no further piece begins, and those begun are waited for.
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
                torch.set_num_threads(threads)  # setting it in a thread also sets what later threads begin with


def _num_calls(threads: int, threads_per_call: int | None, num_pieces: int) -> int:
    """As many pieces at once as there is room for; or somewhat fewer, where fewer threads are idle so."""
    if threads_per_call is None:
        return 1
    most = max(1, min(MAX_CALLS, threads // threads_per_call, num_pieces))
    fewer = threads // -(-threads // most)
    is_idle = most * (threads // most) < fewer * (threads // fewer)
    return fewer if is_idle and most < num_pieces else most


def _await_result(future: Future[Result], while_waiting: Callable[[], None]) -> Result:
    while not wait([future], SECONDS_BETWEEN_LOOKS).done:
        while_waiting()
    return future.result()
