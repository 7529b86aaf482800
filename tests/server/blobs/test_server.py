"""A server with a store behind its data folder: what is kept lies there, and comes back when it is asked for."""

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from rvc_engine.checkpoints.manifest import CheckpointEntry
from rvc_train import Client, connect
from server.admin.backup import back_up
from server.admin.cli import app
from server.admin.store_upkeep import StoreUpkeep
from server.blobs.interface import BlobStore
from server.errors import SettingsRefused
from server.results.checkpoints import StoredCheckpoints
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.local_copies import LocalCopies
from server.storage.orphans import Orphans
from server.storage.tier import AWAY
from tests.server.conftest import USUAL_TOKEN, publish, wait_until

SOUND = b"RIFF a recording" * 100
VOICE = bytes(range(256)) * 400
DATABASE = "rvc-train.db"


@pytest.fixture
def url(blobs: BlobStore) -> str:
    return blobs.address


def upload(http: httpx.Client, name: str = "anna.wav", content: bytes = SOUND) -> str:
    """A dataset of one recording that is ready; returns its id."""
    dataset_id = send(http, name, content)
    wait_until(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "ready")
    return dataset_id


def send(http: httpx.Client, name: str, content: bytes) -> str:
    made = http.put(f"/v1/datasets/{name}/content", content=content)
    assert made.status_code in {200, 201, 202}, made.text
    dataset_id: str = made.json()["id"]
    return dataset_id


def train(server: Any, dataset_id: str) -> Any:
    """A job on a dataset that has written a log, a checkpoint and a voice; returns its lease."""
    bench, storage = server.bench, server.context.storage
    job = bench.job(dataset_id=dataset_id)
    lease = bench.claim()
    assert lease.job_id == job.id
    storage.job_log(job.id).write_text("line one\nline two\n")
    publish(server.context, lease, VOICE, "anna.pth")
    store_checkpoint(storage, lease, 7)
    return lease


def store_checkpoint(storage: Storage, lease: Any, step: int) -> CheckpointEntry:
    content = b"nets %d" % step
    source = storage.workspace(lease.job_id) / "made.pt"
    source.write_bytes(content)
    entry = CheckpointEntry(f"step_{step:09d}.pt", step, 1, len(content), hashlib.sha256(content).hexdigest())
    StoredCheckpoints(storage, lease.job_id).store(lease.token, entry, source, {})
    source.unlink()
    return entry


def lose_all_but_the_database(folder: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith(DATABASE):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_server_on_an_empty_data_folder_has_everything_again(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        dataset_id = upload(http)
        lease = train(server, dataset_id)
        upkeep = StoreUpkeep(server.context.engine, server.context.storage, server.context.settings)
        upkeep.run()
        with server.context.storage.job_log(lease.job_id).open("a") as log:
            log.write("line three\n")
        upkeep.run()
    lose_all_but_the_database(tmp_path / "data")
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        job = f"/v1/jobs/{lease.job_id}"
        (artifact,) = http.get(f"{job}/artifacts").json()["data"]
        got = http.get(artifact["url"])
        assert (got.content, got.headers["ETag"]) == (VOICE, f'"{hashlib.sha256(VOICE).hexdigest()}"')
        ranged = http.get(artifact["url"], headers={"Range": "bytes=1000-1999"})
        assert (ranged.status_code, ranged.content) == (206, VOICE[1000:2000])
        zipped = http.get(f"{job}/artifacts.zip")
        assert zipfile.ZipFile(io.BytesIO(zipped.content)).read("anna.pth") == VOICE
        assert http.get(f"{job}/logs").text == "line one\nline two\nline three\n"
        assert http.get(f"/v1/datasets/{dataset_id}/recordings/1").content == SOUND
        storage = server.context.storage
        recordings = storage.recordings(dataset_id)
        assert (recordings / "000001.wav").read_bytes() == SOUND
        assert not (recordings / AWAY).exists()
        run = StoredCheckpoints(storage, lease.job_id).latest()
        assert run is not None
        assert run.newest.fault(run.folder) is None


def test_deleting_takes_the_files_from_the_store(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        dataset_id = upload(http)
        lease = train(server, dataset_id)
        server.context.jobs.succeed(lease)
        assert {"datasets", "jobs"} <= blobs.names("")
        assert http.delete(f"/v1/jobs/{lease.job_id}").status_code == 204
        assert http.delete(f"/v1/datasets/{dataset_id}").status_code == 204
        assert [blob.key for blob in blobs.list("")] == ["instance.json"]


def test_of_checkpoints_the_store_has_those_that_the_folder_has(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        lease = train(server, upload(http))
        for step in (8, 9):
            store_checkpoint(server.context.storage, lease, step)
        folder = server.context.storage.checkpoints(lease.job_id, lease.token)
        stored = blobs.list(server.context.storage.tier.key_of(folder))
        assert {blob.key.rpartition("/")[2] for blob in stored} == {path.name for path in folder.iterdir()}


def test_copies_that_are_not_used_go_beyond_the_limit_and_come_back(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        dataset_id = upload(http)
        lease = train(server, dataset_id)
        storage, engine = server.context.storage, server.context.engine
        StoreUpkeep(engine, storage, server.context.settings).run()
        voice = next(storage.root.glob("jobs/*/attempts/*/artifacts/*"))

        def trim(hours: float = 2) -> int:
            return LocalCopies(engine, storage, 0, lambda: datetime.now(UTC) + timedelta(hours=hours)).trim()

        assert trim() == 0  # the job has not ended
        server.context.jobs.succeed(lease)
        assert trim(hours=0.5) == 0  # used a moment ago
        assert trim() > len(VOICE)
        assert not voice.exists()
        assert [path.name for path in storage.dataset_folder(dataset_id).iterdir()] == [AWAY]
        assert storage.recordings(dataset_id) == storage.dataset_folder(dataset_id)
        assert (storage.dataset_folder(dataset_id) / "000001.wav").read_bytes() == SOUND
        assert http.get(http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"]).content == VOICE
        assert not voice.exists()  # a download needs no copy here


def test_a_copy_of_which_the_store_has_not_all_stays(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        lease = train(server, upload(http))
        server.context.jobs.succeed(lease)
        storage = server.context.storage
        voice = next(storage.root.glob("jobs/*/attempts/*/artifacts/*"))
        blobs.delete(storage.tier.key_of(voice))
        later = datetime.now(UTC) + timedelta(hours=2)
        LocalCopies(server.context.engine, storage, 0, lambda: later).trim()
        assert voice.exists()
        assert storage.tier.send_missing() == 1
        assert storage.tier.has(voice)


def test_files_in_the_store_without_a_row_go_after_the_days_of_the_trash(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        upload(http)
        (tmp_path / "source").write_bytes(b"x")
        blobs.put(f"jobs/job_{'0' * 32}/start/generator.pth", tmp_path / "source", hashlib.sha256(b"x").hexdigest())
        storage, engine, now = server.context.storage, server.context.engine, datetime.now(UTC)
        Orphans(engine, storage, 7, 60, lambda: now + timedelta(days=6)).collect()
        assert len(list(blobs.list("jobs"))) == 1
        Orphans(engine, storage, 7, 60, lambda: now + timedelta(days=8)).collect()
        assert list(blobs.list("jobs")) == []
        assert len(blobs.names("datasets")) == 1


def test_a_data_folder_that_had_all_files_gives_them_to_the_store(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data") as server, server.client() as http:
        dataset_id = upload(http)
        lease = train(server, dataset_id)
    with serve(tmp_path / "data", storage_url=url) as server:
        StoreUpkeep(server.context.engine, server.context.storage, server.context.settings).run()
    names = {blob.key.rpartition("/")[2] for blob in blobs.list("")}
    assert {"000001.wav", "recordings.json", hashlib.sha256(VOICE).hexdigest(), "step_000000007.pt"} <= names
    assert f"jobs/{lease.job_id}/log/{0:016d}" in {blob.key for blob in blobs.list("")}


def test_the_store_of_another_installation_is_refused(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from server.storage.instances import open_instance

    with serve(tmp_path / "one", storage_url=url):
        pass
    with serve(tmp_path / "two") as server:
        storage = Storage(tmp_path / "two", blobs)
        with pytest.raises(SettingsRefused, match="belongs to the instance ins_"):
            open_instance(server.context.engine, storage)


def test_a_data_folder_with_a_store_is_refused_without_it(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    from server.storage.instances import check_store

    with serve(tmp_path / "data", storage_url=url):
        pass
    with pytest.raises(SettingsRefused, match="set RVC_TRAIN_STORAGE_URL to it"):
        check_store(Storage(tmp_path / "data"))
    check_store(Storage(tmp_path / "data", blobs))


@pytest.mark.parametrize("settings", [{"presigned_downloads": True}, {"storage_cache_bytes": 10**9}])
def test_a_setting_for_a_store_is_refused_without_one(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="set RVC_TRAIN_STORAGE_URL, or remove it"):
        ServerSettings(data_folder=tmp_path, **settings)
    assert ServerSettings(data_folder=tmp_path, storage_url=f"file://{tmp_path}", **settings).storage_url is not None


def test_while_the_store_is_away_datasets_wait_and_what_is_sent_at_once_gets_503(
    serve: Callable[..., Any], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.datasets.ingestion.RETRY_SECONDS", 0.2)
    if not url.startswith("file:"):
        pytest.skip("a folder is taken away sooner")
    store = tmp_path / "store"
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        lease = train(server, upload(http, content=SOUND + b"1"))
        store.rename(tmp_path / "away")
        bob = send(http, "bob.wav", SOUND)
        wait_until(lambda: "RVC_TRAIN_STORAGE_URL" in (http.get(f"/v1/datasets/{bob}").json()["reason"] or ""))
        for path in server.context.storage.root.glob("jobs/*/attempts/*/artifacts/*"):
            path.unlink()
        answer = http.get(http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"])
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        (tmp_path / "away").rename(store)
        wait_until(lambda: http.get(f"/v1/datasets/{bob}").json()["status"] == "ready")
        assert http.get(http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"]).content == VOICE


@pytest.mark.cluster
def test_with_presigned_downloads_files_come_from_the_store_itself(
    serve: Callable[..., Any], seaweed: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=f"{seaweed}/presigned", presigned_downloads=True) as server:
        with server.client() as http:
            lease = train(server, upload(http))
            url = http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"]
            answer = http.get(url)
            assert (answer.status_code, answer.headers["Cache-Control"]) == (307, "no-store")
            assert answer.headers["ETag"] == f'"{hashlib.sha256(VOICE).hexdigest()}"'
            there = httpx.get(answer.headers["Location"])
            assert there.content == VOICE
            assert there.headers["Content-Disposition"].startswith('attachment; filename="anna.pth"')
            assert http.get(url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
            assert http.head(url).status_code == 200
            rest = http.get(url, headers={"Range": "bytes=1000-", "If-Range": answer.headers["ETag"]})
            assert (rest.status_code, rest.content) == (206, VOICE[1000:])
        with Client(connect(server.url, USUAL_TOKEN), memory=tmp_path) as client:
            artifact = client.artifacts(lease.job_id)[0]
            assert client.download_artifact(artifact, tmp_path).read_bytes() == VOICE


def test_a_store_without_addresses_has_downloads_sent_by_the_server(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = (tmp_path / "store").as_uri()
    with serve(tmp_path / "data", storage_url=store, presigned_downloads=True) as server, server.client() as http:
        lease = train(server, upload(http))
        assert http.get(http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"]).content == VOICE


def test_a_folder_is_moved_while_its_server_runs_and_again_for_what_came_since(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RVC_TRAIN_DATA_FOLDER", str(tmp_path / "data"))
    command = ["storage", "move", "--to", url]
    with serve(tmp_path / "data") as server, server.client() as http:
        dataset_id = upload(http)
        first = CliRunner().invoke(app, command)
        assert "0 files were there, 2 copied" in first.output
        lease = train(server, dataset_id)
        assert "2 files were there, 4 copied" in CliRunner().invoke(app, command).output
        assert "6 files were there, 0 copied" in CliRunner().invoke(app, command).output
        server.context.jobs.succeed(lease)
    lose_all_but_the_database(tmp_path / "data")
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        assert http.get(f"/v1/jobs/{lease.job_id}/logs").text == "line one\nline two\n"
        assert (server.context.storage.recordings(dataset_id) / "000001.wav").read_bytes() == SOUND


def test_a_backup_has_what_is_in_the_store_alone(
    serve: Callable[..., Any], blobs: BlobStore, url: str, tmp_path: Path
) -> None:
    with serve(tmp_path / "data", storage_url=url) as server, server.client() as http:
        dataset_id = upload(http)
        lease = train(server, dataset_id)
        server.context.jobs.succeed(lease)
        storage, engine = server.context.storage, server.context.engine
        StoreUpkeep(engine, storage, server.context.settings).run()
        LocalCopies(engine, storage, 0, lambda: datetime.now(UTC) + timedelta(hours=2)).trim()
        result = back_up(engine, storage, tmp_path / "backup")
        assert result.missing == []
    with serve(tmp_path / "backup") as server, server.client() as http:  # it needs no store
        assert http.get(f"/v1/jobs/{lease.job_id}/logs").text == "line one\nline two\n"
        assert http.get(f"/v1/datasets/{dataset_id}/recordings/1").content == SOUND
        assert http.get(http.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"][0]["url"]).content == VOICE
