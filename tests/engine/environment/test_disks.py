"""Disks and folders that are unfit for a database or a run."""

import os
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import psutil
import pytest

from rvc_engine.environment import disks, files
from rvc_engine.environment.disks import network_disk, synchronising_program
from rvc_engine.environment.files import other_spelling
from rvc_engine.errors import InvalidConfig
from rvc_engine.names.voices import ascii_twin, voice_file_stem
from rvc_engine.translation.program_errors import describe
from rvc_engine.workspace import atomic_files
from rvc_engine.workspace.atomic_files import link_or_copy
from rvc_engine.workspace.disk import check_spelling
from server.admin.doctor import _place
from server.database.engine import create_engine
from server.errors import SettingsRefused

posix = pytest.mark.skipif(os.name == "nt", reason="of disks that keep case, and mount tables")


@posix
@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [("nfs4", "rw", "nfs4"), ("cifs", "rw", "cifs"), ("9p", "aname=drvfs;path=C:", "drvfs"), ("9p", "rw", None)],
)
def test_sqlite_on_a_network_disk_is_refused_in_a_sentence(
    kind: str, options: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'data/rvc-train.db'}"
    create_engine(url).dispose()
    mounts = [("/", "ext4", "rw"), (str(tmp_path.resolve()), kind, options), (f"{tmp_path.resolve()}/dat", "nfs", "rw")]
    partitions = [SimpleNamespace(mountpoint=point, fstype=each, opts=opts) for point, each, opts in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: partitions)
    assert network_disk(tmp_path / "data/rvc-train.db") == found
    if found is None:
        create_engine(url).dispose()
        return
    with pytest.raises(SettingsRefused, match=rf"a network disk \({found}\), .*RVC_TRAIN_DATA_FOLDER.*PostgreSQL"):
        create_engine(url)
    create_engine("postgresql+psycopg://nobody@localhost/none").dispose()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (r"\\nas\voices\data", "share"),
        (r"\\?\UNC\nas\voices\data", "share"),
        (r"\\?\C:\data", None),
        (r"Z:\data", "drive"),
        (r"C:\data", None),
    ],
)
def test_shares_and_mapped_drives_of_windows_are_network_disks(
    path: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "_drive_type", {"Z:\\": 4, "C:\\": 3}.get)
    assert disks._network_drive(PureWindowsPath(path)) == found


def test_a_folder_kept_in_step_with_a_cloud_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert synchronising_program(tmp_path) is None
    assert synchronising_program(tmp_path / "OneDrive - Studio/rvc") == "OneDrive"
    assert synchronising_program(tmp_path / "Dropbox/rvc") == "Dropbox"
    assert synchronising_program(tmp_path / "Library/Mobile Documents/rvc") == "iCloud Drive"
    monkeypatch.setenv("OneDriveConsumer", str(tmp_path / "wolke"))
    assert synchronising_program(tmp_path / "wolke/rvc") == "OneDrive"
    notes = list(_place(tmp_path / "wolke/rvc"))
    assert [each.state for each in notes] == ["note"]
    assert "is synchronised by OneDrive" in notes[0].text


def test_a_folder_too_deep_for_windows_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.admin.doctor.has_long_paths", lambda: False)
    monkeypatch.setattr("rvc_engine.translation.program_errors.has_long_paths", lambda: False)
    (fault,) = _place(tmp_path / ("d" * 150))
    assert fault.state == "fault"
    assert "LongPathsEnabled" in fault.text
    assert "has 300 characters" in describe(FileNotFoundError(2, "no such file", "C:" + "d" * 298))


@posix
def test_a_voice_is_not_trained_in_the_folder_of_one_whose_name_differs_in_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anna").mkdir()
    (tmp_path / "Élan").mkdir()
    assert other_spelling(tmp_path / "Anna") is None  # this disk keeps both apart
    real = os.stat
    ignoring = {str(tmp_path / "Anna"): str(tmp_path / "anna"), str(tmp_path / "E\u0301lan"): str(tmp_path / "Élan")}
    monkeypatch.setattr(os, "stat", lambda path, **more: real(ignoring.get(str(path), path), **more))
    assert other_spelling(tmp_path / "Anna") == "anna"
    assert other_spelling(tmp_path / "anna") is None
    with pytest.raises(InvalidConfig, match=r"would be the folder of anna, .*choose another name"):
        check_spelling(tmp_path / "Anna")


def test_copies_in_place_of_links_are_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Incorrect function")

    monkeypatch.setattr(files, "_disks_with_copies", set())
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"1")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"1"
    assert capsys.readouterr().err == (
        f"note: files are copied to {tmp_path}, not linked, and take more space: its disk allows no links\n"
    )


def test_an_index_has_a_second_name_that_rvc_on_windows_can_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ascii_twin("anna.index") is None
    twin = ascii_twin("安娜 v2.index")
    assert twin is not None
    assert twin.startswith("v2-")
    assert twin.isascii()
    assert ascii_twin("安娜 v3.index") != twin
    (tmp_path / "安娜 v2.index").write_bytes(b"1")
    monkeypatch.setattr(atomic_files, "_needs_ascii", False)
    assert atomic_files.link_ascii_twin(tmp_path / "安娜 v2.index") is None
    monkeypatch.setattr(atomic_files, "_needs_ascii", True)
    assert atomic_files.link_ascii_twin(tmp_path / "安娜 v2.index") == tmp_path / twin
    assert (tmp_path / twin).read_bytes() == b"1"


@pytest.mark.parametrize("name", ["CON", "aux.v2", "a.", "a: b", "lpt¹", "nul .x"])
def test_names_that_windows_refuses_are_changed(name: str) -> None:
    stem = voice_file_stem(name)
    assert not set(stem) & set('<>:"/\\|?*')
    assert not stem.endswith((".", " "))
    assert stem.partition(".")[0].strip().upper() not in {"CON", "AUX", "NUL", "LPT¹"}
    assert files.other_spelling(Path("/") / stem) is None
