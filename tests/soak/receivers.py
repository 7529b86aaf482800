"""Receivers of webhooks: one that accepts, one that refuses, one that sends a byte a second."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receivers:
    """Three receivers on loopback."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        """Ids of the messages that the good receiver accepted."""
        self.stopping = threading.Event()
        self._servers = [self._serve(handle) for handle in (self._accept, self._refuse, self._dawdle)]
        self.good, self.bad, self.slow = (
            f"http://127.0.0.1:{server.server_address[1]}/hook" for server in self._servers
        )

    def _serve(self, handle: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                with suppress(OSError):  # the server was killed meanwhile
                    handle(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _accept(self, request: BaseHTTPRequestHandler) -> None:
        self.accepted.add(request.headers["webhook-id"])
        request.send_response(204)
        request.end_headers()

    def _refuse(self, request: BaseHTTPRequestHandler) -> None:
        request.send_error(500)

    def _dawdle(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.stopping.is_set():
            request.wfile.write(b"x")
            request.wfile.flush()
            time.sleep(1)

    def close(self) -> None:
        """Stop them."""
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
