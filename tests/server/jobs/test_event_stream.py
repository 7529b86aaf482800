"""One poll serves all followers of a job, and each gets every event once, wherever it starts."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Event
from server.errors import NotFound
from server.job_store.queries import EventsPage
from server.jobs.event_stream import BATCH, WINDOW, EventBroadcaster

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class EventLog:
    """The growing list of a job's events."""

    def __init__(self, num_events: int = 0) -> None:
        self.status, self.num_events, self.num_reads = JobStatus.RUNNING, num_events, 0

    def read(self, job_id: str, after: int, limit: int) -> EventsPage:
        self.num_reads += 1
        seqs = range(after + 1, min(self.num_events, after + limit) + 1)
        fields: dict[str, Any] = {"job_number": 1, "type": "log", "level": "info", "data": {}, "attempt": 1}
        events = [Event(seq=seq, message=f"{seq}", created_at=NOW, **fields) for seq in seqs]
        return EventsPage(events, self.status, self.num_events)


async def follow(broadcaster: EventBroadcaster, event_log: EventLog, start: int) -> list[int]:
    """Follow until the end; the numbers of all received events."""
    poll, seqs = broadcaster.follow("job_1", start, event_log.num_events), []
    while True:
        batch = await poll()
        seqs += [int(line[4:]) for text in batch.messages for line in text.decode().splitlines() if line[:4] == "id: "]
        if batch.end is not None:
            return seqs
        if not batch.has_more:
            await asyncio.sleep(0.01)


async def append_events(event_log: EventLog, num_events: int, at_once: int = 1) -> None:
    for _ in range(num_events):
        await asyncio.sleep(0.002)
        event_log.num_events += at_once
    event_log.status = JobStatus.SUCCEEDED


def test_two_hundred_followers_cost_about_as_many_looks_as_one() -> None:
    async def run(num_followers: int) -> int:
        event_log = EventLog(num_events=7)
        broadcaster = EventBroadcaster(event_log.read, poll_seconds=0.04)
        told = await asyncio.gather(
            *(follow(broadcaster, event_log, 7) for _ in range(num_followers)), append_events(event_log, 50)
        )
        assert told[:-1] == [list(range(8, 58))] * num_followers
        return event_log.num_reads

    assert asyncio.run(run(200)) < 4 * asyncio.run(run(1))


@pytest.mark.parametrize("at_once", [1, WINDOW + BATCH + 7])
def test_followers_who_begin_anywhere_miss_nothing_and_hear_nothing_twice(at_once: int) -> None:
    async def run() -> None:
        event_log = EventLog(num_events=3 * WINDOW)
        broadcaster = EventBroadcaster(event_log.read, poll_seconds=0.004)
        starts = [0, 1, 2 * WINDOW, 3 * WINDOW - 1, 3 * WINDOW]
        followers = [asyncio.create_task(follow(broadcaster, event_log, start)) for start in starts]
        await append_events(event_log, 20, at_once)
        for start, follower in zip(starts, followers, strict=True):
            assert await follower == list(range(start + 1, event_log.num_events + 1))

    asyncio.run(run())


def test_all_who_follow_hear_that_a_job_was_deleted() -> None:
    async def run() -> None:
        def read(job_id: str, after: int, limit: int) -> EventsPage:
            raise NotFound(f"there is no job {job_id}")

        broadcaster = EventBroadcaster(read, 0.4)
        looks = [broadcaster.follow("job_1", 0, 0) for _ in range(3)]
        for found in await asyncio.gather(*(look() for look in looks), return_exceptions=True):
            assert isinstance(found, NotFound)

    asyncio.run(run())


class ThinnedLog(EventLog):
    """Of the events only each third is left."""

    def read(self, job_id: str, after: int, limit: int) -> EventsPage:
        seqs = [seq for seq in range(after + 1, self.num_events + 1) if seq % 3 == 0][:limit]
        fields: dict[str, Any] = {"job_number": 1, "type": "log", "level": "info", "data": {}, "attempt": 1}
        events = [Event(seq=seq, message=f"{seq}", created_at=NOW, **fields) for seq in seqs]
        return EventsPage(events, self.status, self.num_events)


def test_followers_of_a_job_with_gaps_get_each_event_that_is_left_once() -> None:
    async def run() -> None:
        event_log = ThinnedLog(num_events=3 * WINDOW)
        broadcaster = EventBroadcaster(event_log.read, poll_seconds=0.01)
        starts = (0, 1, 3 * WINDOW - 7, 3 * WINDOW)
        told = await asyncio.gather(
            *(follow(broadcaster, event_log, start) for start in starts), append_events(event_log, 30, at_once=3)
        )
        for start, seqs in zip(starts, told, strict=False):
            assert seqs == [seq for seq in range(start + 1, 3 * WINDOW + 91) if seq % 3 == 0]

    asyncio.run(run())
