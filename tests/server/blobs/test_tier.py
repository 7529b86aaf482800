"""The store behind a data folder, without a server: what is kept, fetched, forgotten, and left where it is."""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from rvc_engine.checkpoints.manifest import CheckpointEntry, read_entries
from server.admin.store_upkeep import move_storage
from server.blobs.folder import FolderBlobs
from server.blobs.interface import BlobStore
from server.errors import Refused, SettingsRefused, StorageAway
from server.results.checkpoints import StoredCheckpoints
from server.storage.instance_files import INSTANCE_FILE, write_instance_id
from server.storage.instances import check_store, has_store, prepare_folder
from server.storage.local import Storage
from server.storage.local_copies import LocalCopies
from server.storage.tier import AWAY, MOVING_FILE, unit_of

JOB, DATASET = "job_" + "0" * 32, "ds_" + "0" * 32


@pytest.fixture
def store(tmp_path: Path) -> FolderBlobs:
    (tmp_path / "store").mkdir()
    return FolderBlobs(tmp_path / "store")


@pytest.fixture
def storage(tmp_path: Path, store: FolderBlobs) -> Storage:
    return Storage(tmp_path / "data", store)


def keys(store: BlobStore) -> set[str]:
    return {blob.key for blob in store.list("")}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        (f"datasets/{DATASET}/recordings/000001.wav", f"datasets/{DATASET}/recordings"),
        (f"jobs/{JOB}/attempts/000001/checkpoints/best.pth", f"jobs/{JOB}/attempts/000001/checkpoints"),
        (f"jobs/{JOB}/start/origin.txt", f"jobs/{JOB}/start"),
        (f"jobs/{JOB}/job.log", f"jobs/{JOB}/job.log"),
        (f"datasets/{DATASET}/incoming/000001.wav", None),
        (f"jobs/{JOB}/workspace/G_1.pth", None),
        (f"jobs/{JOB}/attempts/000001/artifacts/.half.tmp", None),
        (f"jobs/{JOB}/attempts/000001/events.spool", None),
        (f"conversions/cnv_{'0' * 32}/in/1.wav", None),
        (f"uploads/upl_{'0' * 32}", None),
    ],
)
def test_what_is_kept_has_a_unit(key: str, unit: str | None) -> None:
    assert unit_of(key) == unit


def test_a_folder_that_is_kept_comes_back_whole(storage: Storage, store: FolderBlobs) -> None:
    folder = write(storage.dataset_folder(DATASET), {f"{number:06d}.wav": b"%d" % number for number in range(9)})
    storage.keep(folder)
    for path in folder.iterdir():
        path.unlink()
    (folder / AWAY).touch()
    assert {path.name: path.read_bytes() for path in storage.recordings(DATASET).iterdir()} == {
        f"{number:06d}.wav": b"%d" % number for number in range(9)
    }


def test_a_file_that_is_used_keeps_its_time_of_change(storage: Storage) -> None:
    path = write(storage.consent_folder(DATASET), {"abc": b"yes"}) / "abc"
    os.utime(path, ns=(1_000_000_001, 1_000_000_001))
    before = path.stat().st_mtime_ns
    storage.fetch(path)
    assert path.stat().st_mtime_ns == before
    assert path.stat().st_atime_ns > before


def test_a_damaged_file_counts_as_missing(storage: Storage, store: FolderBlobs, tmp_path: Path) -> None:
    path = write(storage.consent_folder(DATASET), {"abc": b"yes"}) / "abc"
    storage.keep(path)
    path.unlink()
    (tmp_path / "store" / storage.tier.key_of(path)).write_bytes(b"no!")  # type: ignore[union-attr]
    assert not storage.fetch(path).exists()


def test_files_of_a_copy_are_copied_within_the_store(
    storage: Storage, store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = write(storage.dataset_folder(DATASET), {"1.wav": b"one", "2.wav": b"two"})
    storage.keep(of / "1.wav")
    place = write(storage.dataset_folder("ds_" + "1" * 32), {"1.wav": b"one", "2.wav": b"two"})
    copied: list[str] = []
    copy = store.copy
    monkeypatch.setattr(store, "copy", lambda source, target: (copy(source, target), copied.append(target)))
    storage.keep_copy(of, place)
    assert [key.rpartition("/")[2] for key in copied] == ["1.wav"]  # the other one was not there yet, and was sent
    assert {key.rpartition("/")[2] for key in keys(store) if "1" * 32 in key} == {"1.wav", "2.wav"}


def test_a_log_grows_by_segments_also_when_its_length_was_forgotten(storage: Storage, store: FolderBlobs) -> None:
    tier, log = storage.tier, storage.job_log(JOB)
    assert tier is not None
    write(log.parent, {"job.log": b"one\n"})
    tier.send_logs([JOB])
    log.write_bytes(b"one\ntwo\n")
    tier.send_logs([])  # it has ended
    assert {key.rpartition("/")[2] for key in keys(store)} == {f"{0:016d}", f"{4:016d}"}
    log.write_bytes(b"one\ntwo\nthree\n")
    Storage(storage.root, store).tier.send_log(log)  # type: ignore[union-attr]
    log.unlink()
    assert storage.fetch(log).read_bytes() == b"one\ntwo\nthree\n"


def test_a_log_that_is_longer_than_a_segment_is_sent_in_parts(
    storage: Storage, store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.storage.tier._SEGMENT", 5)
    log = write(storage.job_home(JOB), {"job.log": b"0123456789ab"}) / "job.log"
    assert storage.tier is not None
    storage.tier.send_log(log)
    assert [blob.size for blob in sorted(store.list(""), key=lambda blob: blob.key)] == [5, 5, 2]
    log.unlink()
    assert storage.fetch(log).read_bytes() == b"0123456789ab"


def checkpoint(storage: Storage, step: int) -> CheckpointEntry:
    content = b"nets %d" % step
    source = write(storage.incoming, {f"{step}": content}) / f"{step}"
    entry = CheckpointEntry(f"step_{step:09d}.pt", step, 1, len(content), hashlib.sha256(content).hexdigest())
    StoredCheckpoints(storage, JOB).store(1, entry, source, {})
    return entry


def test_a_checkpoint_whose_way_to_the_store_was_cut_off_is_stored_by_the_next_try(
    storage: Storage, store: FolderBlobs, tmp_path: Path
) -> None:
    storage.create_attempt(JOB, 1)
    checkpoint(storage, 1)
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(StorageAway):
        checkpoint(storage, 2)
    (tmp_path / "away").rename(tmp_path / "store")
    entries = [checkpoint(storage, 2), checkpoint(storage, 3)]
    folder = tmp_path / "store" / storage.tier.key_of(storage.checkpoints(JOB, 1))  # type: ignore[union-attr]
    assert read_entries(folder) == entries
    names = {path.name for path in folder.iterdir() if path.suffix != ".sha256"}
    assert names == {"manifest.json", *(entry.file for entry in entries)}


def test_a_retried_job_begins_with_checkpoints_in_the_store(storage: Storage, store: FolderBlobs) -> None:
    storage.create_attempt(JOB, 1)
    entry = checkpoint(storage, 1)
    other = "job_" + "1" * 32
    assert StoredCheckpoints(storage, JOB).copy_to(other) == entry
    assert {key.rpartition("/")[2] for key in keys(store) if other in key} == {entry.file, "manifest.json"}


def test_what_a_job_starts_from_is_kept(storage: Storage, store: FolderBlobs, tmp_path: Path) -> None:
    source = write(tmp_path, {"G.pth": b"weights"}) / "G.pth"
    storage.place_start(JOB, {"generator": source}, "the base weights x")
    assert keys(store) == {f"jobs/{JOB}/start/generator.pth", f"jobs/{JOB}/start/origin.txt"}
    storage.delete_workspace(JOB)
    assert keys(store) == set()


def test_a_move_that_has_not_ended_is_refused_by_the_server_and_goes_on(
    tmp_path: Path, store: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Storage(tmp_path / "data")
    write_instance_id(plain.root / INSTANCE_FILE, "ins_1")
    write(plain.dataset_folder(DATASET), {"1.wav": b"one", "2.wav": b"two"})
    put = store.put

    def cut_off(key: str, *more: object) -> None:
        if key.endswith("2.wav"):
            raise StorageAway("cut off")
        put(key, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as cut:
        cut.setattr(store, "put", cut_off)
        with pytest.raises(StorageAway):
            move_storage(plain, store)
    assert MOVING_FILE in keys(store)
    assert INSTANCE_FILE not in keys(store)
    result = move_storage(plain, store)
    assert (result.num_present, result.num_copied) == (1, 1)
    assert MOVING_FILE not in keys(store)
    assert INSTANCE_FILE in keys(store)


def test_a_move_to_another_installations_store_is_refused(tmp_path: Path, store: FolderBlobs) -> None:
    plain = Storage(tmp_path / "data")
    with pytest.raises(Refused, match="nothing to move"):
        move_storage(plain, store)
    write_instance_id(plain.root / INSTANCE_FILE, "ins_1")
    move_storage(plain, store)
    write_instance_id(plain.root / INSTANCE_FILE, "ins_2")
    with pytest.raises(Refused, match="another installation's"):
        move_storage(plain, store)


def test_files_move_from_one_store_to_another(tmp_path: Path, storage: Storage, store: FolderBlobs) -> None:
    (tmp_path / "other").mkdir()
    other = FolderBlobs(tmp_path / "other")
    write_instance_id(storage.root / INSTANCE_FILE, "ins_1", store.address)
    folder = write(storage.dataset_folder(DATASET), {"1.wav": b"one"})
    storage.keep(folder)
    (folder / "1.wav").unlink()  # in the store alone
    assert move_storage(storage, other).num_copied == 1
    moved = Storage(storage.root, other)
    check_store(moved)  # which the new store's id allows
    assert not has_store(moved)
    with pytest.raises(SettingsRefused, match="lie in"):
        check_store(Storage(storage.root))


def test_an_empty_data_folder_begins_with_the_places_of_what_the_store_has(
    tmp_path: Path, storage: Storage, store: FolderBlobs
) -> None:
    write_instance_id(storage.root / INSTANCE_FILE, "ins_1")
    store.put(
        INSTANCE_FILE,
        storage.root / INSTANCE_FILE,
        hashlib.sha256((storage.root / INSTANCE_FILE).read_bytes()).hexdigest(),
    )
    storage.keep(write(storage.dataset_folder(DATASET), {"1.wav": b"one"}))
    storage.create_attempt(JOB, 1)
    checkpoint(storage, 1)
    new = Storage(tmp_path / "new", store)
    prepare_folder(new)
    assert has_store(new)
    assert [path.name for path in new.entries("datasets")] == [DATASET]
    assert list(new.checkpoint_folders(JOB)) == [1]
    assert StoredCheckpoints(new, JOB).latest() is not None
    assert (new.recordings(DATASET) / "1.wav").read_bytes() == b"one"


def test_copies_of_an_ended_job_go_beyond_the_limit(storage: Storage, store: FolderBlobs, engine: sa.Engine) -> None:
    folder = write(storage.dataset_folder(DATASET), {"1.wav": b"one", "2.wav": b"two"})
    document = write(storage.consent_folder(DATASET), {"abc": b"yes"}) / "abc"
    lonely = write(storage.base_weights_folder("bw_" + "0" * 32), {"generator.pth": b"weights"}) / "generator.pth"
    storage.keep(folder)
    storage.keep(document)
    later = datetime.now(UTC) + timedelta(hours=2)
    assert LocalCopies(engine, storage, 0, lambda: later).trim() == 9
    assert [path.name for path in folder.iterdir()] == [AWAY]
    assert not document.exists()
    assert lonely.exists()  # the store has not got it
    assert (storage.recordings(DATASET) / "2.wav").read_bytes() == b"two"
    assert list((storage.root / "incoming").iterdir()) == []
