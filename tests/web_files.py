"""A web server on this machine with files, and with the faults that downloads meet."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebFile:
    """A file at a path, and how it is answered."""

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    etag: str = ""
    cuts: int = 0
    """Answers that are cut off after half of their bytes."""
    is_endless: bool = False
    gate: threading.Event | None = None
    """Half of the bytes are sent before it is set."""


class Handler(BaseHTTPRequestHandler):
    server: "WebFiles"

    def do_GET(self) -> None:
        files = self.server
        files.asked.append((self.path, dict(self.headers.items())))
        file = files.files.get(self.path, WebFile(b"none", status=404))
        content, start = file.content, 0
        if file.etag and self.headers.get("If-Range") == file.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else file.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if file.etag:
            self.send_header("ETag", file.etag)
        if not file.is_endless:
            self.send_header("Content-Length", str(len(content) - start))
        for name, value in file.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(file, content[start:])

    def _send(self, file: WebFile, content: bytes) -> None:
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        if file.cuts > 0:
            file.cuts -= 1
            return
        if file.gate is not None:
            file.gate.wait(30)
        self.wfile.write(content[half:])
        while file.is_endless:
            self.wfile.write(bytes(1 << 16))

    def log_message(self, *args: object) -> None:
        pass


class WebFiles(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, WebFile] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Paths and headers of all requests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def web_files() -> Iterator[WebFiles]:
    server = WebFiles()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
