"""Files replaced, deleted and synced as Windows allows it, with its refusals faked where this system has none."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rvc_engine.checkpoints.io import save_atomically
from rvc_engine.checkpoints.retention import Save, SaveRegistry
from rvc_engine.config import TrainingConfig
from rvc_engine.environment import files
from rvc_engine.environment.files import rename, replace, sync_file, unlink
from rvc_engine.translation.program_errors import describe
from rvc_engine.workspace import atomic_files
from rvc_engine.workspace.atomic_files import write_atomically
from server.database.copies import copy_sqlite
from server.storage.local import Storage


def _refusing(times: int, code: int, work: Callable[..., object]) -> Callable[..., object]:
    """A system call that Windows refuses some times, as while a reader has the file open."""
    left = iter(range(times))

    def call(*args: object, **kwargs: object) -> object:
        if next(left, None) is None:
            return work(*args, **kwargs)
        error = PermissionError(13, "The process cannot access the file because it is being used by another process")
        error.winerror = code  # type: ignore[attr-defined]
        raise error

    return call


@pytest.mark.parametrize("code", [5, 32, 1224])
def test_a_file_that_a_reader_closes_soon_is_replaced(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "anna.index", b"old")
    monkeypatch.setattr(os, "replace", _refusing(3, code, os.replace))
    write_atomically(tmp_path / "anna.index", b"new")
    assert (tmp_path / "anna.index").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["anna.index"]


def test_files_are_renamed_and_deleted_once_their_readers_close_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"1")
    monkeypatch.setattr(os, "rename", _refusing(2, 32, os.rename))
    monkeypatch.setattr(os, "unlink", _refusing(2, 32, os.unlink))
    rename(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    unlink(tmp_path / "b")
    unlink(tmp_path / "b")
    assert not any(tmp_path.iterdir())


def test_the_error_names_the_file_that_stays_open_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS_IN_USE", 0.2)
    monkeypatch.setattr(os, "replace", _refusing(1000, 32, os.replace))
    (tmp_path / "new").write_bytes(b"1")
    with pytest.raises(PermissionError) as caught:
        replace(tmp_path / "new", tmp_path / "anna.pth")
    message = describe(caught.value)
    voice = tmp_path / "anna.pth"
    assert message == f"{voice} is in use by another program; close what has it open, such as a player, then try again"


def test_an_error_of_another_kind_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace(tmp_path / "missing", tmp_path / "target")


def test_only_files_that_are_open_for_writing_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to sync a file that is open for reading."""
    fcntl = pytest.importorskip("fcntl")
    synced = []

    def windows_fsync(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            if mode == os.O_RDONLY:
                raise OSError(9, "Bad file descriptor")
        synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", windows_fsync)
    monkeypatch.setattr(os, "link", _no_links)
    write_atomically(tmp_path / "a", b"1")
    sync_file(tmp_path / "a")
    atomic_files.link_or_copy(tmp_path / "a", tmp_path / "b")
    save_atomically({"x": 1}, tmp_path / "c.pth")
    (tmp_path / "folder").mkdir()
    write_atomically(tmp_path / "folder/d", b"1")
    Storage(tmp_path / "data").commit_folder(tmp_path / "folder", tmp_path / "data/datasets/ds_1")
    copy_sqlite(tmp_path / "any.db", tmp_path / "copy.db")
    assert len(synced) > 6


def _no_links(*_: object) -> None:
    raise OSError(1, "Incorrect function")


def test_the_size_on_disk_of_a_system_without_blocks_is_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from server.storage import sizes

    assert sizes._allocated(SimpleNamespace(st_size=7)) == 7  # type: ignore[arg-type]


def test_an_artifact_that_is_being_sent_is_stored_again_without_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS_IN_USE", 0.1)
    storage, voice = Storage(tmp_path / "data"), tmp_path / "anna.pth"
    voice.write_bytes(b"a voice")
    job_id = f"job_{'0' * 32}"
    storage.attempt_folder(job_id, 1).mkdir(parents=True)
    stored = storage.store_artifact(job_id, 1, voice)
    monkeypatch.setattr(os, "replace", _refusing(1000, 5, os.replace))
    assert storage.store_artifact(job_id, 1, voice) == stored
    assert [path.name for path in storage.resolve(stored.path).parent.iterdir()] == [stored.sha256]
    voice.write_bytes(b"another")
    with pytest.raises(PermissionError):
        storage.store_artifact(job_id, 1, voice)


def test_a_save_that_a_player_has_open_stays_listed_and_is_deleted_after_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS_IN_USE", 0.1)
    registry = SaveRegistry(tmp_path)
    config = TrainingConfig(keep_saves="latest")
    for step in (1, 2, 3):
        (tmp_path / f"G_{step}.pth").write_bytes(b"1")
    registry.add(Save(step=1, epoch=1, files=["G_1.pth"]), config, lambda _: 0.0)
    refused, real = _refusing(1000, 32, os.unlink), os.unlink
    with monkeypatch.context() as windows:
        windows.setattr(os, "unlink", lambda path: (refused if Path(path).name == "G_1.pth" else real)(path))
        registry.add(Save(step=2, epoch=2, files=["G_2.pth"]), config, lambda _: 0.0)
    assert sorted(path.name for path in tmp_path.glob("G_*")) == ["G_1.pth", "G_2.pth", "G_3.pth"]
    registry.add(Save(step=3, epoch=3, files=["G_3.pth"]), config, lambda _: 0.0)
    assert [path.name for path in tmp_path.glob("G_*")] == ["G_3.pth"]
