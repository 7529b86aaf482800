"""Numbers are told in their order, when they are there, and nobody waits for them before."""

import pytest
import torch

from rvc_engine.training.metrics import STEPS_UNDER_WAY, Readings


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

    def mark(_: Readings) -> Mark:
        made.append(Mark())
        return made[-1]

    monkeypatch.setattr(Readings, "_mark", mark)
    return made


def ahead() -> Readings:
    """Of a device whose work is not waited for; the copies themselves are the CPU's."""
    return Readings(torch.device("cuda"))


def test_on_the_cpu_a_number_is_told_at_once() -> None:
    told: list[list[float]] = []
    Readings(torch.device("cpu")).begin(torch.tensor([1.0, 2.0]), told.append)
    assert told == [[1.0, 2.0]]


def test_numbers_are_told_in_order_once_the_device_has_come_so_far(marks: list[Mark]) -> None:
    readings, told = ahead(), list[list[float]]()
    for number in range(3):
        readings.begin(torch.tensor([float(number)]), told.append)
    readings.look()
    assert told == []
    marks[0].is_reached = marks[2].is_reached = True
    readings.look()
    assert told == [[0.0]]
    assert not any(mark.was_waited_for for mark in marks)
    readings.wait()
    assert told == [[0.0], [1.0], [2.0]]


def test_what_is_forgotten_is_not_told(marks: list[Mark]) -> None:
    readings, told = ahead(), list[list[float]]()
    readings.begin(torch.tensor([1.0]), told.append)
    readings.forget()
    readings.wait()
    assert told == []
    assert len(marks) == 1


def test_the_host_runs_a_few_steps_ahead_and_no_further(marks: list[Mark]) -> None:
    readings = ahead()
    for _ in range(STEPS_UNDER_WAY + 2):
        readings.end_step()
    assert [mark.was_waited_for for mark in marks] == [True, True] + [False] * STEPS_UNDER_WAY
