"""Uploads from strangers: refused with a sentence, or read into names of our own."""

import io
import json
import stat
import struct
import zipfile

import pytest

from rvc_engine.audio.recordings import list_dataset, list_recordings
from server.datasets.ingest import ingest
from server.datasets.zips import UnpackLimits
from server.errors import NoSpace, Refused, UploadRefused, UploadTooLarge

MIB = 2**20
LIMITS = UnpackLimits(
    max_files=50, max_file_bytes=100 * MIB, max_unpacked_bytes=200 * MIB, max_ratio=200, free_bytes=10**12
)


@pytest.fixture
def admit_bytes(tmp_path):
    def admitted(content, name="anna", limits=LIMITS):
        upload = tmp_path / "upload"
        upload.write_bytes(content)
        return ingest(upload, name, tmp_path / "recordings", limits)

    return admitted


@pytest.fixture
def names(tmp_path):
    return lambda: [recording.name for recording in list_recordings(tmp_path / "recordings")]


def entry(name, mode=0, system=3):
    info = zipfile.ZipInfo(name)
    info.create_system = system
    info.external_attr = mode << 16
    return info


def with_entry(info, content=b"x"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("good.wav", b"RIFF")
        archive.writestr(info, content)
    return buffer.getvalue()


def test_names_in_any_script_live_in_the_manifest_and_never_on_the_disk(admit_bytes, names, zipped, tmp_path):
    wild = ["语音/第一 段.wav", 'it\'s "quoted".MP3', "Ünï/çødé.flac", "a;rm -rf $HOME.ogg"]
    admit_bytes(zipped(dict.fromkeys(wild, b"sound")))
    assert sorted(names()) == sorted(wild)
    stored = sorted(path.name for path in (tmp_path / "recordings").iterdir())
    assert [name[:6] for name in stored[:4]] == ["000001", "000002", "000003", "000004"]
    assert stored[4] == "recordings.json"


def test_names_that_are_utf8_without_saying_so_are_read_as_such(admit_bytes, names, zipped):
    content = zipped({"x" * len("声.wav".encode()): b"sound"}).replace(b"x" * len("声.wav".encode()), "声.wav".encode())
    admit_bytes(content)
    assert names() == ["声.wav"]


def test_what_is_no_recording_is_left_out_and_named_in_the_note_and_in_the_manifest(admit_bytes, zipped, tmp_path):
    recordings = ["...and then she said.flac", ".take.wav", "a/b.wav", "a/clip.avi", "no ending", "old.wav.bak"]
    litter = ["__MACOSX/a.wav", "a/.DS_Store", "a/.git/x.wav", "a/.git/y.wav", "readme.txt", "x.7z"]
    admitted = admit_bytes(zipped({"a/": b""} | dict.fromkeys([*recordings, *litter], b"x")))
    files = list_dataset(tmp_path / "recordings")
    assert [recording.name for recording in files.recordings] == recordings
    left_out = {other.name: other.code for other in files.left_out}
    assert left_out == {
        "__MACOSX/": "macos",
        "a/.DS_Store": "macos",
        "a/.git/": "hidden",
        "readme.txt": "text",
        "x.7z": "archive",
    }
    assert "'__MACOSX/' (a companion file of macOS), 'a/.DS_Store' (a" in admitted.notes[0]
    assert "; the report names all" in admitted.notes[0]


def test_suffixes_of_strangers_never_reach_the_disk(admit_bytes, zipped, tmp_path):
    admit_bytes(
        zipped(dict.fromkeys(["a. what?", "b.x;rm -rf", "c.\x1b[2J", "d.ÄÖÜ", "e." + "x" * 200, "f.WAV"], b"x"))
    )
    stored = sorted(path.name for path in (tmp_path / "recordings").iterdir())
    assert stored == ["000001", "000002", "000003", "000004", "000005", "000006.wav", "recordings.json"]


def test_one_audio_file_is_a_dataset_by_itself(admit_bytes, names, tmp_path):
    admit_bytes(b"fLaC....", "Anna's voice")
    assert names() == ["Anna's voice"]
    assert (tmp_path / "recordings" / "000001.flac").read_bytes() == b"fLaC...."


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../evil.wav", "outside of it"),
        ("a/../../evil.wav", "outside of it"),
        ("..\\evil.wav", "outside of it"),
        ("/etc/evil.wav", "absolute"),
        ("\\\\server\\evil.wav", "absolute"),
        ("C:\\evil.wav", "absolute"),
    ],
)
def test_names_that_mean_harm_are_refused(admit_bytes, zipped, name, sentence):
    with pytest.raises(UploadRefused, match=sentence):
        admit_bytes(zipped({"good.wav": b"x", name: b"x"}))


def test_a_name_with_a_null_character_is_refused(admit_bytes, zipped):
    with pytest.raises(UploadRefused, match="null character"):
        admit_bytes(zipped({"good.wavQ.txt": b"x"}).replace(b"wavQ", b"wav\0"))


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR])
def test_devices_are_refused(admit_bytes, kind):
    with pytest.raises(UploadRefused, match="device or a pipe"):
        admit_bytes(with_entry(entry("device.wav", kind | 0o777), b"/etc/passwd"))


def test_links_in_a_zip_are_left_out_by_name_and_never_followed(admit_bytes, names, tmp_path):
    admitted = admit_bytes(with_entry(entry("link.wav", stat.S_IFLNK | 0o777), b"/etc/passwd"))
    assert names() == ["good.wav"]
    assert admitted.notes[0].startswith("left out: 'link.wav' (a link; pack what it leads to)")
    assert {path.name for path in (tmp_path / "recordings").iterdir()} == {"000001.wav", "recordings.json"}


def test_an_encrypted_member_is_refused(admit_bytes, zipped):
    content = bytearray(zipped({"a.wav": b"x"}))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UploadRefused, match="encrypted"):
        admit_bytes(bytes(content))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_few_programs_make_are_refused(admit_bytes, zipped, compression):
    with pytest.raises(UploadRefused, match="plain zip"):
        admit_bytes(zipped({"a.wav": b"x" * 100}, compression))


def test_members_that_share_bytes_are_refused(admit_bytes, zipped):
    content = bytearray(zipped({"a.wav": b"x" * 50, "b.wav": b"x" * 50}, zipfile.ZIP_STORED))
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 42 : second + 46] = struct.pack("<I", 0)  # the second entry points to the first one's bytes
    with pytest.raises(UploadRefused, match="shares bytes"):
        admit_bytes(bytes(content))


def test_a_bomb_is_refused_by_its_ratio_and_silence_is_not(admit_bytes, zipped, tmp_path):
    with pytest.raises(UploadRefused, match="times its size"):
        admit_bytes(zipped({"bomb.wav": bytes(65 * MIB)}))
    assert admit_bytes(zipped({"silence.wav": bytes(5 * MIB)})).num_files == 1


def test_a_member_that_holds_more_than_it_says_does_not_come_through(admit_bytes, zipped, tmp_path):
    content = bytearray(zipped({"a.wav": bytes(10 * MIB)}))
    content[(at := content.index(b"PK\x01\x02") + 24) : at + 4] = struct.pack("<I", 1000)
    with pytest.raises(UploadRefused, match="damaged"):
        admit_bytes(bytes(content))
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "recordings").iterdir())


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_files": 1}, UploadTooLarge),
        ({"max_file_bytes": 50}, UploadTooLarge),
        ({"max_unpacked_bytes": 150}, UploadTooLarge),
        ({"free_bytes": 150}, NoSpace),
    ],
)
def test_limits_are_kept(admit_bytes, zipped, limits, error):
    with pytest.raises(error):
        admit_bytes(zipped({"a.wav": b"x" * 100, "b.wav": b"y" * 100}), limits=UnpackLimits(**(vars(LIMITS) | limits)))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"PK\x05\x06" + bytes(18), "the zip is empty"),
        (b"PK\x03\x04" + b"garbage" * 20, "damaged"),
        (b"7z\xbc\xaf\x27\x1c rest", "send a zip"),
        (b"\x1f\x8b rest", "send a zip"),
        (b"Rar!\x1a\x07\x00", "send a zip"),
    ],
)
def test_what_is_no_good_zip_is_refused_with_a_sentence(admit_bytes, content, sentence):
    with pytest.raises(UploadRefused, match=sentence):
        admit_bytes(content)


def test_a_zip_without_a_recording_is_refused_with_the_names_of_its_files(admit_bytes, zipped):
    with pytest.raises(UploadRefused, match=r"no recording among its 2 entries.*'a.txt' .a text, a document"):
        admit_bytes(zipped({"a.txt": b"x", "b.pdf": b"x"}))


def test_a_zip_cut_anywhere_or_with_any_byte_changed_is_refused_or_read_and_nothing_else(tmp_path, zipped):
    whole = zipped({"a.wav": b"sound" * 20, "b/c.mp3": b"more" * 20})
    variants = [whole[:end] for end in range(0, len(whole), 7)]
    variants += [whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :] for i in range(len(whole))]
    for number, content in enumerate(variants):
        upload = tmp_path / f"{number}.upload"
        upload.write_bytes(content)
        folder = tmp_path / f"{number}.recordings"
        try:
            ingest(upload, "anna", folder, LIMITS)
        except (Refused, NoSpace):
            continue
        rows = json.loads((folder / "recordings.json").read_text())["files"]
        assert {row["path"] for row in rows} | {"recordings.json"} == {path.name for path in folder.iterdir()}
