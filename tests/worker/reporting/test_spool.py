"""Events that wait for the database keep their order; a long backlog is on disk."""

from pathlib import Path

from rvc_engine.events import Progress
from worker.reporting.spool import Spool


def event(number: int) -> Progress:
    return Progress(stage="train", stage_progress=0.5, progress=0.5, step=number)


def taken(spool: Spool, most: int = 10**9) -> list[int]:
    steps = []
    while (front := spool.front()) and len(steps) < most:
        steps.append(front.popleft().step)
    return steps


def test_a_few_events_never_touch_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", in_memory=10)
    for number in range(10):
        spool.add(event(number))
    assert not (tmp_path / "spool").exists()
    assert taken(spool) == list(range(10))


def test_thousands_of_events_come_back_in_order_and_memory_holds_only_the_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", in_memory=10)
    for number in range(5000):
        spool.add(event(number))
        assert len(spool._front) + len(spool._back) <= 10
    first = taken(spool, 25)
    for number in range(5000, 5100):
        spool.add(event(number))
        assert len(spool._front) + len(spool._back) <= 10
    assert first + taken(spool) == list(range(5100))
    assert not (tmp_path / "spool").exists()


def test_a_disk_that_takes_nothing_costs_memory_and_no_event(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()  # a folder: no file can be opened there
    spool = Spool(tmp_path / "spool", in_memory=10)
    for number in range(50):
        spool.add(event(number))
    assert taken(spool) == list(range(50))


def test_closing_leaves_no_file_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", in_memory=1)
    for number in range(5):
        spool.add(event(number))
    assert (tmp_path / "spool").exists()
    spool.close()
    assert not (tmp_path / "spool").exists()
    assert not spool.front()
