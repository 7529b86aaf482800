"""Datasets that the server downloads, from a real web server on this machine with its faults."""

import hashlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_train.schemas.access import Quota
from server.fetching import download, fetcher
from tests.web_files import WebFile, WebFiles, web_files

Zipped = Callable[..., bytes]
WAV = b"RIFF" + bytes(range(256)) * 16
LIMIT = 200_000
MAX_WAIT_SECONDS = 60.0
"""Seconds for a download on a busy machine."""


@pytest.fixture(scope="module")
def server(serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("data")
    with serve_for_module(folder, outbound_networks="127.0.0.1", max_upload_bytes=LIMIT) as running:
        yield running


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def web() -> Iterator[WebFiles]:
    with web_files() as files:
        yield files


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "RETRY_SECONDS", (0.05, 0.05))


class Datasets:
    """Requests for datasets, and their ends."""

    def __init__(self, http: httpx.Client, eventually: Callable[..., None], name: str) -> None:
        self._http, self._eventually, self._name = http, eventually, name

    def ask(self, *urls: str, **more: Any) -> httpx.Response:
        body = {"name": self._name, **({"url": urls[0]} if len(urls) == 1 else {"urls": list(urls)}), **more}
        return self._http.post("/v1/datasets", json=body)

    def get(self, dataset_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(f"/v1/datasets/{dataset_id}").json()
        return found

    def settled(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 202, answer.text
        dataset_id = answer.json()["id"]

        def is_settled() -> bool:
            time.sleep(0.05)
            return self.get(dataset_id)["status"] in {"ready", "invalid"}

        self._eventually(is_settled, MAX_WAIT_SECONDS)
        return self.get(dataset_id)

    def names(self, dataset: dict[str, Any]) -> list[str]:
        report = self._http.get(f"/v1/datasets/{dataset['id']}/report").json()
        return [file["name"] for file in report["files"]]


@pytest.fixture
def datasets(http: httpx.Client, eventually: Callable[..., None], request: pytest.FixtureRequest) -> Datasets:
    return Datasets(http, eventually, request.node.name[:60])


def test_a_zip_is_downloaded_through_a_redirect_unpacked_and_its_address_forgotten(
    server: Any, http: httpx.Client, web: WebFiles, datasets: Datasets, zipped: Zipped
) -> None:
    content = zipped({"anna/1.wav": WAV, "anna/2.wav": WAV + b"2", "notes.txt": b"x"})
    web.files["/share?key=secret"] = WebFile(status=302, headers={"Location": "/anna.zip"})
    web.files["/anna.zip"] = WebFile(content, {"Content-Type": "application/zip"})
    answer = datasets.ask(f"{web.url}/share?key=secret")
    assert answer.headers["Location"] == f"/v1/datasets/{answer.json()['id']}"
    assert answer.json()["status"] == "ingesting"
    made = datasets.settled(answer)
    assert (made["status"], made["num_files"], made["fetch"]) == ("ready", 2, None)
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert made["size_bytes"] == len(content)
    assert datasets.names(made) == ["anna/1.wav", "anna/2.wav"]
    assert not server.context.storage.fetched_folder(made["id"]).exists()
    assert "secret" not in json.dumps(made) + http.get("/v1/audit").text
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": made["id"]})
    assert (job.status_code, job.json()["status"]) == (202, "queued")


def test_several_addresses_make_one_dataset_with_the_names_that_servers_and_addresses_give(
    web: WebFiles, datasets: Datasets, zipped: Zipped
) -> None:
    web.files |= {
        "/a/take.ogg?ex=1": WebFile(WAV, {"Content-Type": "audio/ogg"}),
        "/b/take.ogg?ex=2": WebFile(WAV, {"Content-Type": "application/octet-stream"}),
        "/attachment/3": WebFile(WAV, {"Content-Disposition": "attachment; filename*=UTF-8''%E6%AD%8C..%2F1.wav"}),
        "/more.zip": WebFile(zipped({"x/1.wav": WAV, "y.wav": WAV})),
        "/cover.png": WebFile(b"\x89PNG"),
    }
    made = datasets.settled(datasets.ask(*(web.url + path for path in web.files)))
    assert made["status"] == "ready", made
    assert datasets.names(made) == ["take.ogg", "take (2).ogg", "1.wav", "more/x/1.wav", "more/y.wav"]
    assert "cover.png" in json.dumps(made["notes"]) or made["num_files"] == 5


def test_progress_is_told_a_repeated_request_is_the_same_dataset_and_deleting_it_cancels(
    server: Any, http: httpx.Client, web: WebFiles, datasets: Datasets, eventually: Callable[..., None]
) -> None:
    gate = threading.Event()
    web.files |= {"/1.wav": WebFile(WAV), "/2.wav": WebFile(WAV * 20, gate=gate)}
    before = http.get("/v1/me").json()["usage"]["bytes"]
    urls = (f"{web.url}/1.wav", f"{web.url}/2.wav")
    dataset_id = datasets.ask(*urls).json()["id"]
    eventually(lambda: (datasets.get(dataset_id)["fetch"] or {}).get("num_fetched") == 1)
    fetch = datasets.get(dataset_id)["fetch"]
    assert (fetch["num_files"], fetch["total_bytes"]) == (2, len(WAV) * 21)
    assert fetch["received_bytes"] >= len(WAV)
    assert http.get("/v1/me").json()["usage"]["bytes"] == before + len(WAV) * 21, "the bytes to come are reserved"
    again = datasets.ask(*urls)
    assert (again.status_code, again.json()["id"]) == (200, dataset_id)
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset_id}).json()
    assert job["status"] == "validating", "a job may be submitted, and waits"
    assert http.delete(f"/v1/datasets/{dataset_id}").status_code == 409
    http.post(f"/v1/jobs/{job['id']}/cancel")
    assert http.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    gate.set()
    eventually(lambda: not server.context.storage.fetched_folder(dataset_id).exists())
    assert http.get("/v1/me").json()["usage"]["bytes"] == before


def test_a_dropped_connection_goes_on_from_the_bytes_that_came_only_while_the_file_is_the_same(
    web: WebFiles, datasets: Datasets
) -> None:
    web.files["/long.wav"] = WebFile(WAV * 20, etag='"v1"', cuts=2)
    made = datasets.settled(datasets.ask(f"{web.url}/long.wav"))
    assert made["sha256"] == hashlib.sha256(WAV * 20).hexdigest()
    ranges = [(headers.get("Range"), headers.get("If-Range")) for _, headers in web.asked]
    half = len(WAV) * 10
    assert ranges == [(None, None), (f"bytes={half}-", '"v1"'), (f"bytes={half + half // 2}-", '"v1"')]
    web.asked.clear()
    web.files["/weak.wav"] = WebFile(WAV, etag='W/"v1"', cuts=1)
    made = datasets.settled(datasets.ask(f"{web.url}/weak.wav"))
    assert made["sha256"] == hashlib.sha256(WAV).hexdigest()
    assert all("Range" not in headers for _, headers in web.asked)


def test_a_restarted_server_goes_on(
    web: WebFiles,
    serve: Callable[..., Any],
    tmp_path: Path,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetcher, "REPORT_SECONDS", 0.0)
    gate = threading.Event()
    web.files |= {"/1.wav": WebFile(WAV), "/2.wav": WebFile(WAV * 20, etag='"v1"', gate=gate)}
    body = {"name": "anna", "urls": [f"{web.url}/1.wav", f"{web.url}/2.wav"]}
    with serve(tmp_path, outbound_networks="127.0.0.1") as server, server.client() as http:
        dataset_id = http.post("/v1/datasets", json=body).json()["id"]
        half = len(WAV) * 11
        eventually(
            lambda: http.get(f"/v1/datasets/{dataset_id}").json()["fetch"]["received_bytes"] == half, MAX_WAIT_SECONDS
        )
    gate.set()
    web.asked.clear()
    with serve(tmp_path, outbound_networks="127.0.0.1") as server, server.client() as http:
        eventually(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "ready", MAX_WAIT_SECONDS)
    assert [(path, headers.get("Range")) for path, headers in web.asked] == [("/2.wav", f"bytes={len(WAV) * 10}-")]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/private", "has an address that is not public"),
        ("/round", "redirects more than"),
        ("/local", "is not an http or https URL"),
        ("/missing", "answered 404"),
        ("/page", "answers with text/html, not with a recording"),
        ("/picture", "answers with image/png"),
        ("/nothing", "an empty file"),
        ("/packed", "sends the file compressed"),
        ("/archive.7z", "this archive format is not supported"),
        ("/large", "the 0.2 MB that there is room for"),
        ("/endless", "the 0.2 MB that there is room for"),
        ("/short", "broke off (peer closed connection"),
        ("/broken", "answered 503"),
    ],
)
def test_what_cannot_be_downloaded_makes_an_invalid_dataset_with_the_reason_and_leaves_nothing(
    server: Any, http: httpx.Client, web: WebFiles, datasets: Datasets, path: str, words: str
) -> None:
    web.files |= {
        "/private": WebFile(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}),
        "/round": WebFile(status=302, headers={"Location": "/round"}),
        "/local": WebFile(status=302, headers={"Location": "file:///etc/passwd"}),
        "/page": WebFile(b"<html>sign in</html>", {"Content-Type": "text/html; charset=utf-8"}),
        "/picture": WebFile(b"\x89PNG", {"Content-Type": "image/png"}),
        "/nothing": WebFile(),
        "/packed": WebFile(WAV, {"Content-Encoding": "gzip"}),
        "/archive.7z": WebFile(b"7z\xbc\xaf\x27\x1c" + WAV),
        "/large": WebFile(bytes(LIMIT + 1)),
        "/endless": WebFile(WAV, is_endless=True),
        "/short": WebFile(WAV, cuts=9),
        "/broken": WebFile(WAV, status=503),
    }
    before = http.get("/v1/me").json()["usage"]["bytes"]
    made = datasets.settled(datasets.ask(web.url + path))
    assert made["status"] == "invalid"
    assert words in made["reason"]
    assert made["fetch"] is None
    assert not server.context.storage.fetched_folder(made["id"]).exists()
    assert http.get("/v1/me").json()["usage"]["bytes"] == before
    again = datasets.ask(web.url + path)
    assert (again.status_code, again.json()["id"]) == (202, made["id"]), "the same request tries again"


def test_the_quota_is_checked_while_bytes_come(
    server: Any, http: httpx.Client, web: WebFiles, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "REPORT_BYTES", 1000)
    web.files |= {"/told": WebFile(WAV * 4), "/untold": WebFile(WAV, is_endless=True)}
    used = http.get("/v1/me").json()["usage"]["bytes"]
    server.context.quotas.set("local", Quota(max_bytes=used + len(WAV) * 4 - 1))
    try:
        for path in web.files:
            made = datasets.settled(datasets.ask(web.url + path))
            assert (made["status"], "would exceed that" in made["reason"]) == ("invalid", True)
    finally:
        server.context.quotas.set("local", None)


@pytest.mark.parametrize(
    ("sources", "pointer", "words"),
    [
        ({"url": "ftp://example.org/1.wav"}, "/url", "not an http or https URL"),
        ({"url": "http://192.168.0.1/1.wav"}, "/url", "not public"),
        ({"url": "http://[::1]:1/1.wav"}, "/url", "not public"),
        ({"urls": ["http://127.0.0.1/", "https://me:secret@example.org/1.wav"]}, "/urls/1", "user name or password"),
        ({"url": "http://[::1/1.wav"}, "/url", "is not a URL"),
        ({"url": "hf://datasets/../.."}, "/url", "write hf://datasets/OWNER/NAME"),
        ({"url": "hf://anna/songs"}, "/url", "write hf://datasets/OWNER/NAME"),
        ({"url": "http://127.0.0.1/", "sha256": "0" * 64}, "", "give one of"),
        ({"urls": []}, "", "give one of"),
    ],
)
def test_an_address_that_can_never_be_downloaded_is_refused_at_once(
    http: httpx.Client, sources: dict[str, Any], pointer: str, words: str
) -> None:
    answer = http.post("/v1/datasets", json={"name": "refused", **sources})
    assert answer.status_code == 422
    assert words in answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert "refused" not in [each["name"] for each in http.get("/v1/datasets").json()["data"]]


def test_the_connection_goes_to_the_address_that_was_checked(
    web: WebFiles, datasets: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = web.server_address[1]
    web.files["/1.wav"] = WebFile(WAV)
    addresses = {"kept.test": ["127.0.0.1", "127.0.0.1"], "rebound.test": ["127.0.0.1", "169.254.169.254"]}
    look_up = socket.getaddrinfo

    def found(host: Any, *rest: Any, **more: Any) -> Any:
        address = addresses[host].pop(0) if host in addresses else host
        return look_up(address, *rest, **more)

    monkeypatch.setattr("server.webhooks.egress.socket.getaddrinfo", found)
    kept = datasets.settled(datasets.ask(f"http://kept.test:{port}/1.wav"))
    assert kept["status"] == "ready"
    assert web.asked[0][1]["Host"] == f"kept.test:{port}"
    assert not addresses["kept.test"], "looked up for the request and for the download, and not for the connection"
    rebound = datasets.settled(datasets.ask(f"http://rebound.test:{port}/1.wav"))
    assert "has an address that is not public" in rebound["reason"]
    assert len(web.asked) == 1


def test_a_trickle_is_given_up(web: WebFiles, datasets: Datasets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PACE_SECONDS", 0.0)
    monkeypatch.setattr(download, "LEAST_BYTES_PER_SECOND", 10**12)
    web.files["/slow.wav"] = WebFile(WAV)
    assert "bytes a second" in datasets.settled(datasets.ask(f"{web.url}/slow.wav"))["reason"]


@pytest.mark.parametrize("disposition", ['a;"' + ";" * 60_000, "attachment; filename*=undefined''1.ogg"])
def test_a_file_name_that_cannot_be_read_is_that_of_the_address(
    web: WebFiles, datasets: Datasets, disposition: str
) -> None:
    """Reading the long one takes Python half a minute and more, in which the server would answer nobody."""
    web.files["/take.wav"] = WebFile(WAV, {"Content-Disposition": disposition})
    began = time.monotonic()
    assert datasets.names(datasets.settled(datasets.ask(f"{web.url}/take.wav"))) == ["take.wav"]
    assert time.monotonic() - began < 10


def test_a_part_that_was_not_asked_for_is_taken_from_the_start_of_the_file_alone(
    web: WebFiles, datasets: Datasets
) -> None:
    for path, first in (("/start.wav", 0), ("/middle.wav", 5)):
        place = {"Content-Range": f"bytes {first}-{first + len(WAV) - 1}/{first + len(WAV)}"}
        web.files[path] = WebFile(WAV, place, status=206)
    assert datasets.names(datasets.settled(datasets.ask(f"{web.url}/start.wav"))) == ["start.wav"]
    assert "sent another part of the file" in datasets.settled(datasets.ask(f"{web.url}/middle.wav"))["reason"]


def test_headers_that_do_not_end_are_given_up(datasets: Datasets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "HEAD_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, and nobody answers
        made = datasets.settled(datasets.ask(f"http://127.0.0.1:{silent.getsockname()[1]}/1.wav"))
    assert (made["status"], made["reason"]) == ("invalid", "127.0.0.1 sent no answer in 0 s; try again later")


def test_little_of_an_answer_that_is_no_http_is_kept_as_the_reason(datasets: Datasets) -> None:
    class Talkative(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"no http " + b"x" * 60_000 + b"\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talkative) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        made = datasets.settled(datasets.ask(f"http://127.0.0.1:{server.server_address[1]}/1.wav"))
        server.shutdown()
    assert made["reason"].startswith("the download from 127.0.0.1 broke off (illegal status line")
    assert len(made["reason"]) < 300


class Hub:
    """A hub with one dataset, whose list has two pages."""

    def __init__(self, web: WebFiles) -> None:
        self.web = web
        base = "/api/datasets/anna/songs/tree"
        first = [self._entry("README.md", b"#"), {"type": "directory", "path": "train", "size": 0}]
        first += [self._entry("train/1.wav", WAV), self._entry("train/zips/more.zip", b"PK")]
        rest = json.dumps([self._entry("test/歌 2.flac", WAV + b"2")]).encode()
        following = {"Link": f'<{web.url}{base}/main?cursor=2>; rel="next"'}
        web.files |= {
            f"{base}/main?recursive=true": WebFile(json.dumps(first).encode(), following),
            f"{base}/main?cursor=2": WebFile(rest, {"Content-Type": "application/json"}),
            f"{base}/v2%2Fnew?recursive=true": WebFile(json.dumps([self._entry("a.parquet", b"P")]).encode()),
        }

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}


@pytest.fixture
def hub(web: WebFiles, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return Hub(web)


def test_a_dataset_of_a_hub_is_downloaded_by_name_with_the_operators_token_for_the_hub_alone(
    hub: Hub, datasets: Datasets, zipped: Zipped
) -> None:
    with web_files() as cdn:
        resolve = "/datasets/anna/songs/resolve/main"
        hub.web.files |= {
            f"{resolve}/train/1.wav": WebFile(WAV),
            f"{resolve}/train/zips/more.zip": WebFile(zipped({"3.wav": WAV})),
            f"{resolve}/test/%E6%AD%8C%202.flac": WebFile(status=302, headers={"Location": f"{cdn.url}/blob"}),
        }
        cdn.files["/blob"] = WebFile(WAV + b"2")
        made = datasets.settled(datasets.ask("hf://datasets/anna/songs"))
        assert made["status"] == "ready", made
        assert datasets.names(made) == ["test/歌 2.flac", "train/1.wav", "train/zips/more/3.wav"]
        assert {headers.get("Authorization") for _, headers in hub.web.asked} == {"Bearer hf_secret"}
        assert [headers.get("Authorization") for _, headers in cdn.asked] == [None]


@pytest.mark.parametrize(
    ("part", "names"),
    [("@main/train/1.wav", ["1.wav"]), ("/*/*.wav", ["train/1.wav"]), ("/train/zips", ["3.wav"])],
)
def test_a_part_of_a_dataset_of_a_hub_is_downloaded(
    hub: Hub, datasets: Datasets, zipped: Zipped, part: str, names: list[str]
) -> None:
    resolve = "/datasets/anna/songs/resolve/main"
    hub.web.files[f"{resolve}/train/1.wav"] = WebFile(WAV)
    hub.web.files[f"{resolve}/train/zips/more.zip"] = WebFile(zipped({"3.wav": WAV}))
    made = datasets.settled(datasets.ask(f"hf://datasets/anna/songs{part}"))
    assert datasets.names(made) == names, made


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://datasets/anna/songs@v2%2Fnew", "inside tables (parquet)"),
        ("hf://datasets/anna/songs/dev", "no audio file and no zip"),
        ("hf://datasets/anna/none", "the list of the files of anna/none on the hub: 127.0.0.1 answered 404"),
    ],
)
def test_a_dataset_of_a_hub_without_recordings_is_refused_with_the_reason(
    hub: Hub, datasets: Datasets, address: str, words: str
) -> None:
    made = datasets.settled(datasets.ask(address))
    assert made["status"] == "invalid"
    assert words in made["reason"]


def test_the_origin_of_a_hub_in_a_private_network_is_called_and_no_other_address_there(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with web_files() as web, web_files() as other:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        resolve = "/datasets/anna/songs/resolve/main"
        Hub(web)
        web.files[f"{resolve}/train/1.wav"] = WebFile(WAV)
        web.files[f"{resolve}/test/%E6%AD%8C%202.flac"] = WebFile(status=302, headers={"Location": f"{other.url}/x"})
        with serve(tmp_path) as server, server.client() as http:
            asked = {
                part: {"name": part, "url": f"hf://datasets/anna/songs/{part}"} for part in ("train/1.wav", "test")
            }
            ids = {part: http.post("/v1/datasets", json=body).json()["id"] for part, body in asked.items()}
            for part, status in (("train/1.wav", "ready"), ("test", "invalid")):
                eventually(
                    lambda part=part, status=status: http.get(f"/v1/datasets/{ids[part]}").json()["status"] == status
                )
        assert not other.asked
