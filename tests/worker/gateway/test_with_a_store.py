"""Both gateways with a store behind the server's data folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.workspace.layout import Workspace
from server.blobs.folder import FolderBlobs
from server.errors import SettingsRefused
from server.storage.tier import AWAY
from tests.server.conftest import Running, running, settings_for
from tests.worker.gateway.conftest import gateway_to
from tests.worker.gateway.test_promises import DESCRIPTION, artifact, claim, lose, make_checkpoint
from worker.gateway.errors import Unavailable
from worker.gateway.interface import RegisteredWorker
from worker.gateway.types import Success


@pytest.fixture
def store(tmp_path: Path) -> FolderBlobs:
    (tmp_path / "store").mkdir()
    return FolderBlobs(tmp_path / "store")


@pytest.fixture
def server(shop: Any, store: FolderBlobs) -> Iterator[Running]:
    """A server on the shop's data folder, which had all of its files until now."""
    (shop.storage.dataset_folder(shop.dataset_id) / "000001.wav").write_bytes(b"a recording")
    with running(settings_for(shop.folder, database_url=shop.url, storage_url=store.address)) as made:
        assert made.context.storage.tier is not None
        made.context.storage.tier.send_missing()
        yield made


@pytest.fixture(params=["local", "http"])
def worker(
    request: pytest.FixtureRequest, shop: Any, server: Running, store: FolderBlobs
) -> Iterator[RegisteredWorker]:
    gateway = gateway_to(server, shop) if request.param == "http" else shop.gateway(storage_url=store.address)
    assert gateway.open() is not None
    yield gateway.register(DESCRIPTION)
    if request.param == "http":
        gateway.close()


def keys(store: FolderBlobs, job_id: str) -> set[str]:
    return {blob.key.rpartition("/")[2] for blob in store.list(f"jobs/{job_id}")}


def test_what_a_job_makes_is_in_the_store_and_its_recordings_come_from_there(
    shop: Any, server: Running, worker: RegisteredWorker, store: FolderBlobs, tmp_path: Path
) -> None:
    recordings = shop.storage.dataset_folder(shop.dataset_id)
    (recordings / "000001.wav").unlink()
    (recordings / AWAY).touch()
    job_id = shop.submit([])
    lease = claim(worker)
    assert (lease.inputs().recordings / "000001.wav").read_bytes() == b"a recording"
    here = Workspace(tmp_path / "here", "anna")
    entry = make_checkpoint(here)
    lease.store_checkpoint(here)
    (tmp_path / "voice").write_bytes(b"a voice")
    voice = artifact(tmp_path / "voice")
    lease.record([voice], 1)
    assert keys(store, job_id) == {entry.file, "manifest.json", voice.sha256}
    lease.finish(Success())


def test_a_checkpoint_that_is_in_the_store_alone_is_restored(
    shop: Any, server: Running, worker: RegisteredWorker, tmp_path: Path
) -> None:
    shop.submit([])
    lease = claim(worker)
    here, elsewhere = Workspace(tmp_path / "here", "anna"), Workspace(tmp_path / "elsewhere", "anna")
    entry = make_checkpoint(here)
    lease.store_checkpoint(here)
    folder = shop.storage.checkpoints(lease.job_id, lease.token)
    for path in folder.iterdir():
        path.unlink()
    (folder / AWAY).touch()
    lose(shop)
    lease = claim(worker)
    lease.restore_checkpoint(elsewhere)
    assert (elsewhere.recovery / entry.file).read_bytes() == b"nets"


def test_while_the_store_is_away_a_job_goes_on_and_publishes_when_it_is_back(
    shop: Any, server: Running, worker: RegisteredWorker, store: FolderBlobs, tmp_path: Path
) -> None:
    job_id = shop.submit([])
    lease = claim(worker)
    (tmp_path / "voice").write_bytes(b"a voice")
    voice = artifact(tmp_path / "voice")
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        lease.record([voice], 1)
    lease.renew()
    assert shop.artifacts(job_id) == []
    (tmp_path / "away").rename(tmp_path / "store")
    lease.record([voice], 1)
    assert len(shop.artifacts(job_id)) == 1
    assert voice.sha256 in keys(store, job_id)


def test_a_worker_on_the_data_folder_needs_the_address_of_the_store(
    shop: Any, server: Running, store: FolderBlobs
) -> None:
    with pytest.raises(SettingsRefused, match="set RVC_TRAIN_STORAGE_URL to it"):
        shop.gateway().open()
    assert shop.gateway(storage_url=store.address).open() is not None


def test_a_worker_waits_until_the_server_has_begun_with_the_store(shop: Any, store: FolderBlobs) -> None:
    assert shop.gateway(storage_url=store.address).open() is None
