"""Small weights in place of the published ones, and a hub on this machine that has them."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rvc_engine.weights.catalogue import PublishedFile

CONTENT = {
    name: name.encode() * 50_000
    for name in (
        "hubert/model.bin",
        "pretrained-v2-40k/f0G40k.pth",
        "pretrained-v2-40k/f0D40k.pth",
        "pretrained-v2-32k/f0G32k.pth",
        "pretrained-v2-32k/f0D32k.pth",
    )
}


def published() -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(
            id=key.split("/")[0],
            repo="a/b",
            path=key.split("/")[1],
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        for key, content in CONTENT.items()
    )


class Hub:
    """A hub that answers when `is_open` is set, and then 404 for what it lacks."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.lacks: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                hub.asked.append(name)
                hub.is_open.wait(30)
                found = [content for key, content in CONTENT.items() if key.endswith(name) and name not in hub.lacks]
                self.send_response(200 if found else 404)
                body = found[0] if found else b"no"
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.is_open.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def write_catalogue(path: Path) -> Path:
    """A catalogue in the engine's format, in place of its own."""
    path.write_text(json.dumps({"files": [file.model_dump() for file in published()]}))
    return path
