"""A small real HTTP server whose answers a test defines, for answers that a well-behaved server never gives."""

import functools
import hashlib
import inspect
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rvc_train.client import AsyncClient, Client, connect, connect_async
from rvc_train.schemas.results import ArtifactPublic


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeServer"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self.answer_by_test()

    def do_PUT(self) -> None:
        self.answer_by_test()

    def do_POST(self) -> None:
        self.answer_by_test()

    def do_DELETE(self) -> None:
        self.answer_by_test()

    def do_HEAD(self) -> None:
        self.answer_by_test()

    def do_PATCH(self) -> None:
        self.server.answer(self)  # reads as much of the body as the test needs

    def answer_by_test(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), self.body))
        self.server.answer(self)

    def log_message(self, *args: object) -> None:
        pass

    # Answers of a test

    def send(self, status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode())

    def send_problem(self, status: int, code: str, detail: str, **more: object) -> None:
        body = {"type": "about:blank", "title": "No", "status": status, "detail": detail, "instance": self.path}
        body |= {"code": code, "request_id": "r1", "retryable": False, **more}
        self.send(status, json.dumps(body).encode(), "application/problem+json")

    def send_events(self, seqs: range, *, ends: bool) -> None:
        """Server-sent events with these numbers, then `end` or a cut connection."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"retry: 1000\n\n: a comment\n\n")
        for seq in seqs:
            self.wfile.write(f"id: {seq}\ndata: {json.dumps(event(seq))}\n\n: still here\n\n".encode())
        if ends:
            self.wfile.write(b"event: end\ndata: {}\n\n")
        self.wfile.flush()
        self.close_connection = True

    def cut(self) -> None:
        """Close without an answer."""
        self.close_connection = True
        self.connection.close()


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # for tests with many connections at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer: Callable[[Request], None] = lambda request: request.send(404)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def event(seq: int) -> dict[str, object]:
    return {
        "seq": seq,
        "type": "progress",
        "level": "info",
        "message": f"event {seq}",
        "data": {},
        "attempt": 1,
        "created_at": "2026-11-22T12:00:00Z",
    }


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.shutdown()
    fake.server_close()
    thread.join()


class Blocking:
    """An AsyncClient with the methods of a Client: its coroutines run on an event loop in another thread."""

    def __init__(self, portal: BlockingPortal, target: object) -> None:
        self._portal = portal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return functools.partial(self._call, value) if callable(value) else Blocking(self._portal, value)

    def _call(self, method: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        result = self._portal.call(functools.partial(method, *args, **kwargs))
        return self._iterate(result) if inspect.isasyncgen(result) else result

    def _iterate(self, rows: AsyncGenerator[Any, None]) -> Iterator[Any]:
        end = object()
        try:
            while (row := self._portal.call(anext, rows, end)) is not end:
                yield row
        finally:
            self._portal.call(rows.aclose)


ClientMaker = Callable[..., Any]


@pytest.fixture(params=[Client, AsyncClient])
def make_client(request: pytest.FixtureRequest) -> Iterator[ClientMaker]:
    """Function of an address, a token and a memory that makes a client: each test runs with both kinds."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal()) if request.param is AsyncClient else None

        def make(url: str, token: str | None = None, memory: Path | None = None) -> Any:
            if portal is None:
                return stack.enter_context(Client(connect(url, token), memory))
            client = AsyncClient(connect_async(url, token), memory)
            stack.callback(portal.call, client.aclose)
            return Blocking(portal, client)

        yield make


@pytest.fixture
def client(make_client: ClientMaker, server: FakeServer, tmp_path: Path) -> Any:
    return make_client(server.url, "the-token-of-the-test", tmp_path / "memory")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before retries, in seconds, which are skipped."""
    skipped: list[float] = []

    async def skip(seconds: float) -> None:
        skipped.append(seconds)

    monkeypatch.setattr("tenacity.nap.time.sleep", skipped.append)
    monkeypatch.setattr("rvc_train.retry._pause_async", skip)
    return skipped


class Offered:
    """An artifact, its bytes, and an answer that serves them with ranges."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.artifact = ArtifactPublic(
            id="art_1",
            kind="voice",
            name="anna.pth",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            created_at=datetime.now(UTC),
            url="/file",
            content_notice=None,
        )

    def serve(self, request: Request, cut_after: int | None = None) -> None:
        """Answer with the requested range; `cut_after`: bytes after which the connection breaks."""
        start = 0
        etag = f'"{self.artifact.sha256}"'
        requested = request.headers.get("Range")
        if requested and request.headers.get("If-Range") == etag:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:cut_after])
        request.wfile.flush()
        if cut_after is not None:
            request.cut()


@pytest.fixture
def offered() -> Offered:
    return Offered(bytes(range(256)) * 4000)
