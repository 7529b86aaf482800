"""Broadcast of job events: the newest ones are queried and encoded once for all followers."""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool

from rvc_train.schemas.jobs import JobStatus
from server.database.tables import Event
from server.http.sse import Batch, Poll, message
from server.job_store.queries import EventsPage
from server.job_store.serializers import event_public

BATCH = 500
"""Events of one poll."""
WINDOW = 1000
"""Newest events that are kept encoded. Followers further behind query on their own."""
FRESH_SHARE = 0.25
"""Age up to which followers share a poll, as a share of the time between two polls of one follower."""

Read = Callable[[str, int, int], EventsPage]
"""Query of events: the job's id, the number after which they start, and how many at most."""


class EventBroadcaster:
    """Broadcasts the events of followed jobs, one channel per job. For use on the event loop only."""

    def __init__(self, read: Read, poll_seconds: float) -> None:
        self._read, self._fresh_seconds = read, poll_seconds * FRESH_SHARE
        self._channels: WeakValueDictionary[str, _JobChannel] = WeakValueDictionary()

    def follow(self, job_id: str, start: int, last_seq: int) -> Poll:
        """Poll for the events after `start`; the job had `last_seq` events a moment ago. Callable in any thread."""
        return _Follower(self, job_id, start, last_seq).poll

    def channel(self, job_id: str, last_seq: int) -> "_JobChannel":
        """The channel of a job, which lasts as long as its followers."""
        channel = self._channels.get(job_id)
        if channel is None:
            channel = self._channels[job_id] = _JobChannel(self._read, job_id, last_seq, self._fresh_seconds)
        return channel


class _Follower:
    """Position of one follower in its job's channel."""

    def __init__(self, broadcaster: EventBroadcaster, job_id: str, start: int, last_seq: int) -> None:
        self._broadcaster, self._job_id, self._last_seq = broadcaster, job_id, last_seq
        self._seen = start
        self._channel: _JobChannel | None = None

    async def poll(self) -> Batch:
        if self._channel is None:  # taken on the event loop: the follower may be created in a thread
            self._channel = self._broadcaster.channel(self._job_id, self._last_seq)
        self._seen, batch = await self._channel.events_after(self._seen)
        return batch


class _JobChannel:
    """Newest events of one job, encoded. Their numbers increase; those of a thinned job have gaps."""

    def __init__(self, read: Read, job_id: str, begin: int, fresh_seconds: float) -> None:
        self._read, self._job_id, self._fresh_seconds = read, job_id, fresh_seconds
        self._window: deque[tuple[int, bytes]] = deque()
        """Numbers and texts of all events after number `_begin`, up to `_end`."""
        self._begin = self._end = self._last_seq = begin
        self._status: JobStatus | None = None
        self._polled_at = -float("inf")
        self._poll_task: asyncio.Task[None] | None = None

    async def events_after(self, seen: int) -> tuple[int, Batch]:
        """The events after `seen`: the number of the last one, and the batch. Raises what polling raises."""
        if seen == self._end:
            await self._refresh()
        if not self._begin <= seen <= self._end:
            return await self._read_directly(seen)
        newest = itertools.takewhile(lambda event: event[0] > seen, reversed(self._window))
        texts = [text for _, text in newest][::-1]
        return self._end, self._batch(texts, self._end, self._status, self._last_seq)

    async def _refresh(self) -> None:
        """Poll, unless the last poll is fresh; concurrent followers share one poll."""
        if time.monotonic() - self._polled_at < self._fresh_seconds:
            return
        if self._poll_task is None or self._poll_task.done():
            self._poll_task = asyncio.create_task(self._poll())
            self._poll_task.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # not raised if all followers have left
        await asyncio.shield(self._poll_task)  # a follower that leaves does not cancel the poll of the others

    async def _poll(self) -> None:
        page = await run_in_threadpool(self._read, self._job_id, self._end, BATCH)
        self._status, self._last_seq = page.status, page.last_seq
        for event in page.events:
            self._window.append((event.seq, _encoded(event, page)))
            self._end = event.seq
        while len(self._window) > WINDOW:
            self._begin = self._window.popleft()[0]
        if self._end == self._last_seq:
            self._polled_at = time.monotonic()

    async def _read_directly(self, seen: int) -> tuple[int, Batch]:
        page = await run_in_threadpool(self._read, self._job_id, seen, BATCH)
        end = page.events[-1].seq if page.events else seen
        texts = [_encoded(event, page) for event in page.events]
        return end, self._batch(texts, end, page.status, page.last_seq)

    @staticmethod
    def _batch(texts: list[bytes], end: int, status: JobStatus | None, last_seq: int) -> Batch:
        is_complete = status is not None and status.is_terminal and end >= last_seq
        return Batch(texts, json.dumps({"status": status}) if is_complete else None, has_more=end < last_seq)


def _encoded(event: Event, page: EventsPage) -> bytes:
    return message(event_public(event, page.job_id, page.name).model_dump_json(), event.seq)
