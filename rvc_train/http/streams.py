"""Following a server-sent stream through lost connections and restarted servers."""

import random
import time
from collections.abc import Callable, Iterator

import httpx
from httpx_sse import ServerSentEvent, SSEError, connect_sse

from rvc_train.errors import ConnectionFailed
from rvc_train.http.problems import error_of

READ_SECONDS = 60
"""A stream silent for so long is dead: the server sends a comment every 15 s."""
RECONNECT_SECONDS = 600
"""How long to try again when the server does not answer."""
BUSY_STATUSES = frozenset({429, 500, 502, 503, 504})
"""Answers of a server, or of a proxy before it, that is coming up."""

OnWait = Callable[[str], None]
"""Told, in a sentence, when the connection is lost; once until the server speaks again."""


def follow(
    http: httpx.Client,
    path: str,
    last_id: str | None = None,
    params: dict[str, str] | None = None,
    on_wait: OnWait | None = None,
    reconnect_seconds: float = RECONNECT_SECONDS,
) -> Iterator[ServerSentEvent]:
    """The stream's events up to its `end`, each once, whatever happens to the connection.

    A new connection asks to go on after the last id that came. Raises ConnectionFailed when there was no answer for
    `reconnect_seconds`, and ApiError for an answer that trying again will not change.
    """
    reconnection = _Reconnection(reconnect_seconds, on_wait)
    while True:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        try:
            timeout = httpx.Timeout(10, read=READ_SECONDS)
            with connect_sse(http, "GET", path, headers=headers, params=params, timeout=timeout) as source:
                if source.response.status_code == httpx.codes.NO_CONTENT:
                    return
                if source.response.status_code in BUSY_STATUSES:
                    reconnection.wait(f"the server answered {source.response.status_code}")
                    continue
                if source.response.is_error:
                    source.response.read()
                    raise error_of(source.response)
                for message in source.iter_sse():
                    reconnection.succeeded()
                    if message.event == "end":
                        return
                    if not message.data and message.id in {"", last_id}:
                        continue  # a comment that keeps the stream alive, or how soon to come back: no event
                    if message.id:
                        last_id = message.id
                    yield message
            reconnection.wait("the server closed the stream")
        except (httpx.TransportError, SSEError) as error:
            reconnection.wait(str(error) or type(error).__name__)


class _Reconnection:
    """Waits between two tries, longer each time, until the time is up."""

    def __init__(self, reconnect_seconds: float, on_wait: OnWait | None) -> None:
        self._give_up_seconds = reconnect_seconds
        self._on_wait = on_wait
        self._tries = 0
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """The server speaks: start afresh."""
        self._tries = 0
        self._failing_since = None

    def wait(self, reason: str) -> None:
        """Sleep before the next try, or raise ConnectionFailed."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > self._give_up_seconds:
            raise ConnectionFailed(
                f"the server has not answered for {self._give_up_seconds:.0f} s ({reason}); is it running?"
            )
        if self._on_wait is not None and self._tries == 0:
            self._on_wait(f"connection lost ({reason}); trying again")
        time.sleep(min(0.3 * 1.7**self._tries, 10.0) * random.uniform(0.8, 1.2))
        self._tries += 1
