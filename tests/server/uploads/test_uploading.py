"""Recordings over HTTP: from the raw body to a dataset that jobs may use, or a sentence on why not."""

import errno
import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rvc_train.schemas.datasets import DatasetReport, DatasetStatus, RecordingReport
from server.database.engine import read_session, write_session
from server.database.tables import Dataset
from server.datasets.ingest import ingest
from tests.raw_zips import raw_zip
from tests.systems import peak_bytes


@pytest.fixture
def put(http):
    return lambda content, name="anna": http.put(f"/v1/datasets/{name}/content", content=content)


@pytest.fixture
def settled(http, eventually):
    def wait(dataset_id):
        under_way = ("ingesting", "validating")
        eventually(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] not in under_way)
        return http.get(f"/v1/datasets/{dataset_id}").json()

    return wait


def uploaded(live):
    return [path.name for path in (live.context.storage.root / "uploads").glob("*")]


def stored(live):
    return sorted(path.name for path in (live.context.storage.root / "datasets").glob("*"))


def test_a_zip_becomes_a_dataset_that_is_examined_and_ready(put, settled, zipped, http):
    content = zipped({"a/1.wav": b"one", "a/2.wav": b"two", "readme.txt": b"x"})
    answer = put(content, "Анна's voice")
    assert answer.status_code == 201
    dataset = answer.json()
    assert answer.headers["location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["num_files"], dataset["size"]) == ("Анна's voice", 2, len(content))
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()
    assert dataset["notes"] == ["left out: 'readme.txt' (a text, a document or subtitles); the report names all"]
    assert settled(dataset["id"])["status"] == "ready"
    report = http.get(f"/v1/datasets/{dataset['id']}/report").json()
    assert [file["name"] for file in report["files"]] == ["a/1.wav", "a/2.wav"]


def test_the_same_bytes_under_the_same_name_are_kept_once(put, live):
    first = put(b"RIFFsame", "twice").json()
    before = stored(live)
    again = put(b"RIFFsame", "twice")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert stored(live) == before
    assert put(b"RIFFsame", "another name").status_code == 201


def test_the_same_upload_twice_at_once_is_kept_once(live, authorized):
    before = stored(live)

    def put(_):
        return httpx.put(f"{live.url}/v1/datasets/race/content", content=b"RIFF race", headers=authorized, timeout=30)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(put, range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(stored(live)) == len(before) + 1
    assert not uploaded(live)


def test_stored_recordings_that_cannot_be_linked_are_copied_not_unpacked_again(put, live, monkeypatch):
    first = put(b"RIFF copied", "original").json()

    def too_many_links(*_):
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr("server.blobs.copies.os.link", too_many_links)
    monkeypatch.setattr("server.datasets.ingestion.ingest", None)
    answer = put(b"RIFF copied", "copy")
    folders = [live.context.storage.dataset_folder(each["id"]) for each in (first, answer.json())]
    assert answer.status_code == 201
    assert [path.read_bytes() for path in sorted(folders[1].iterdir())] == [
        path.read_bytes() for path in sorted(folders[0].iterdir())
    ]


def test_recordings_deleted_while_they_are_copied_are_unpacked(put, live, monkeypatch):
    put(b"RIFF deleted", "original")

    def failing(*_):
        raise FileNotFoundError(errno.ENOENT, "no such file")

    monkeypatch.setattr("server.datasets.ingestion.link_or_copy", failing)
    copy = put(b"RIFF deleted", "copy")
    assert copy.status_code == 201
    assert (live.context.storage.dataset_folder(copy.json()["id"]) / "000001.wav").read_bytes() == b"RIFF deleted"


def test_a_disk_that_is_full_delays_an_ingestion_and_says_so(put, live, settled, monkeypatch):
    monkeypatch.setattr("server.datasets.ingestion.RETRY_SECONDS", 0.1)
    is_full = threading.Event()
    is_full.set()

    def failing(*arguments):
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "no space left")
        return ingest(*arguments)

    monkeypatch.setattr("server.datasets.ingestion.ingest", failing)
    answer = put(b"RIFF of a full disk" + os.urandom(8), "waiting")  # another one at a second try
    assert (answer.status_code, answer.json()["status"]) == (202, "ingesting")
    assert "the server's disk is full" in answer.json()["reason"]
    is_full.clear()
    dataset = settled(answer.json()["id"])
    assert (dataset["status"], dataset["reason"], dataset["num_files"]) == ("ready", None, 1)


def test_an_upload_whose_sender_hangs_up_leaves_nothing(live, eventually, authorized):
    before = stored(live)
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2]))) as line:
        headers = authorized | {"Host": "localhost", "Content-Length": "5000000"}
        head = "PUT /v1/datasets/half/content HTTP/1.1\r\n" + "".join(
            f"{name}: {headers[name]}\r\n" for name in headers
        )
        line.sendall(head.encode() + b"\r\n" + b"R" * 2_000_000)
        eventually(lambda: uploaded(live))
    eventually(lambda: not uploaded(live))
    assert stored(live) == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"PK\x05\x06" + bytes(18), "the zip is empty"), (b"PK\x03\x04 no zip", "damaged")],
)
def test_a_bad_upload_is_422_with_a_sentence_and_leaves_nothing(put, live, eventually, content, sentence):
    before = stored(live)
    answer = put(content, "bad")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert sentence in answer.json()["detail"]
    assert stored(live) == before
    eventually(lambda: not list(live.context.storage.incoming.glob("*")))
    assert not uploaded(live)


@pytest.mark.parametrize("name", ["a%00b", "x" * 201, "%20", "a%07"])
def test_a_name_that_is_no_printable_text_is_refused(put, name):
    assert put(b"RIFF", name).status_code == 422


def test_jobs_wait_for_the_report_and_fail_with_its_reason(put, settled, http, eventually):
    dataset = put(b"RIFF BAD", "silent").json()
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]})
    if job.status_code == 422:  # the report was faster
        assert "no sound in any file" in job.json()["detail"]
        return
    eventually(lambda: http.get(job.headers["location"]).json()["status"] == "failed")
    error = http.get(job.headers["location"]).json()["error"]
    assert error == {"code": "invalid_dataset", "message": "no sound in any file", "retryable": False}


def test_a_job_on_an_invalid_dataset_is_refused_at_once(put, settled, http):
    dataset = put(b"RIFF BAD again", "silent").json()
    assert settled(dataset["id"])["reason"] == "no sound in any file"
    answer = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/dataset_id")


def test_recordings_that_keep_the_decoder_busy_hold_up_only_their_owner_and_are_not_tried_twice(serve, tmp_path):
    admin = {"Authorization": "Bearer " + "a" * 32}
    with serve(tmp_path, token="a" * 32, report_timeout_seconds=3) as server, server.client() as http:

        def put(owner, content):
            made = http.post("/v1/tokens", json={"owner": owner, "scopes": ["submit"]}, headers=admin).json()
            token = {"Authorization": f"Bearer {made['secret']}"}
            return http.put(f"/v1/datasets/{content.decode()}/content", content=b"RIFF" + content, headers=token).json()

        slow = [put("anna", b"SLOW%d" % n)["id"] for n in range(3)]
        good = put("bob", b"good")["id"]

        def status(dataset_id):
            return http.get(f"/v1/datasets/{dataset_id}", headers=admin).json()["status"]

        began = time.monotonic()
        while status(good) == "validating":
            time.sleep(0.05)
        assert time.monotonic() - began < 3
        assert [status(each) for each in slow] == ["validating"] * 3
        while status(slow[0]) == "validating":
            time.sleep(0.05)
        assert time.monotonic() - began < 6
        assert status(slow[0]) == "invalid"


def test_a_recording_that_crashes_the_decoder_makes_its_dataset_invalid_and_nothing_else(put, settled):
    dataset = settled(put(b"RIFF CRASH", "crash").json()["id"])
    assert dataset["status"] == "invalid"
    assert "crashed the decoder" in dataset["reason"]
    assert settled(put(b"RIFF fine", "after the crash").json()["id"])["status"] == "ready"


@pytest.mark.parametrize(("content", "status"), [(b"RIFF ENVIRONMENT", "ready"), (b"RIFF GREEDY", "invalid")])
def test_the_report_runs_with_little_memory_and_without_the_servers_secrets(
    tmp_path, serve, eventually, monkeypatch, content, status
):
    token = "x" * 20
    monkeypatch.setenv("RVC_TRAIN_TOKEN", token)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the server's")
    with (
        serve(tmp_path, token=token, report_memory_bytes=2**30) as server,
        server.client(Authorization=f"Bearer {token}") as http,
    ):
        dataset_id = http.put("/v1/datasets/a/content", content=content).json()["id"]
        eventually(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] in {"ready", "invalid"})
        assert http.get(f"/v1/datasets/{dataset_id}").json()["status"] == status


def test_an_examination_that_takes_too_long_is_ended(tmp_path, serve, eventually):
    with serve(tmp_path, report_timeout_seconds=0.3) as server, server.client() as http:
        dataset_id = http.put("/v1/datasets/slow/content", content=b"RIFF SLOW").json()["id"]
        assert http.get(f"/v1/datasets/{dataset_id}/report").status_code == 409
        eventually(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "invalid")


def test_an_examination_cut_off_by_a_restart_begins_again(tmp_path, serve, eventually):
    with serve(tmp_path) as server, server.client() as http:
        dataset = http.put("/v1/datasets/slow/content", content=b"RIFF SLOW").json()
        job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]}).json()
        recording = server.context.storage.dataset_folder(dataset["id"]) / "000001.wav"
    recording.write_bytes(b"RIFF quick")
    with serve(tmp_path) as server, server.client() as http:
        eventually(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued")


def test_an_upload_beyond_the_limit_is_413_whether_it_says_its_length_or_not(tmp_path, serve):
    with serve(tmp_path, max_upload_bytes=1000) as server, server.client() as http:
        assert http.put("/v1/datasets/big/content", content=b"R" * 1001).status_code == 413
        assert http.put("/v1/datasets/big/content", content=iter([b"R" * 600, b"R" * 600])).status_code == 413
        assert http.put("/v1/datasets/big/content", content=b"R" * 1000).status_code == 201


def test_a_full_disk_is_507_before_a_byte_is_taken(tmp_path, serve):
    with serve(tmp_path, disk_reserve_bytes=10**18) as server, server.client() as http:
        answer = http.put("/v1/datasets/big/content", content=b"RIFF")
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (507, "no_space", True)
        assert http.get("/readyz").status_code == 503


def test_a_dataset_in_use_stays_and_one_that_is_not_goes_with_all_its_files(put, settled, http, live):
    dataset = settled(put(b"RIFF in use", "used").json()["id"])
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"]}).json()
    cache = live.context.storage.cache_folder(dataset["id"])
    cache.mkdir(parents=True)
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 409
    http.post(f"/v1/jobs/{job['id']}/cancel")
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert not cache.exists()
    assert dataset["id"] not in stored(live)
    for path in (f"/v1/datasets/{dataset['id']}", f"/v1/datasets/{dataset['id']}/report"):
        assert http.get(path).status_code == 404
    assert put(b"RIFF in use", "used").status_code == 201


def test_of_a_dataset_deleted_while_it_was_examined_nothing_is_kept(live):
    dataset_id = live.bench.dataset()
    with write_session(live.context.engine) as session:
        session.get(Dataset, dataset_id).status = DatasetStatus.VALIDATING
    live.context.datasets.delete(dataset_id)
    found = DatasetReport(usable=True, files=[RecordingReport(name="my voice.wav")])
    live.context.datasets.finish_validation(dataset_id, found)
    with read_session(live.context.engine) as session:
        assert session.get(Dataset, dataset_id).report is None


def test_datasets_are_listed_in_pages_newest_first(tmp_path, serve):
    with serve(tmp_path) as server, server.client() as http:
        ids = [http.put(f"/v1/datasets/{i}/content", content=b"RIFF").json()["id"] for i in range(3)][::-1]
        first = http.get("/v1/datasets", params={"limit": 2})
        assert [each["id"] for each in first.json()["data"]] == ids[:2]
        assert first.json()["has_more"]
        second = http.get(first.links["next"]["url"]).json()
        assert ([each["id"] for each in second["data"]], second["next_cursor"]) == (ids[2:], None)


def test_a_large_upload_is_never_held_in_memory(tmp_path, serve):
    """The body is 96 MiB; the process (server and test together) may grow by a third of that at most."""

    def body():
        yield b"RIFF"
        for _ in range(96):
            yield bytes(2**20)

    with serve(tmp_path) as server, server.client() as http:
        http.put("/v1/datasets/small/content", content=b"RIFF")
        before = peak_bytes()
        assert http.put("/v1/datasets/large/content", content=body()).status_code == 202
        assert peak_bytes() - before < 32 * 2**20


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("AC%2FDC", "AC/DC"),
        ("a%2Fcontent%2Fb", "a/content/b"),
        ("..%2Fx", "../x"),
        ("-takes.%20", "-takes."),
        ("CON", "CON"),
    ],
)
def test_a_datasets_name_is_no_path(put, http, path, name):
    answer = put(b"RIFF " + name.encode(), path)
    assert (answer.status_code, answer.json().get("name")) == (201, name), answer.text


def test_a_zip_read_in_another_code_page_is_another_dataset_of_the_same_bytes(http):
    content = raw_zip([("משה/דוד.wav".encode("cp1255"), b"RIFF"), (b"a/b.wav", b"RIFF")])
    guessed = http.put("/v1/datasets/anna/content", content=content).json()
    assert "this is a guess" in guessed["notes"][0]
    decided = http.put("/v1/datasets/anna/content?zip_names=windows-1255", content=content)
    assert (decided.status_code, decided.json()["zip_names"]) == (201, "cp1255")
    assert decided.json()["notes"] == ["names in the zip were read as CP1255 (Hebrew, Windows)"]
    assert decided.json()["id"] != guessed["id"]
    by_hash = {"name": "other", "sha256": guessed["sha256"]}
    assert http.post("/v1/datasets", json=by_hash | {"zip_names": "cp862"}).status_code == 404
    linked = http.post("/v1/datasets", json=by_hash | {"zip_names": "cp1255"}).json()
    assert linked["notes"] == decided.json()["notes"]
    refused = http.put("/v1/datasets/anna/content?zip_names=nonsense", content=content)
    assert (refused.status_code, "use one of shift-jis" in refused.text) == (422, True)
