"""Files on Windows itself, where what is open cannot be replaced and names ignore case."""

import os
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from rvc_engine.environment import files
from rvc_engine.environment.disks import network_disk
from rvc_engine.environment.files import other_spelling, replace, sync_file, unlink
from rvc_engine.translation.program_errors import describe
from rvc_engine.workspace.atomic_files import link_ascii_twin, link_or_copy, write_atomically
from rvc_engine.workspace.index_files import read_index

pytestmark = pytest.mark.skipif(os.name != "nt", reason="of Windows' own ways")


def test_a_file_is_replaced_as_soon_as_its_reader_closes_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "anna.index", b"old")
    reader = (tmp_path / "anna.index").open("rb")
    threading.Timer(0.5, reader.close).start()
    write_atomically(tmp_path / "anna.index", b"new")
    assert (tmp_path / "anna.index").read_bytes() == b"new"


def test_a_file_that_stays_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SECONDS_IN_USE", 0.2)
    for name in ("new", "anna.pth"):
        write_atomically(tmp_path / name, b"1")
    for change in (lambda: replace(tmp_path / "new", tmp_path / "anna.pth"), lambda: unlink(tmp_path / "anna.pth")):
        with (tmp_path / "anna.pth").open("rb"), pytest.raises(PermissionError) as caught:
            change()
        assert describe(caught.value).startswith(f"{tmp_path / 'anna.pth'} is in use by another program")


def test_files_are_synced_and_linked(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"1")
    sync_file(tmp_path / "a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1"
    assert network_disk(tmp_path) is None
    assert network_disk(Path(r"\\nas\voices")) == "share"


def test_a_folder_of_another_case_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    assert other_spelling(tmp_path / "Anna") == "anna"
    assert other_spelling(tmp_path / "anna") is None


def test_indexes_have_any_name_and_a_second_one_that_faiss_opens(tmp_path: Path) -> None:
    index = faiss.IndexFlatL2(4)
    index.add(np.ones((3, 4), np.float32))
    path = tmp_path / "安娜.index"
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    assert read_index(path).ntotal == 3
    with pytest.raises(RuntimeError):
        faiss.read_index(str(path))
    twin = link_ascii_twin(path)
    assert twin is not None
    assert faiss.read_index(str(twin)).ntotal == 3
