"""A dataset's manifest names files inside its folder, and nothing else."""

import json
import os
from pathlib import Path

import pytest

from rvc_engine.audio.recordings import MANIFEST, list_recordings
from rvc_engine.errors import InvalidDataset


def manifest(folder: Path, *paths: object) -> None:
    (folder / MANIFEST).write_text(json.dumps({"files": [{"path": path, "name": "x"} for path in paths]}))


def test_files_are_listed_by_name_with_their_folders_and_hidden_ones_left_out(dataset: Path) -> None:
    for name in ("b.wav", "a/c.wav", ".hidden", ".git/x.wav", "a/.DS_Store"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).touch()
    assert [recording.name for recording in list_recordings(dataset)] == ["a/c.wav", "b.wav"]


def test_what_is_plainly_no_recording_is_left_out_of_a_folder_but_not_of_a_manifest(dataset: Path) -> None:
    for name in ("README.md", "NOTES.TXT", "cover.png", "take.wav", "take.WEBM", "no ending", "words.txt.wav"):
        (dataset / name).touch()
    assert [r.name for r in list_recordings(dataset)] == ["no ending", "take.WEBM", "take.wav", "words.txt.wav"]
    manifest(dataset, "README.md")
    assert len(list_recordings(dataset)) == 1


def test_a_manifest_gives_order_and_names(dataset: Path) -> None:
    for name in ("1.bin", "2.bin", "unlisted"):
        (dataset / name).touch()
    rows = [{"path": "2.bin", "name": "../песня.wav"}, {"path": "1.bin", "name": "b\x1b[2J.wav"}]
    (dataset / MANIFEST).write_text(json.dumps({"files": rows}))
    recordings = list_recordings(dataset)
    assert [recording.path.name for recording in recordings] == ["2.bin", "1.bin"]
    assert [recording.name for recording in recordings] == ["../песня.wav", "b?[2J.wav"]


@pytest.mark.parametrize("path", ["../secret", "sub/../../secret", "", ".", "sub", "none.wav", "a\0b", "x" * 5000])
def test_a_manifest_that_leaves_the_folder_is_refused(dataset: Path, path: str) -> None:
    (dataset / "sub").mkdir()
    (dataset.parent / "secret").touch()
    manifest(dataset, path)
    with pytest.raises(InvalidDataset, match="not a file inside"):
        list_recordings(dataset)


def test_absolute_paths_and_links_out_of_the_folder_are_refused(dataset: Path) -> None:
    secret = dataset.parent / "secret"
    secret.touch()
    (dataset / "link").symlink_to(secret)
    for path in (str(secret), "link"):
        manifest(dataset, path)
        with pytest.raises(InvalidDataset, match="not a file inside"):
            list_recordings(dataset)


def test_a_pipe_is_no_recording(dataset: Path) -> None:
    os.mkfifo(dataset / "pipe")
    manifest(dataset, "pipe")
    with pytest.raises(InvalidDataset, match="not a file inside"):
        list_recordings(dataset)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"files": [{"path": 3, "name": "a"}]}', '{"files": {}}', "\ud800"])
def test_a_manifest_that_is_none_is_refused(dataset: Path, text: str) -> None:
    (dataset / MANIFEST).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(InvalidDataset, match="not a list of recordings"):
        list_recordings(dataset)


def test_an_empty_manifest_and_a_missing_folder_are_refused(dataset: Path) -> None:
    manifest(dataset)
    with pytest.raises(InvalidDataset, match="holds no files"):
        list_recordings(dataset)
    with pytest.raises(InvalidDataset, match="no dataset folder"):
        list_recordings(dataset / "none")
