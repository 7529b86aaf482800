"""Map over pieces of work in threads."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from rvc_engine.compute.parallel import LOOK_AHEAD, _num_calls, map_ordered
from rvc_engine.errors import StopRequested


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """PyTorch with four threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces_whichever_ends_first() -> None:
    def work(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    assert list(map_ordered(work, range(20), 1)) == list(range(20))


@pytest.mark.parametrize(("threads_per_call", "calls"), [(1, 4), (2, 2), (3, 1), (8, 1), (None, 1)])
def test_as_many_pieces_are_at_work_as_there_are_threads_for(threads_per_call: int | None, calls: int) -> None:
    barrier = threading.Barrier(calls)
    at_work, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        barrier.wait(10)
        with lock:
            at_work -= 1
        return torch.get_num_threads()

    assert set(map_ordered(work, range(4 * calls), threads_per_call)) == {4 // calls}
    assert most == calls


@pytest.mark.parametrize(
    ("threads", "threads_per_call", "pieces", "calls"),
    [
        (2, 1, 9, 2),
        (16, 1, 99, 16),
        (24, 1, 99, 12),
        (31, 1, 99, 15),
        (16, 1, 3, 3),
        (16, 4, 99, 4),
        (2, 4, 9, 1),
        (4, 1, 0, 1),
    ],
)
def test_few_threads_are_left_idle(threads: int, threads_per_call: int, pieces: int, calls: int) -> None:
    assert _num_calls(threads, threads_per_call, pieces) == calls


def test_threads_of_later_work_are_as_before() -> None:
    list(map_ordered(abs, range(4), 1))
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), seen) == (4, [4])


def test_a_piece_that_fails_ends_all_and_no_further_one_begins() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        list(map_ordered(work, range(1000), 1))
    assert max(begun) <= 3 + LOOK_AHEAD * 4


def test_a_stop_is_raised_while_a_long_piece_runs() -> None:
    finish = threading.Event()

    def stop() -> None:
        finish.set()
        raise StopRequested

    begun = []

    def work(number: int) -> None:
        begun.append(number)
        assert finish.wait(30)

    with pytest.raises(StopRequested):
        list(map_ordered(work, range(100), 1, stop))
    assert len(begun) <= LOOK_AHEAD * 4
