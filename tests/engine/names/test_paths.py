"""Paths on a disk as text: every file and folder keeps a name of its own."""

import os

from rvc_engine.names.paths import readable_paths


def on_disk(*names: bytes) -> list[str]:
    return [os.fsdecode(name) for name in names]


def test_names_that_can_be_shown_stay_as_they_are() -> None:
    names = ["a/b.wav", "声/👩\u200d🎤.wav", "Zoe\u0308/x.wav", "A: x.wav"]
    assert readable_paths(names) == (names, None)


def test_names_of_an_older_windows_are_read_in_its_code_page() -> None:
    names, choice = readable_paths(on_disk("录音/张三.flac".encode("gbk"), b"plain.flac"))
    assert names == ["录音/张三.flac", "plain.flac"]
    assert choice is not None
    assert choice.page.code == "gbk"


def test_no_two_files_or_folders_get_one_name() -> None:
    folders = ["录音/1.flac".encode("gbk"), "录音/1.flac".encode(), b"a\x01/1.flac", b"a\x02/1.flac", b"a?/1.flac"]
    names, _ = readable_paths(on_disk(*folders))
    assert names == ["录音 (2)/1.flac", "录音/1.flac", "a? (2)/1.flac", "a? (3)/1.flac", "a?/1.flac"]
    assert readable_paths(["a\\b.wav", "a_b.wav"])[0] == ["a_b (2).wav", "a_b.wav"]


def test_thousands_of_such_names_take_no_time_to_speak_of() -> None:
    names = [f"录音{number}.flac".encode("gbk") for number in range(3000)]
    assert readable_paths(on_disk(*names))[0][-1] == "录音2999.flac"
