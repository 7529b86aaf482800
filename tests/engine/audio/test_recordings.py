"""A dataset's manifest names files inside its folder, and nothing else."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from rvc_engine.audio.reading import read_mono
from rvc_engine.audio.recordings import MANIFEST, list_dataset, list_folder, list_recordings
from rvc_engine.errors import InvalidDataset
from tests.systems import links, named_pipes


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


def test_names_that_begin_with_dots_are_taken_and_litter_is_named_with_its_reason(dataset: Path) -> None:
    taken = ["...and then/...and then she said.flac", ".take.wav", "clip.avi", "clip.ts", "old.wav.bak", "ring.m4r"]
    litter = [".DS_Store", "._a.flac", ".ipynb_checkpoints/a.wav", ".nomedia", "Thumbs.db", "desktop.ini", "a.zip"]
    for name in (*taken, *litter):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).touch()
    files = list_dataset(dataset)
    assert [recording.name for recording in files.recordings] == taken
    codes = {other.name: other.code for other in files.left_out}
    assert codes == {
        ".DS_Store": "macos",
        "._a.flac": "macos",
        ".ipynb_checkpoints/": "hidden",
        ".nomedia": "hidden",
        "Thumbs.db": "windows",
        "desktop.ini": "windows",
        "a.zip": "zip",
    }


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("clip.avi", "avi", "mp2"),
        ("clip.mpg", "mpeg", "mp2"),
        ("clip.ts", "mpegts", "aac"),
        ("clip.mts", "mpegts", "ac3"),
        ("clip.flv", "flv", "aac"),
        ("clip.wmv", "asf", "wmav2"),
        ("ring.m4r", "ipod", "aac"),
        ("memo.qta", "mov", "aac"),
        ("no ending", "wav", "pcm_s16le"),
        ("old.wav.bak", "wav", "pcm_s16le"),
        ("...and then she said.flac", "flac", "flac"),
        ("wrong.mp3", "flac", "flac"),
    ],
)
def test_whatever_the_decoder_opens_is_a_recording(dataset: Path, name: str, container: str, codec: str) -> None:
    with av.open(str(dataset / name), "w", format=container) as file:
        stream = file.add_stream(codec, rate=44_100)
        stream.layout, stream.bit_rate = "mono", 96_000
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", 44_100, stream.codec_context.frame_size or 1024
        )
        sound = np.sin(np.arange(44_100) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
        frame.sample_rate = 44_100
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    (recording,) = list_recordings(dataset)
    assert recording.name == name
    assert len(read_mono(recording.path, 16_000)) == pytest.approx(16_000, abs=2_000)


@links
def test_links_are_followed_each_folder_once_and_those_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    voice, far, pair = tmp_path / "voice", tmp_path / "far", tmp_path / "pair"
    for path in (voice / "part1" / "a.wav", far / "b.wav", far / "inner" / "c.wav", pair / "d.wav"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (voice / "part2").symlink_to(far)
    (voice / "single.wav").symlink_to(far / "b.wav")
    (voice / "A-link-to-part1").symlink_to(voice / "part1")
    (voice / "again").symlink_to(voice)
    (voice / "around").symlink_to("..")
    (voice / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    (voice / "circle").symlink_to("circle")
    (far / "inner" / "up").symlink_to(far)
    (far / "partner").symlink_to(pair)
    (pair / "partner").symlink_to(far)
    os.mkfifo(voice / "pipe")
    files = list_folder(voice)
    assert [recording.name for recording in files.recordings] == [
        "part1/a.wav",
        "part2/b.wav",
        "part2/inner/c.wav",
        "part2/partner/d.wav",
        "single.wav",
    ]
    assert {other.name: other.reason for other in files.left_out} == {
        "A-link-to-part1": "a folder that is read already",
        "again": "a link to a folder around it",
        "around": "a link to a folder around it",
        "broken.wav": "a link to nothing",
        "circle": "a link to itself",
        "part2/inner/up": "a link to a folder around it",
        "part2/partner/partner": "a folder that is read already",
        "pipe": "neither a file nor a folder",
    }


@links
def test_a_folder_of_links_alone_is_a_dataset(tmp_path: Path) -> None:
    far, voice = tmp_path / "far", tmp_path / "voice"
    far.mkdir()
    voice.mkdir()
    (far / "a.wav").touch()
    (voice / "part").symlink_to(far)
    assert [recording.name for recording in list_recordings(voice)] == ["part/a.wav"]


def test_a_folder_without_recordings_is_refused_with_the_names_of_what_is_in_it(dataset: Path) -> None:
    (dataset / "notes.txt").touch()
    with pytest.raises(InvalidDataset, match=r"Left out: 'notes.txt' .a text, a document or subtitles"):
        list_dataset(dataset)


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


@links
def test_absolute_paths_and_links_out_of_the_folder_are_refused(dataset: Path) -> None:
    secret = dataset.parent / "secret"
    secret.touch()
    (dataset / "link").symlink_to(secret)
    for path in (str(secret), "link"):
        manifest(dataset, path)
        with pytest.raises(InvalidDataset, match="not a file inside"):
            list_recordings(dataset)


@named_pipes
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
