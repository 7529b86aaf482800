"""Connections of clients: they end when no request comes, and there may be as many as the system allows."""

import asyncio
import contextlib
import sys

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 60.0
"""Time from the connection, or the last response, to the end of the next request's headers."""

MAX_OPEN_FILES = 65_536


class Connection(H11Protocol):
    """A connection that is closed when a request's headers do not come in time, so that none is held for nothing.

    uvicorn limits only the silence between two requests. h11 also limits the size of headers (64 KB), which httptools,
    uvicorn's choice where it is installed, does not.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may be in the buffer already."""
        self._expect_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _expect_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_without_request)

    def _close_without_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def allow_many_connections() -> None:
    """Raise this process's limit of open files, often 1024, to `MAX_OPEN_FILES` or the most that the system allows."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
