"""Names of zips from any machine, and zips in zips."""

import io
import stat
import unicodedata
import zipfile
from dataclasses import replace

import pytest

from rvc_engine.audio.recordings import list_recordings
from rvc_engine.data.speakers import recording_folders
from server.datasets.ingest import ingest, unpacked_bytes
from server.datasets.zips import UnpackLimits
from server.errors import UploadRefused, UploadTooLarge
from tests.raw_zips import raw_zip

MIB = 2**20
LIMITS = UnpackLimits(
    max_files=50, max_file_bytes=100 * MIB, max_unpacked_bytes=200 * MIB, max_ratio=200, free_bytes=10**12
)
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.fixture
def ingested(tmp_path):
    def ingest_bytes(content, code="auto", limits=LIMITS):
        upload = tmp_path / "upload"
        upload.write_bytes(content)
        expected = unpacked_bytes(upload, limits, code)
        result = ingest(upload, "anna", tmp_path / "recordings", limits, zip_names=code)
        found = list_recordings(tmp_path / "recordings")
        assert sum(recording.path.stat().st_size for recording in found) == expected
        return [recording.name for recording in found], result.notes

    return ingest_bytes


def in_code_page(codec, *names):
    return raw_zip((name.encode(codec), name.encode()) for name in names)


@pytest.mark.parametrize(
    ("codec", "title", "names"),
    [
        ("cp932", "Shift-JIS", ["ソフィア/1.wav", "ソラ/1.wav", "アンナ/表.wav"]),
        ("gbk", "GBK", ["张三/1.wav", "李四/录音.wav"]),
        ("cp950", "Big5", ["林志玲/許功蓋.wav", "陳大文/1.wav"]),
        ("cp949", "EUC-KR", ["김민수/1.wav", "이지은/녹음.wav"]),
        ("cp1251", "CP1251 (Cyrillic, Windows)", ["Анна/голос.wav", "Борис/запись.wav"]),
        ("cp866", "CP866 (Cyrillic, DOS)", ["Анна/голос.wav", "Борис/запись.wav"]),
        ("cp852", "CP852 (Central European, DOS)", ["Małgorzata/główne.wav", "Łukasz/źródło.wav", "Świętosława/ć.wav"]),
    ],
)
def test_speakers_keep_their_names_and_stay_apart_in_every_code_page(ingested, tmp_path, codec, title, names):
    found, notes = ingested(in_code_page(codec, *names))
    assert found == sorted(names)
    assert notes == [f"names in the zip were read as {title}"]
    assert len(set(recording_folders(list_recordings(tmp_path / "recordings")))) == len(names)


def test_a_backslash_separates_only_after_decoding(ingested):
    names = ["ソフィア\\1.wav", "表\\ソ.wav", "アンナ\\2.wav"]
    assert ingested(in_code_page("cp932", *names))[0] == ["アンナ/2.wav", "ソフィア/1.wav", "表/ソ.wav"]


def test_the_utf8_name_in_the_extra_field_comes_first_unless_it_is_of_another_name(ingested):
    raw = ["张三/a.wav".encode("gbk"), "李四/b.wav".encode("gbk")]
    found, notes = ingested(raw_zip([(name, b"1") for name in raw], ["张三/a.wav", "李四/b.wav"]))
    assert (found, notes) == (["张三/a.wav", "李四/b.wav"], [])


def test_an_extra_field_of_another_name_is_not_used(ingested):
    content = raw_zip([("张三录音/a.wav".encode("gbk"), b"1")], ["李四/b.wav"])
    at = content.index(b"PK\x01\x02")
    start = content.index(b"\x75\x70", at) + 5
    broken = content[:start] + bytes(4) + content[start + 4 :]
    assert ingested(broken)[0] == ["张三录音/a.wav"]


def test_a_tie_is_a_guess_in_the_note_and_a_given_code_page_decides(ingested, tmp_path):
    content = raw_zip([("משה/דוד.wav".encode("cp1255"), b"1")])
    _, notes = ingested(content)
    assert "this is a guess, so if names are wrong, upload it again with --zip-names" in notes[0]
    (tmp_path / "recordings").rename(tmp_path / "guessed")
    assert ingested(content, "cp1255") == (["משה/דוד.wav"], ["names in the zip were read as CP1255 (Hebrew, Windows)"])


def test_a_name_that_is_not_of_the_given_code_page_is_refused(ingested):
    with pytest.raises(UploadRefused, match=r"is not UTF-8: give another code page with --zip-names"):
        ingested(in_code_page("cp932", "ソフィア/1.wav"), "utf-8")


@pytest.mark.parametrize("name", ["表\\..\\..\\x.wav", "ソ/../x.wav"])
def test_paths_out_of_the_zip_are_found_after_decoding(ingested, name):
    with pytest.raises(UploadRefused, match="outside of it"):
        ingested(in_code_page("cp932", "ソフィア/1.wav", name))


def test_a_colon_at_the_second_place_is_a_name_and_a_drive_is_not(ingested):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("A: voice.wav", "1: first.wav", "B:/b.wav"):
            member = zipfile.ZipInfo(name)
            member.create_system = 3  # Unix, on whatever system this runs
            archive.writestr(member, b"1")
    assert ingested(buffer.getvalue())[0][1] == "A: voice.wav"
    with pytest.raises(UploadRefused, match="absolute"):
        ingested(raw_zip([(b"C:/x.wav", b"1")]))


@pytest.mark.parametrize("compression", [STORED, DEFLATED])
def test_zips_in_zips_have_their_own_code_pages_and_folders(ingested, zipped, compression):
    japanese = in_code_page("cp932", "ソフィア/表.wav", "声/録音.wav")
    chinese = in_code_page("gbk", "张三.wav", "李四.wav")
    members = {"日本.zip": japanese, "x/中国.ZIP": chinese, "x/1.wav": b"1", "x/notes.txt": b"no"}
    found, notes = ingested(zipped(members, compression))
    inner = ["x/1.wav", "x/中国/张三.wav", "x/中国/李四.wav", "日本/ソフィア/表.wav", "日本/声/録音.wav"]
    assert found == inner
    assert sorted(notes[:2]) == ["names in 'x/中国' were read as GBK", "names in '日本' were read as Shift-JIS"]


def test_a_zip_beside_a_folder_of_its_name_is_another_speaker(ingested, zipped):
    inner = zipped({"a.wav": b"1"})
    decomposed = unicodedata.normalize("NFD", "Zoë")
    found, _ = ingested(zipped({"anna.zip": inner, "anna/b.wav": b"2", "Zoë.zip": inner, f"{decomposed}/b.wav": b"3"}))
    assert sorted(name.partition("/")[0] for name in found) == sorted(["anna", "anna.zip", decomposed, "Zoë.zip"])


def test_zips_within_zips_within_zips_are_refused_and_two_levels_are_not(ingested, zipped):
    two = zipped({"b.zip": zipped({"a.zip": zipped({"x.wav": b"1"})})})
    assert ingested(two)[0] == ["b/a/x.wav"]
    with pytest.raises(UploadRefused, match="zips within zips within zips"):
        ingested(zipped({"c.zip": two}))


@pytest.mark.parametrize("compression", [STORED, DEFLATED])
def test_bombs_inside_zips_are_refused(ingested, zipped, compression):
    bomb = zipped({"bomb.wav": bytes(65 * MIB)}, DEFLATED)
    with pytest.raises(UploadRefused, match="times its size"):
        ingested(zipped({"a.zip": bomb}, compression))
    with pytest.raises(UploadRefused, match="times its size"):
        ingested(zipped({"a.zip": zipped({"bomb.wav": bytes(65 * MIB)}, STORED)}, DEFLATED))
    with pytest.raises(UploadTooLarge, match="60 entries"):
        ingested(zipped({f"{n}.zip": zipped({f"{m}.wav": b"1" for m in range(11)}) for n in range(5)}))


@pytest.mark.parametrize("compression", [STORED, DEFLATED])
def test_a_damaged_zip_inside_is_named(ingested, zipped, compression):
    inner = zipped({"a.wav": b"1" * 50})
    for content in (b"PK\x03\x04 no zip", inner[:-10], b"", inner.replace(b"PK\x01\x02", b"PK\x01\x03")):
        with pytest.raises(UploadRefused, match=r"'x/inner\.zip' in the zip is damaged"):
            ingested(zipped({"a.wav": b"1", "x/inner.zip": content}, compression))


def test_many_zips_inside_use_one_temporary_file_and_have_few_notes(ingested, zipped):
    inner = in_code_page("gbk", "张三/录音.wav")
    limits = replace(LIMITS, max_files=1000)
    found, notes = ingested(zipped({f"{n}.zip": inner for n in range(40)}, DEFLATED), limits=limits)
    assert (len(found), len(notes), notes[-1]) == (40, 11, "names in 30 more zips were read in code pages too")


def test_a_link_named_like_a_zip_is_left_out(ingested, zipped, tmp_path):
    buffer = io.BytesIO(zipped({"a.wav": b"1"}))
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("b.zip")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found, notes = ingested(buffer.getvalue())
    assert found == ["a.wav"]
    assert "'b.zip' (a link" in notes[0]


def test_names_that_are_very_long_stay_apart_in_their_folders(ingested, zipped):
    names = [f"anna/{'x' * 400}{number}.wav" for number in range(2)]
    found, _ = ingested(zipped(dict.fromkeys(names, b"1")))
    assert len(set(found)) == 2
    assert all(len(name) <= 300 and name.startswith("anna/") and name.endswith(".wav") for name in found)
    with pytest.raises(UploadRefused, match="shorten the folders' names"):
        ingested(zipped({f"{'x' * 301}/a.wav": b"1"}))
