"""From a complete upload to a dataset: once, whatever is refused, repeated or interrupted."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rvc_train.schemas.access import Quota
from server.database.tables import Upload
from server.datasets.ingest import ingest
from server.storage.local import Storage

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
NUMBERS = itertools.count()


def uploaded(http: httpx.Client, content: bytes) -> str:
    """Id of a complete upload."""
    made = http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(len(content))})
    assert made.status_code == 201, made.text
    assert http.patch(made.headers["location"], content=content, headers=PIECE).status_code == 204
    return made.headers["location"].rpartition("/")[2]


def admitted(http: httpx.Client, upload_id: str, name: str = "anna") -> httpx.Response:
    return http.post("/v1/datasets", json={"name": name, "upload_id": upload_id})


def is_whole(http: httpx.Client, upload_id: str, content: bytes) -> bool:
    headers = http.head(f"/v1/uploads/{upload_id}", headers=TUS).headers
    return int(headers["upload-offset"]) == len(content)


def status(http: httpx.Client, dataset_id: str) -> str:
    return http.get(f"/v1/datasets/{dataset_id}").json()["status"]


@pytest.fixture
def recordings(zipped: Callable[..., bytes]) -> Callable[[], bytes]:
    """`recordings()`: a zip of two recordings, each time another, which unpacks to much more than its size."""
    return lambda: zipped({f"{next(NUMBERS)}.wav": b"RIFF" + bytes(20_000), "b.wav": b"RIFF" + bytes(20_000)})


@pytest.fixture
def damaged(recordings: Callable[[], bytes]) -> Callable[[], bytes]:
    """`damaged()`: a zip that is known to be damaged only when it is unpacked."""

    def make() -> bytes:
        content = bytearray(recordings())
        content[50] ^= 0x55
        return bytes(content)

    return make


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Ingestion waits for this event, and no request waits for ingestion."""
    monkeypatch.setattr("server.api.datasets.SMALL_BYTES", -1)
    event = threading.Event()

    def waiting(*arguments: Any) -> Any:
        while not event.wait(0.02):
            arguments[-1]()  # raises when the server stops
        return ingest(*arguments)

    monkeypatch.setattr("server.datasets.ingestion.ingest", waiting)
    yield event
    event.set()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.sqlite)])
def any_database(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of a server on SQLite, and on PostgreSQL."""
    return {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgres").new_database()}


def test_one_upload_is_one_dataset_however_often_and_at_once_it_is_asked_for(
    serve: Callable[..., Any], tmp_path: Path, any_database: dict[str, str], eventually: Callable[..., None]
) -> None:
    with serve(tmp_path, **any_database) as server, server.client() as http:
        for number in range(3):
            upload_id = uploaded(http, b"RIFF%d" % number + bytes(1000))
            start = threading.Barrier(4)

            def post(_: int) -> httpx.Response:
                with server.client() as own:
                    start.wait()  # noqa: B023 - of this turn
                    return admitted(own, upload_id)  # noqa: B023

            with ThreadPoolExecutor(4) as threads:
                answers = list(threads.map(post, range(4)))
            answers.append(admitted(http, upload_id))
            assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
            assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(http.get("/v1/datasets").json()["data"]) == 3
        assert len(list((tmp_path / "datasets").iterdir())) == 3
        eventually(lambda: not list((tmp_path / "uploads").iterdir()))


def test_the_same_bytes_uploaded_twice_at_once_are_one_dataset(
    serve: Callable[..., Any], tmp_path: Path, any_database: dict[str, str]
) -> None:
    with serve(tmp_path, **any_database) as server, server.client() as http:
        uploads = [uploaded(http, b"RIFF" + bytes(1000)) for _ in range(4)]

        def post(upload_id: str) -> httpx.Response:
            with server.client() as own:
                return admitted(own, upload_id)

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(post, uploads))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
        assert len({answer.json()["id"] for answer in answers}) == 1


def test_an_upload_that_the_quota_refuses_is_whole_and_is_admitted_later(
    serve: Callable[..., Any], tmp_path: Path, recordings: Callable[[], bytes]
) -> None:
    content = recordings()
    with serve(tmp_path, quota_bytes=10_000) as server, server.client() as http:
        upload_id = uploaded(http, content)
        refused = admitted(http, upload_id)
        assert (refused.status_code, refused.json()["code"]) == (507, "quota_exceeded")
        assert is_whole(http, upload_id, content)
        server.context.quotas.set("local", Quota(max_bytes=100_000))
        assert admitted(http, upload_id).status_code == 201


def test_an_upload_of_exactly_the_quota_is_admitted(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, quota_bytes=1000) as server, server.client() as http:
        assert admitted(http, uploaded(http, b"RIFF" + bytes(996))).status_code == 201


def test_an_upload_whose_archive_is_refused_is_whole_and_is_admitted_under_other_limits(
    serve: Callable[..., Any], tmp_path: Path, recordings: Callable[[], bytes]
) -> None:
    content = recordings()
    with serve(tmp_path, max_files=1) as server, server.client() as http:
        upload_id = uploaded(http, content)
        for _ in range(2):
            assert admitted(http, upload_id).status_code == 413
        assert is_whole(http, upload_id, content)
    with serve(tmp_path) as server, server.client() as http:
        assert admitted(http, upload_id).json()["num_files"] == 2


def test_a_large_archive_is_ingested_in_the_background_and_its_jobs_wait(
    http: httpx.Client, held: threading.Event, recordings: Callable[[], bytes], eventually: Callable[..., None]
) -> None:
    upload_id = uploaded(http, recordings())
    dataset = admitted(http, upload_id).json()
    assert (dataset["status"], dataset["num_files"]) == ("ingesting", 0)
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]})
    assert (job.status_code, job.json()["status"]) == (202, "validating")
    assert http.get(f"/v1/datasets/{dataset['id']}/report").status_code == 409
    again = admitted(http, upload_id)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, dataset["id"], "ingesting")
    assert http.delete(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 409
    held.set()
    eventually(lambda: status(http, dataset["id"]) == "ready")
    eventually(lambda: http.get(job.headers["location"]).json()["status"] == "queued")
    assert http.get(f"/v1/datasets/{dataset['id']}").json()["num_files"] == 2


def test_a_small_archive_that_is_damaged_inside_is_an_error_of_the_request_and_leaves_only_its_upload(
    serve: Callable[..., Any], tmp_path: Path, damaged: Callable[[], bytes]
) -> None:
    with serve(tmp_path) as server, server.client() as http:
        content = damaged()
        upload_id = uploaded(http, content)
        for answer in (
            http.put("/v1/datasets/anna/content", content=content),
            admitted(http, upload_id),
            admitted(http, upload_id),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, "upload_refused")
            assert "damaged" in answer.json()["detail"]
        assert is_whole(http, upload_id, content)
        assert http.get("/v1/datasets").json()["data"] == []
        assert [path.name for path in (tmp_path / "uploads").iterdir()] == [upload_id]
        assert not list((tmp_path / "datasets").iterdir())


def test_a_large_archive_that_is_damaged_inside_makes_its_dataset_invalid_with_the_reason(
    http: httpx.Client,
    held: threading.Event,
    damaged: Callable[[], bytes],
    eventually: Callable[..., None],
    live: Any,
) -> None:
    content = damaged()
    upload_id = uploaded(http, content)
    dataset = admitted(http, upload_id).json()
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]}).json()
    held.set()
    eventually(lambda: status(http, dataset["id"]) == "invalid")
    found = http.get(f"/v1/datasets/{dataset['id']}").json()
    assert "damaged" in found["reason"]
    assert http.get(f"/v1/datasets/{dataset['id']}/report").json()["reason"] == found["reason"]
    failed = http.get(f"/v1/jobs/{job['id']}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "invalid_dataset")
    assert is_whole(http, upload_id, content)
    assert not live.context.storage.dataset_home(dataset["id"]).exists()
    again = admitted(http, upload_id)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (202, dataset["id"], "ingesting")


def test_an_ingestion_that_was_interrupted_goes_on_at_the_next_start(
    serve: Callable[..., Any],
    tmp_path: Path,
    held: threading.Event,
    recordings: Callable[[], bytes],
    eventually: Callable[..., None],
) -> None:
    with serve(tmp_path) as server, server.client() as http:
        resumable = admitted(http, uploaded(http, recordings())).json()["id"]
        single = http.put("/v1/datasets/bob/content", content=recordings()).json()["id"]
        assert [status(http, each) for each in (resumable, single)] == ["ingesting"] * 2
        partial = server.context.storage.dataset_home(resumable) / "incoming"
    partial.mkdir(parents=True)
    (partial / "000001.wav").write_bytes(b"RIF")
    held.set()
    with serve(tmp_path) as server, server.client() as http:
        eventually(lambda: [status(http, each) for each in (resumable, single)] == ["ready"] * 2)
        assert [path.name for path in (tmp_path / "datasets" / resumable).iterdir()] == ["recordings"]
        assert not list((tmp_path / "uploads").iterdir())


def test_expiry_never_takes_an_upload_that_is_becoming_a_dataset(
    serve: Callable[..., Any], tmp_path: Path, held: threading.Event, eventually: Callable[..., None]
) -> None:
    with serve(tmp_path, upload_expire_hours=1 / 3600) as server, server.client() as http:
        dataset_id = admitted(http, uploaded(http, b"RIFF" + bytes(1000))).json()["id"]
        file = next((tmp_path / "uploads").iterdir())
        eventually(lambda: http.head(f"/v1/uploads/{uploaded(http, b'RIFF')}", headers=TUS).status_code == 200)
        threading.Event().wait(1.1)  # beyond its expiry, whatever happened so far
        assert server.context.uploads.expire() >= 0
        assert file.exists()
        held.set()
        eventually(lambda: status(http, dataset_id) == "ready")
        assert not file.exists()


def test_a_dataset_deleted_while_it_is_ingested_leaves_nothing(
    http: httpx.Client,
    held: threading.Event,
    recordings: Callable[[], bytes],
    eventually: Callable[..., None],
    live: Any,
) -> None:
    upload_id = uploaded(http, recordings())
    dataset_id = admitted(http, upload_id).json()["id"]
    assert http.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert http.head(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 404
    held.set()
    home, file = live.context.storage.dataset_home(dataset_id), live.context.uploads.path(upload_id)
    eventually(lambda: not live.context.ingestion._owners_running)
    assert (home.exists(), file.exists()) == (False, False)


def test_archives_that_are_long_to_read_keep_no_other_request_waiting(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.http.threads.NUM_READERS", 2)
    begun, release = threading.Semaphore(0), threading.Event()

    def slow(*_: Any) -> int:
        begun.release()
        release.wait(30)
        return 1000

    monkeypatch.setattr("server.datasets.admission.unpacked_bytes", slow)
    with serve(tmp_path) as server, server.client() as http, ThreadPoolExecutor(4) as threads:
        uploads = [uploaded(http, b"RIFF%d" % number) for number in range(4)]

        def post(upload_id: str) -> int:
            with server.client() as own:
                return admitted(own, upload_id, upload_id).status_code

        answers = threads.map(post, uploads)
        try:
            assert begun.acquire(timeout=20)
            assert begun.acquire(timeout=20)
            assert http.get("/v1/datasets").json()["data"] == []
        finally:
            release.set()
        assert list(answers) == [201] * 4


# Room


@pytest.fixture
def cramped(serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A server with room for 100 kB."""
    monkeypatch.setattr(Storage, "free_bytes", lambda _: 100_000)
    with serve(tmp_path) as server, server.client() as http:
        yield http


def create(http: httpx.Client, length: int) -> httpx.Response:
    return http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)})


def test_two_uploads_cannot_both_have_the_same_room(cramped: httpx.Client) -> None:
    first = create(cramped, 60_000)
    refused = create(cramped, 60_000)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (507, "no_space", True)
    assert "reserved for uploads under way" in refused.json()["detail"]
    assert cramped.put("/v1/datasets/a/content", content=b"RIFF" + bytes(60_000)).status_code == 507
    assert create(cramped, 40_000).status_code == 201
    assert cramped.delete(first.headers["location"], headers=TUS).status_code == 204
    assert create(cramped, 60_000).status_code == 201


def test_an_upload_whose_recordings_have_no_room_does_not_keep_the_disk_full(
    serve: Callable[..., Any], tmp_path: Path, recordings: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "free_bytes", lambda _: 30_000)
    with serve(tmp_path) as server, server.client() as http:
        content = recordings()  # 40 kB of recordings
        upload_id = uploaded(http, content)
        refused = admitted(http, upload_id)
        assert (refused.status_code, refused.json()["code"]) == (507, "no_space")
        assert "the upload is deleted" in refused.json()["detail"]
        assert list((tmp_path / "uploads").iterdir()) == []
        assert http.head(f"/v1/uploads/{upload_id}", headers=TUS).status_code == 404
        monkeypatch.setattr(Storage, "free_bytes", lambda _: 100_000)
        assert admitted(http, uploaded(http, content)).status_code == 201


def test_of_many_uploads_at_once_only_those_that_have_room_are_taken(
    serve: Callable[..., Any], tmp_path: Path, any_database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "free_bytes", lambda _: 100_000)
    with serve(tmp_path, **any_database) as server, ThreadPoolExecutor(8) as threads:

        def post(_: int) -> int:
            with server.client() as http:
                return create(http, 30_000).status_code

        assert sorted(threads.map(post, range(8))) == [201] * 3 + [507] * 5


def test_an_archive_that_is_being_unpacked_has_its_room_and_its_owners_quota(
    cramped: httpx.Client, held: threading.Event, recordings: Callable[[], bytes], eventually: Callable[..., None]
) -> None:
    dataset = admitted(cramped, uploaded(cramped, recordings())).json()
    assert dataset["status"] == "ingesting"
    assert cramped.get("/v1/me").json()["usage"]["bytes"] == 40_008
    assert create(cramped, 70_000).status_code == 507
    held.set()
    eventually(lambda: status(cramped, dataset["id"]) == "ready")
    assert create(cramped, 70_000).status_code == 201


def test_an_upload_that_sends_nothing_keeps_its_room_for_an_hour_and_needs_it_anew_to_go_on(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "free_bytes", lambda _: 100_000)
    with serve(tmp_path) as server, server.client() as http:
        idle = create(http, 60_000).headers["location"]
        assert create(http, 60_000).status_code == 507
        with server.context.engine.begin() as connection:
            late = sa.update(Upload).values(expires_at=datetime.now(UTC) + timedelta(hours=22.9))
            connection.execute(late)
        other = create(http, 60_000)
        assert other.status_code == 201
        assert http.patch(idle, content=b"RIFF", headers=PIECE).status_code == 507
        assert http.delete(other.headers["location"], headers=TUS).status_code == 204
        assert http.patch(idle, content=b"RIFF", headers=PIECE).status_code == 204
        assert create(http, 60_000).status_code == 507
