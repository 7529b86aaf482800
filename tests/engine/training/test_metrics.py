"""Numbers are told in their order, when they are there, and nobody waits for them before."""

import pytest
import torch

from rvc_engine.training.metrics import MAX_STEPS_IN_FLIGHT, AsyncMetricReader


class Mark:
    """A point in a device's work that it has reached, or not yet."""

    def __init__(self) -> None:
        self.is_reached = False
        self.was_waited_for = False

    def query(self) -> bool:
        return self.is_reached

    def synchronize(self) -> None:
        self.is_reached = self.was_waited_for = True


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> list[Mark]:
    made: list[Mark] = []

    def mark(_: AsyncMetricReader) -> Mark:
        made.append(Mark())
        return made[-1]

    monkeypatch.setattr(AsyncMetricReader, "_record_event", mark)
    return made


def ahead() -> AsyncMetricReader:
    """Of a device whose work is not waited for; the copies themselves are the CPU's."""
    return AsyncMetricReader(torch.device("cuda"))


def test_on_the_cpu_a_number_is_told_at_once() -> None:
    told: list[list[float]] = []
    AsyncMetricReader(torch.device("cpu")).submit(torch.tensor([1.0, 2.0]), told.append)
    assert told == [[1.0, 2.0]]


def test_numbers_are_told_in_order_once_the_device_has_come_so_far(marks: list[Mark]) -> None:
    readings, told = ahead(), list[list[float]]()
    for number in range(3):
        readings.submit(torch.tensor([float(number)]), told.append)
    readings.poll()
    assert told == []
    marks[0].is_reached = marks[2].is_reached = True
    readings.poll()
    assert told == [[0.0]]
    assert not any(mark.was_waited_for for mark in marks)
    readings.flush()
    assert told == [[0.0], [1.0], [2.0]]


def test_what_is_forgotten_is_not_told(marks: list[Mark]) -> None:
    readings, told = ahead(), list[list[float]]()
    readings.submit(torch.tensor([1.0]), told.append)
    readings.discard()
    readings.flush()
    assert told == []
    assert len(marks) == 1


def test_the_host_runs_a_few_steps_ahead_and_no_further(marks: list[Mark]) -> None:
    readings = ahead()
    for _ in range(MAX_STEPS_IN_FLIGHT + 2):
        readings.throttle()
    assert [mark.was_waited_for for mark in marks] == [True, True] + [False] * MAX_STEPS_IN_FLIGHT
