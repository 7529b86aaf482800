"""Ingestion of an untrusted upload into a folder of recordings with generated names.

No file is extracted under its own name: members become `000001.wav` and so on, and their names go into
`recordings.json`. Rejected are encrypted members, absolute names and `..`, links and devices, nested archives, members
that share bytes, and archives that unpack to too much. Directories, hidden files, `__MACOSX` and files that are not
audio are skipped; the latter are listed in a note.
"""

import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from rvc_engine.audio.recordings import MANIFEST
from server.errors import NoSpace, UploadRefused, UploadTooLarge
from server.storage.local import link_or_copy

_AUDIO = (
    "wav wave w64 flac mp3 mp2 ogg oga opus spx m4a m4b mp4 m4v mov aac ac3 webm mka mkv wma aif aiff aifc caf au snd "
    "amr 3gp ape wv tta voc"
)
_ARCHIVES = "zip tar gz tgz bz2 tbz2 xz txz 7z rar zst lz4 lzma iso jar"
AUDIO_SUFFIXES = frozenset(f".{word}" for word in _AUDIO.split())
ARCHIVE_SUFFIXES = frozenset(f".{word}" for word in _ARCHIVES.split())
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
OTHER_ARCHIVE_MAGICS = (
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
)
RATIO_FLOOR_BYTES = 64 * 2**20
"""Unpacked size below which the ratio is not checked, because silence can compress a thousandfold."""
DIRECTORY_BYTES_PER_FILE = 512
MAX_NAMES_IN_NOTE = 3
MAX_NAME_LENGTH = 300
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class UnpackLimits:
    """Limits for unpacking an upload."""

    max_files: int
    max_file_bytes: int
    max_unpacked_bytes: int
    max_ratio: float
    free_bytes: int
    """Free disk space available for the recordings."""


@dataclass(frozen=True)
class IngestResult:
    """Content of an upload."""

    num_files: int
    stored_bytes: int
    """Bytes of the recordings and their manifest."""
    notes: list[str] = field(default_factory=list)
    """Sentences on the files that were skipped."""


def unpacked_bytes(upload: Path, limits: UnpackLimits) -> int:
    """Check an upload as far as that is possible without unpacking it; returns the bytes of its recordings.

    Raises UploadRefused, UploadTooLarge or NoSpace.
    """
    if not _is_zip(upload):
        return _checked_size(upload, limits)
    with _checked_zip(upload, limits) as (_, members, _):
        return sum(entry.file_size for entry, _ in members)


def ingest(
    upload: Path, name: str, folder: Path, limits: UnpackLimits, check: Callable[[], None] = lambda: None
) -> IngestResult:
    """Ingest the recordings of an upload into `folder`, with their manifest. The upload is not changed.

    A single recording is a hard link where possible. `check` is called for each megabyte of an archive, and may raise.
    Raises UploadRefused, UploadTooLarge or NoSpace.
    """
    notes: list[str] = []
    if _is_zip(upload):
        with _checked_zip(upload, limits) as (archive, members, notes):
            folder.mkdir(parents=True)
            stored = [(_unpack(archive, entry, folder, i + 1, check), name) for i, (entry, name) in enumerate(members)]
    else:
        _checked_size(upload, limits)
        suffix = PurePosixPath(name).suffix.lower()
        stored = [(f"000001{suffix if suffix in AUDIO_SUFFIXES else _suffix_of(upload)}", name)]
        folder.mkdir(parents=True)
        link_or_copy(upload, folder / stored[0][0])
    _write_manifest(folder, stored)
    return IngestResult(len(stored), sum(path.stat().st_size for path in folder.iterdir()), notes)


def _is_zip(upload: Path) -> bool:
    """Whether it is a zip, by its first bytes. Raises UploadRefused for other archives."""
    head = _head(upload)
    if not head:
        raise UploadRefused("the upload is empty; send a zip of recordings or one audio file as the request's body")
    if head.startswith(OTHER_ARCHIVE_MAGICS):
        raise UploadRefused("this archive format is not supported; send a zip, or one audio file")
    return head.startswith(ZIP_MAGICS)


def _head(upload: Path) -> bytes:
    with upload.open("rb") as file:
        return file.read(16)


def _checked_size(upload: Path, limits: UnpackLimits) -> int:
    size = upload.stat().st_size
    if size > limits.max_file_bytes:
        raise UploadTooLarge(f"the file exceeds the limit of {limits.max_file_bytes} bytes for a recording; split it")
    return size


def _suffix_of(upload: Path) -> str:
    """Suffix guessed from the first bytes, for readers only: decoders do not use it."""
    head = _head(upload)
    by_magic = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"FORM": ".aiff", b"caff": ".caf"}
    for magic, suffix in by_magic.items():
        if head.startswith(magic):
            return suffix
    return ".m4a" if head[4:8] == b"ftyp" else ".audio"


_Members = list[tuple[zipfile.ZipInfo, str]]


@contextmanager
def _checked_zip(upload: Path, limits: UnpackLimits) -> Iterator[tuple[zipfile.ZipFile, _Members, list[str]]]:
    """The archive, its members with their names, and notes. Errors of zipfile become UploadRefused."""
    try:
        with upload.open("rb") as file:
            _check_directory_size(file, limits)
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if len(entries) > limits.max_files:
                    raise UploadTooLarge(f"the zip has {len(entries)} entries; at most {limits.max_files} are allowed")
                members, notes = _choose(entries)
                _check_sizes(members, upload.stat().st_size, limits)
                _check_overlap(file, entries, archive.start_dir)
                if not members:
                    raise UploadRefused(_nothing_found(entries))
                yield archive, members, notes
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, struct.error, zlib.error) as error:
        raise UploadRefused(f"the zip is damaged ({error}); create it again") from error
    except (ValueError, UnicodeError, OverflowError) as error:
        raise UploadRefused(f"the zip's directory is invalid ({error}); create it again") from error


def _nothing_found(entries: list[zipfile.ZipInfo]) -> str:
    if not entries:
        return "the zip is empty; add recordings of one voice"
    return (
        f"the zip has no audio file among its {len(entries)} entries; add recordings of one voice (wav, flac, mp3, "
        "ogg, opus, m4a, ...)"
    )


def _check_directory_size(file: IO[bytes], limits: UnpackLimits) -> None:
    """Check the size of the zip's directory before zipfile reads all of it into memory."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    file.seek(0)
    if end is None:
        raise zipfile.BadZipFile("it has no directory: it was cut off, or is not a zip")
    size, count = int(end[5]), int(end[4])
    if count > limits.max_files or size > max(2**16, limits.max_files * DIRECTORY_BYTES_PER_FILE):
        raise UploadTooLarge(f"the zip has {count} entries; at most {limits.max_files} are allowed")


def _choose(entries: list[zipfile.ZipInfo]) -> tuple[_Members, list[str]]:
    """Members to unpack with their names, sorted by name, and notes on skipped ones. Raises UploadRefused."""
    members, skipped = [], []
    for entry in entries:
        name = _name_of(entry)
        _check_entry(entry, name)
        path = PurePosixPath(name)
        if entry.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        if path.suffix.lower() in ARCHIVE_SUFFIXES:
            raise UploadRefused(f"the zip contains another archive, {name!r}; unpack it first")
        if path.suffix.lower() in AUDIO_SUFFIXES:
            members.append((entry, name[:MAX_NAME_LENGTH]))
        else:
            skipped.append(name[:MAX_NAME_LENGTH])
    members.sort(key=lambda member: member[1])
    return members, [_note(skipped)] if skipped else []


def _note(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MAX_NAMES_IN_NOTE])
    more = f" and {len(names) - MAX_NAMES_IN_NOTE} more" if len(names) > MAX_NAMES_IN_NOTE else ""
    return f"skipped files that are not audio: {shown}{more}"


def _name_of(entry: zipfile.ZipInfo) -> str:
    """The member's name with forward slashes. Many programs write UTF-8 without its flag, and zipfile assumes CP437."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.orig_filename
    return name.replace("\\", "/")


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    path = PurePosixPath(name)
    if "\0" in name:
        raise UploadRefused(f"the zip contains a name with a null character: {name!r}")
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        raise UploadRefused(f"the zip contains an absolute path: {name!r}; create it with relative paths")
    if ".." in path.parts:
        raise UploadRefused(f"the zip contains a path outside of it: {name!r}; create it again")
    if entry.flag_bits & 0x1:
        raise UploadRefused(f"the zip is encrypted ({name!r}); create it without a password")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise UploadRefused(f"the zip contains {name!r}, which is a link or a device; add the file itself")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UploadRefused(f"{name!r} uses an unsupported compression method; create a plain zip (deflate)")


def _check_sizes(members: _Members, packed: int, limits: UnpackLimits) -> None:
    """Check the sizes in the directory, which `_unpack` enforces."""
    for entry, name in members:
        if entry.file_size > limits.max_file_bytes:
            raise UploadTooLarge(f"{name!r} is larger than the limit of {limits.max_file_bytes} bytes for a recording")
    total = sum(entry.file_size for entry, _ in members)
    if total > limits.max_unpacked_bytes:
        raise UploadTooLarge(f"the zip unpacks to {total} bytes; at most {limits.max_unpacked_bytes} are allowed")
    if total > RATIO_FLOOR_BYTES and total > limits.max_ratio * packed:
        raise UploadRefused(f"the zip unpacks to {total // max(packed, 1)} times its size, like a zip bomb")
    if total > limits.free_bytes:
        raise NoSpace(
            f"the zip unpacks to {total} bytes, for which the server's disk has no space; free some space there and "
            "try again"
        )


def _check_overlap(file: IO[bytes], entries: list[zipfile.ZipInfo], directory: int) -> None:
    """Reject members that share bytes, with which a small zip can pretend to contain many large files."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if not 0 <= entry.header_offset < directory:
            raise zipfile.BadZipFile(f"{entry.orig_filename!r} is not at the offset in the directory")
        file.seek(entry.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"{entry.orig_filename!r} is not at the offset in the directory")
        if entry.header_offset < end:
            raise UploadRefused(f"the zip's entry {entry.orig_filename!r} shares bytes with another, like a zip bomb")
        end = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + entry.compress_size
    if end > directory:
        raise UploadRefused("the zip's last entry overlaps its directory; create it again")


def _unpack(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, number: int, check: Callable[[], None]
) -> str:
    """Write one member under a generated name and return it. zipfile stops at the declared size and checks the CRC."""
    stored = f"{number:06d}{PurePosixPath(_name_of(entry)).suffix.lower()}"
    with archive.open(entry) as source, (folder / stored).open("xb") as target:
        while chunk := source.read(_CHUNK):
            check()
            target.write(chunk)
    return stored


def _write_manifest(folder: Path, stored: list[tuple[str, str]]) -> None:
    rows = [{"path": path, "name": name} for path, name in stored]
    text = json.dumps({"files": rows}, ensure_ascii=False)
    (folder / MANIFEST).write_bytes(text.encode(errors="replace"))
