"""Receiving the bodies of uploads: streamed to disk, hashed on the way, one request of an upload at a time.

The newest request pre-empts the older one, whose bytes are kept: a client whose connection broke retries long before
the server notices that the old connection is dead.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import anyio
from starlette.requests import Request

from rvc_engine.environment.files import sync_file
from server.datasets.admission import full_disk_as_no_space
from server.errors import Conflict, TooSlow
from server.http.threads import on_disk

WRITE_BYTES = 1 << 20
STORED_SECONDS = 10.0
"""Longest wait of a question for the offset until a whole upload is stored."""
WATCH_SECONDS = 60.0
WATCH_BYTES = 64 << 20
PACE_SECONDS = 300.0
LEAST_BYTES_PER_SECOND = 1024
"""Mean rate over `PACE_SECONDS` below which a body is aborted: one byte a minute would hold its place for ever."""


@dataclass
class LockHolder:
    """The request that has an upload's lock."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)
    offset: Callable[[], int] | None = None
    """The upload's offset while a chunk is being received, with bytes that are not on disk yet."""


class UploadLocks:
    """A lock for each upload. For a single event loop."""

    def __init__(self) -> None:
        self._running: dict[str, LockHolder] = {}

    async def offset(self, upload_id: str, length: int) -> int | None:
        """Offset of an upload of this length that a chunk is being received of; None for others. Ends nothing.

        One whose last bytes have come is waited for, and is below its length until they are stored.
        """
        holder = self._running.get(upload_id)
        if holder is None or holder.offset is None:
            return None
        if holder.offset() < length:
            return holder.offset()
        with anyio.move_on_after(STORED_SECONDS):
            await holder.done.wait()
            return None
        return length - 1

    @asynccontextmanager
    async def exclusive(self, upload_id: str) -> AsyncIterator[LockHolder]:
        """Hold the upload's lock; the newest request pre-empts the holder. Raises Conflict when pre-empted."""
        while (other := self._running.get(upload_id)) is not None:
            other.scope.cancel()
            await other.done.wait()
        holder = self._running[upload_id] = LockHolder()
        try:
            with holder.scope:
                yield holder
        finally:
            del self._running[upload_id]
            holder.done.set()
        if holder.scope.cancelled_caught:
            raise Conflict("a newer request continues this upload; get its offset and resume from there")


class StreamedBody:
    """The body of a request, streamed to a file. Whatever waits for a disk runs beside the event loop."""

    def __init__(
        self, request: Request, idle_seconds: float, check: Callable[[int], None], watch: Callable[[int], None]
    ) -> None:
        """`check` is called with the number of bytes so far before a chunk is written, and raises if it is too high.

        `watch` is called likewise, but in a thread: at the start, then every minute or 64 MB. It may raise too.
        """
        self._request, self._idle_seconds, self._check, self._watch = request, idle_seconds, check, watch
        self._watched_at: tuple[float, int] | None = None
        self.size = 0

    async def write(self, path: Path, *digests: "hashlib._Hash", append: bool = False) -> None:
        """Write the body, hashed on the way by each of `digests`, with at most about a megabyte in memory.

        Raises ClientDisconnect, TooSlow after `idle_seconds` without a byte, NoSpace, and the errors of `check` and
        `watch`; the bytes received before are then on disk too.
        """
        buffer = bytearray()
        with full_disk_as_no_space():
            file = await on_disk(path.open, "ab" if append else "wb")
            try:
                async for chunk in self._chunks():
                    self.size += len(chunk)
                    self._check(self.size)
                    await self._watch_at_times()
                    buffer += chunk
                    if len(buffer) >= WRITE_BYTES:
                        data = bytes(buffer)
                        buffer.clear()
                        await on_disk(_write, file, data, digests)
            finally:
                with anyio.CancelScope(shield=True):
                    await on_disk(_finish, file, bytes(buffer), digests, path)

    async def _watch_at_times(self) -> None:
        now = anyio.current_time()
        if self._watched_at is not None:
            at, size = self._watched_at
            if now - at < WATCH_SECONDS and self.size - size < WATCH_BYTES:
                return
        self._watched_at = now, self.size
        await on_disk(self._watch, self.size)

    async def _chunks(self) -> AsyncIterator[bytes]:
        stream = aiter(self._request.stream())
        paced_at, paced_size = anyio.current_time(), 0
        while True:
            if (seconds := anyio.current_time() - paced_at) >= PACE_SECONDS:
                if self.size - paced_size < LEAST_BYTES_PER_SECOND * seconds:
                    raise TooSlow(
                        f"the upload received less than {LEAST_BYTES_PER_SECOND} bytes a second for "
                        f"{PACE_SECONDS / 60:.0f} minutes; a resumable upload keeps the bytes received so far"
                    )
                paced_at, paced_size = anyio.current_time(), self.size
            try:
                with anyio.fail_after(self._idle_seconds):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TooSlow(
                    f"the upload received no data for {self._idle_seconds:g} s; a resumable upload keeps the bytes "
                    "received so far"
                ) from None
            yield chunk


def _write(file: BinaryIO, data: bytes, digests: tuple["hashlib._Hash", ...]) -> None:
    for digest in digests:
        digest.update(data)
    file.write(data)


def _finish(file: BinaryIO, data: bytes, digests: tuple["hashlib._Hash", ...], path: Path) -> None:
    with file:
        try:
            _write(file, data, digests)
        finally:
            file.flush()
            sync_file(path)
