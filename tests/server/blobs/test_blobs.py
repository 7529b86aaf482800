"""What every store of blobs promises."""

import hashlib
from pathlib import Path

import httpx
import pytest

from server.blobs.address import open_blobs
from server.blobs.interface import BlobStore, DamagedBlob
from server.blobs.reading import BlobFile
from server.errors import SettingsRefused, StorageAway

KEY = "jobs/job_1/attempts/000001/artifacts/voice"


def stored(blobs: BlobStore, folder: Path, key: str = KEY, data: bytes = b"a voice" * 1000) -> str:
    source = folder / "source"
    source.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    blobs.put(key, source, sha256)
    return sha256


def test_a_blob_comes_back_with_its_checksum(blobs: BlobStore, tmp_path: Path) -> None:
    sha256 = stored(blobs, tmp_path)
    found = blobs.find(KEY)
    assert found is not None
    assert (found.size, found.sha256) == (7000, sha256)
    blobs.fetch(KEY, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"a voice" * 1000
    assert b"".join(blobs.open(KEY, 3, 9)) == b"oicea "


def test_a_file_of_several_parts_comes_back_whole(blobs: BlobStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * (20 << 12)
    stored(blobs, tmp_path, data=data)
    blobs.fetch(KEY, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


def test_a_missing_blob_is_none_or_file_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    assert blobs.find("jobs/none") is None
    with pytest.raises(FileNotFoundError):
        blobs.fetch("jobs/none", tmp_path / "target")
    with pytest.raises(FileNotFoundError):
        list(blobs.open("jobs/none", 0, 1))
    blobs.delete("jobs/none")


def test_blobs_are_listed_by_whole_names_of_folders(blobs: BlobStore, tmp_path: Path) -> None:
    for key in ("jobs/a/one", "jobs/a/two", "jobs/ab/one", "datasets/a/one"):
        stored(blobs, tmp_path, key)
    assert sorted(blob.key for blob in blobs.list("jobs/a")) == ["jobs/a/one", "jobs/a/two"]
    assert blobs.names("jobs") == {"a", "ab"}
    assert blobs.names("") == {"jobs", "datasets"}
    assert len(list(blobs.list(""))) == 4


def test_a_deletion_takes_the_blob_of_the_key_and_those_below_it(blobs: BlobStore, tmp_path: Path) -> None:
    for key in ("jobs/a/one", "jobs/ab/one", "jobs/c"):
        stored(blobs, tmp_path, key)
    blobs.delete("jobs/a")
    blobs.delete("jobs/c")
    assert [blob.key for blob in blobs.list("")] == ["jobs/ab/one"]


def test_a_copy_has_the_checksum_of_its_source(blobs: BlobStore, tmp_path: Path) -> None:
    sha256 = stored(blobs, tmp_path)
    blobs.copy(KEY, "jobs/job_2/copy")
    found = blobs.find("jobs/job_2/copy")
    assert found is not None
    assert found.sha256 == sha256


def test_a_damaged_blob_is_refused_at_reading(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"other bytes")
    if blobs.address.startswith("file:"):
        stored(blobs, tmp_path, data=b"these bytes")
        (tmp_path / "store" / KEY).write_bytes(b"other bytes")
    else:  # S3 believes whoever sends
        blobs.put(KEY, tmp_path / "source", "0" * 64)
    with pytest.raises(DamagedBlob):
        blobs.fetch(KEY, tmp_path / "target")
    found = blobs.find(KEY)
    assert found is not None
    with pytest.raises(DamagedBlob):
        BlobFile(blobs, found).open("rb").read(4)


def test_a_blob_reads_as_a_file_from_any_position(blobs: BlobStore, tmp_path: Path) -> None:
    stored(blobs, tmp_path, data=b"0123456789")
    found = blobs.find(KEY)
    assert found is not None
    file = BlobFile(blobs, found).open("rb")
    assert [file.read(4), file.read(100), file.read(1)] == [b"0123", b"456789", b""]
    file.seek(7)
    assert file.read(2) == b"78"


def test_a_folder_that_is_not_mounted_is_away(tmp_path: Path) -> None:
    blobs = open_blobs((tmp_path / "not mounted").as_uri())
    assert blobs is not None
    with pytest.raises(StorageAway, match="mount"):
        list(blobs.list(""))
    assert not (tmp_path / "not mounted").exists()


@pytest.mark.cluster
def test_a_storage_that_does_not_answer_is_away_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    blobs = open_blobs("s3://voices/prefix")
    assert blobs is not None
    with pytest.raises(StorageAway, match="s3://voices/prefix does not answer"):
        blobs.find(KEY)


@pytest.mark.cluster
def test_a_signed_address_is_answered_without_a_token_and_with_the_headers_of_the_blob(
    seaweed: str, tmp_path: Path
) -> None:
    blobs = open_blobs(f"{seaweed}/signed")
    assert blobs is not None
    (tmp_path / "source").write_bytes(b"a voice")
    blobs.put(KEY, tmp_path / "source", hashlib.sha256(b"a voice").hexdigest(), 'attachment; filename="v.pth"')
    address = blobs.url(KEY, 60)
    assert address is not None
    answer = httpx.get(address)
    assert (answer.status_code, answer.content) == (200, b"a voice")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="v.pth"'


@pytest.mark.parametrize("url", ["ftp://a/b", "s3:///a", "voices", "s3://key:secret@bucket/a", "file://host/a"])
def test_an_address_of_another_kind_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(SettingsRefused, match="RVC_TRAIN_STORAGE_URL"):
        open_blobs(url)
