"""Metrics are read in order once the device has computed them, and the host does not wait for them."""

import pytest
import torch

from rvc_engine.training.metrics import MAX_STEPS_IN_FLIGHT, AsyncMetricReader


class FakeEvent:
    """A CUDA event that the device has reached, or not yet."""

    def __init__(self) -> None:
        self.is_reached = False
        self.was_waited_for = False

    def query(self) -> bool:
        return self.is_reached

    def synchronize(self) -> None:
        self.is_reached = self.was_waited_for = True


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[FakeEvent]:
    recorded: list[FakeEvent] = []

    def record(_: AsyncMetricReader[int]) -> FakeEvent:
        recorded.append(FakeEvent())
        return recorded[-1]

    monkeypatch.setattr(AsyncMetricReader, "_record_event", record)
    return recorded


def reader_on_cuda() -> AsyncMetricReader[int]:
    """A reader that does not wait for its device; the copies themselves are made on the CPU."""
    return AsyncMetricReader(torch.device("cuda"))


def test_on_the_cpu_a_read_is_complete_at_once() -> None:
    reader = AsyncMetricReader[str](torch.device("cpu"))
    values = torch.tensor([1.0, 2.0])
    reader.submit("first", values)
    values.zero_()  # a submitted read keeps the values of its time
    assert reader.poll() == [("first", [1.0, 2.0])]
    assert reader.poll() == []


def test_completed_reads_are_returned_in_order_and_once(events: list[FakeEvent]) -> None:
    reader = reader_on_cuda()
    for number in range(3):
        reader.submit(number, torch.tensor([float(number)]))
    assert reader.poll() == []
    events[0].is_reached = events[2].is_reached = True
    assert reader.poll() == [(0, [0.0])]
    assert not any(event.was_waited_for for event in events)
    assert reader.flush() == [(1, [1.0]), (2, [2.0])]


def test_discarded_reads_are_not_returned(events: list[FakeEvent]) -> None:
    reader = reader_on_cuda()
    reader.submit(1, torch.tensor([1.0]))
    reader.discard()
    assert reader.flush() == []
    assert len(events) == 1


def test_the_host_runs_a_few_steps_ahead_and_no_further(events: list[FakeEvent]) -> None:
    reader = reader_on_cuda()
    for _ in range(MAX_STEPS_IN_FLIGHT + 2):
        reader.throttle()
    assert [event.was_waited_for for event in events] == [True, True] + [False] * MAX_STEPS_IN_FLIGHT


def test_a_thread_that_waits_for_the_device_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    class Event(FakeEvent):
        def __init__(self, *, blocking: bool = False) -> None:
            super().__init__()
            asked.append(blocking)

        def record(self, _: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    reader_on_cuda().throttle()
    assert asked == [True]  # otherwise the wait takes a whole core of each engine
