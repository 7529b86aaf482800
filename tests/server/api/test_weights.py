import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.weights.catalogue import PublishedFile, Weights
from server.admin.weights import WeightsFetcher
from server.errors import NotFound

BYTES = b"weights" * 100_000


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_known = self.path.endswith("/good.pt")
        body = BYTES if is_known else b"no"
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetcher(tmp_path: Path) -> WeightsFetcher:
    digest = hashlib.sha256(BYTES).hexdigest()
    files = tuple(
        PublishedFile(id=name, repo="a/b", path=f"{name}.pt", size=len(BYTES), sha256=digest)
        for name in ("good", "bad")
    )
    fetcher = WeightsFetcher(tmp_path)
    fetcher._weights = Weights(tmp_path, files)
    return fetcher


def test_weights_are_fetched_in_the_background(
    hub: None, fetcher: WeightsFetcher, eventually: Callable[..., None]
) -> None:
    assert not fetcher.get("good").is_present
    assert fetcher.fetch("good").fetch_state in {"waiting", "fetching", None}
    eventually(lambda: fetcher.get("good").is_present)
    assert fetcher.get("good").size_here == len(BYTES)
    assert fetcher.fetch("good").is_present


def test_a_fetch_that_fails_says_why_and_can_be_asked_for_again(
    hub: None, fetcher: WeightsFetcher, eventually: Callable[..., None]
) -> None:
    fetcher.fetch("bad")
    eventually(lambda: fetcher.get("bad").fetch_state == "failed")
    assert "404" in (fetcher.get("bad").fetch_error or "")
    assert fetcher.fetch("bad").fetch_state in {"waiting", "fetching", "failed"}
    eventually(lambda: fetcher._thread is None)


def test_what_is_not_published_is_not_found(fetcher: WeightsFetcher) -> None:
    with pytest.raises(NotFound, match="known are good, bad"):
        fetcher.get("ugly")


def test_the_routes_tell_what_is_here(live: Any) -> None:
    with live.client() as http:
        data = http.get("/v1/weights").json()["data"]
        assert {"hubert", "rmvpe", "pretrained-v2-40k"} <= {each["id"] for each in data}
        one = http.get("/v1/weights/pretrained-v2-40k").json()
        assert (one["is_present"], len(one["files"])) == (False, 4)
        assert http.get("/v1/weights/none").status_code == 404
