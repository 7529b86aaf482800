"""Receiving the bodies of uploads: streamed to disk, hashed on the way, one request of an upload at a time.

The newest request pre-empts the older one, whose bytes are kept: a client whose connection broke retries long before
the server notices that the old connection is dead.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request

from server.datasets.service import full_disk_as_no_space
from server.errors import Conflict, TooSlow
from server.storage.local import sync_file

WRITE_BYTES = 1 << 20


@dataclass
class _LockHolder:
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)


class UploadLocks:
    """A lock for each upload. For a single event loop."""

    def __init__(self) -> None:
        self._running: dict[str, _LockHolder] = {}

    @asynccontextmanager
    async def exclusive(self, upload_id: str) -> AsyncIterator[None]:
        """Hold the upload's lock; the newest request pre-empts the holder. Raises Conflict when pre-empted."""
        while (other := self._running.get(upload_id)) is not None:
            other.scope.cancel()
            await other.done.wait()
        holder = self._running[upload_id] = _LockHolder()
        try:
            with holder.scope:
                yield
        finally:
            del self._running[upload_id]
            holder.done.set()
        if holder.scope.cancelled_caught:
            raise Conflict("a newer request continues this upload; get its offset and resume from there")


class StreamedBody:
    """The body of a request, streamed to a file."""

    def __init__(self, request: Request, idle_seconds: float, check: Callable[[int], None]) -> None:
        """`check` is called with the number of bytes so far before a chunk is written, and raises if it is too high."""
        self._request, self._idle_seconds, self._check = request, idle_seconds, check
        self.size = 0

    async def write(self, path: Path, digest: "hashlib._Hash", *, append: bool = False) -> None:
        """Write the body, hashed on the way, with at most about a megabyte in memory.

        Raises ClientDisconnect, TooSlow after `idle_seconds` without a byte, NoSpace, and the errors of `check`; the
        bytes received before are then on disk too.
        """
        buffer = bytearray()
        with full_disk_as_no_space(), _synced(path, "ab" if append else "wb") as file:
            try:
                async for chunk in self._chunks():
                    self.size += len(chunk)
                    self._check(self.size)
                    buffer += chunk
                    if len(buffer) >= WRITE_BYTES:
                        data = bytes(buffer)
                        buffer.clear()
                        await run_sync(_write, file, data, digest)
            finally:
                _write(file, bytes(buffer), digest)

    async def _chunks(self) -> AsyncIterator[bytes]:
        stream = aiter(self._request.stream())
        while True:
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


@contextmanager
def _synced(path: Path, mode: str) -> Iterator[BinaryIO]:
    with path.open(mode) as file:
        try:
            yield file  # type: ignore[misc]
        finally:
            file.flush()
            sync_file(path)


def _write(file: BinaryIO, data: bytes, digest: "hashlib._Hash") -> None:
    digest.update(data)
    file.write(data)
