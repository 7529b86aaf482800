"""The files of an untrusted zip and of the zips inside it, checked before anything is unpacked.

Rejected are encrypted members, absolute names and `..`, devices, members that share bytes, and zips that unpack to too
much. Each zip has its own code page of names (`rvc_engine.names.zip_names`); what an inner zip contains lies in a
folder with its name, which no other folder has: folders may be speakers.
"""

import errno
import hashlib
import io
import os
import re
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import IO, Self

from rvc_engine.audio.file_rules import LINK_IN_ZIP, ZIP, LeftOut, left_out
from rvc_engine.audio.parts import is_parts_file
from rvc_engine.names.code_pages import AUTO
from rvc_engine.names.zip_names import note_of, read_names
from server.errors import NoSpace, UploadRefused, UploadTooLarge

RATIO_FLOOR_BYTES = 64 * 2**20
"""Unpacked size below which the ratio is not checked, because silence can compress a thousandfold."""
DIRECTORY_BYTES_PER_FILE = 512
MAX_NAME_LENGTH = 300
MAX_FOLDER_LENGTH = 200
MAX_DEPTH = 2
"""Zips in zips in the upload: a client packs several zips, which may contain others, into one."""
MAX_INNER_ZIPS = 1000
MAX_NOTES = 10
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DRIVE = re.compile(r"[A-Za-z]:/")
_MADE_ON_UNIX = 3
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

    def less(self, num_files: int, num_bytes: int) -> "UnpackLimits":
        """The rest of the limits after so many files and bytes."""
        most = {"max_files": self.max_files - num_files, "max_unpacked_bytes": self.max_unpacked_bytes - num_bytes}
        return replace(self, **most)


@dataclass(frozen=True)
class Member:
    """A file of the zip or of a zip inside it."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    name: str
    """Relative path, of at most MAX_NAME_LENGTH characters."""

    def unpack(self, target: IO[bytes], check: Callable[[], None] = lambda: None) -> None:
        """Write the content. zipfile stops at the declared size and checks the CRC. `check`: called per megabyte."""
        with errors_as_refused(f"{self.name!r} in the zip"), self.archive.open(self.info) as source:
            while chunk := source.read(_CHUNK):
                check()
                target.write(chunk)


@dataclass
class ZipContent:
    """The recordings of a zip and of the zips inside it, and what is left out, both sorted by name."""

    members: list[Member] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    parts_files: list[Member] = field(default_factory=list)
    """Lists of parts of recordings that are left out (`rvc_engine.audio.parts`)."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how names were read."""
    num_entries: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the recordings when unpacked."""
        return sum(member.info.file_size for member in self.members)


@contextmanager
def errors_as_refused(what: str) -> Iterator[None]:
    """Errors of zipfile as UploadRefused."""
    try:
        yield
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, struct.error, zlib.error) as error:
        raise UploadRefused(f"{what} is damaged ({error}); create it again") from error
    except (ValueError, UnicodeError, OverflowError) as error:
        raise UploadRefused(f"the directory of {what} is invalid ({error}); create it again") from error


class ZipReader:
    """Reader of an upload; the zips inside it are open until it is closed."""

    def __init__(self, upload: Path, limits: UnpackLimits, code: str = AUTO) -> None:
        """`code`: code page of the names that a zip does not have in UTF-8."""
        self._upload, self._limits, self._code = upload, limits, code
        self._num_packed = upload.stat().st_size
        self._num_inner = 0
        self._spool: IO[bytes] | None = None
        """One temporary file for all inner zips that are deflated: their number is not that of open files."""
        self._num_spooled = 0
        self._content = ZipContent()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(errors_as_refused("the zip"))
        return self

    def __exit__(self, *exc_info: object) -> bool | None:
        return self._stack.__exit__(*exc_info)  # type: ignore[arg-type]

    def read(self) -> ZipContent:
        """Check and list all files. Raises UploadRefused, UploadTooLarge or NoSpace."""
        content = self._content
        self._add(self._stack.enter_context(self._upload.open("rb")), PurePosixPath(), 0)
        content.members.sort(key=lambda member: member.name)
        content.left_out = sorted(set(content.left_out), key=lambda other: other.name)
        if (num_more := len(content.notes) - MAX_NOTES) > 0:
            content.notes[MAX_NOTES:] = [f"names in {num_more} more zips were read in code pages too"]
        self._check_sizes()
        return content

    def _add(self, file: IO[bytes], folder: PurePosixPath, depth: int) -> None:
        """Add the files of one zip, which lie in `folder`."""
        check_directory_size(file, self._limits.max_files)
        archive = self._stack.enter_context(zipfile.ZipFile(file))
        entries = archive.infolist()
        self._content.num_entries += len(entries)
        _check_count(self._content.num_entries, self._limits.max_files)
        names = self._names(entries, folder)
        for entry, name in zip(entries, names, strict=True):
            check_entry(entry, name)
        check_overlap(file, dict(zip(entries, names, strict=True)), archive.start_dir)
        before = f"{folder}/" if depth else ""
        taken = {_key(parent) for name in names for parent in PurePosixPath(name).parents}
        for entry, name in sorted(zip(entries, names, strict=True), key=lambda pair: pair[1]):
            other = left_out(name)
            is_link = stat.S_ISLNK(entry.external_attr >> 16)
            if other is not None and other.code == ZIP and not entry.is_dir() and not is_link:
                inner = _free_folder(PurePosixPath(name), taken)
                self._add_inner(file, Member(archive, entry, name), folder / inner, depth + 1)
            elif is_parts_file(name) and depth == 0 and not is_link:
                self._content.parts_files.append(Member(archive, entry, name))
            elif other is not None and other.code != ZIP:
                self._leave_out(replace(other, name=before + other.name))
            elif is_link:
                self._leave_out(LeftOut(before + name, LINK_IN_ZIP))
            elif not name.endswith("/"):
                self._content.members.append(Member(archive, entry, _bounded(folder / PurePosixPath(name))))

    def _leave_out(self, other: LeftOut) -> None:
        self._content.left_out.append(replace(other, name=other.name[:MAX_NAME_LENGTH]))

    def _names(self, entries: list[zipfile.ZipInfo], folder: PurePosixPath) -> list[str]:
        try:
            found = read_names(entries, self._code)
        except UnicodeError:
            raise
        except ValueError as error:
            raise UploadRefused(str(error)) from error
        if found.choice is not None:
            self._content.notes.append(note_of(found.choice, "" if folder == PurePosixPath() else str(folder)))
        return found.names

    def _add_inner(self, file: IO[bytes], member: Member, folder: PurePosixPath, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UploadRefused(f"the zip contains zips within zips within zips ({member.name!r}); unpack them first")
        self._num_inner += 1
        if self._num_inner > MAX_INNER_ZIPS:
            raise UploadRefused(f"the zip contains more than {MAX_INNER_ZIPS} zips; unpack them first")
        with errors_as_refused(f"{member.name!r} in the zip"):
            self._add(self._opened(file, member), folder, depth)

    def _opened(self, file: IO[bytes], member: Member) -> IO[bytes]:
        """An inner zip: part of its outer one where it is stored, else unpacked to a temporary file."""
        info = member.info
        if info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size:
            file.seek(info.header_offset)
            _, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            return io.BufferedReader(_Part(file, start, info.file_size))
        start = self._num_spooled
        self._num_spooled += info.file_size
        self._check_total(self._num_spooled)
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(dir=self._upload.parent)  # noqa: SIM115 - closed with the reader
            self._stack.enter_context(self._spool)
        self._spool.seek(start)
        member.unpack(self._spool)
        return io.BufferedReader(_Part(self._spool, start, info.file_size))

    def _check_sizes(self) -> None:
        """Check the sizes in the directories, which `Member.unpack` enforces."""
        max_file_bytes = self._limits.max_file_bytes
        for member in self._content.members:
            if member.info.file_size > max_file_bytes:
                raise UploadTooLarge(
                    f"{member.name!r} is larger than the limit of {max_file_bytes} bytes for a recording"
                )
        self._check_total(self._content.num_bytes)

    def _check_total(self, total: int) -> None:
        limits = self._limits
        if total > limits.max_unpacked_bytes:
            raise UploadTooLarge(f"the zip unpacks to {total} bytes; at most {limits.max_unpacked_bytes} are allowed")
        if total > RATIO_FLOOR_BYTES and total > limits.max_ratio * self._num_packed:
            raise UploadRefused(
                f"the zip unpacks to {total // max(self._num_packed, 1)} times its size, like a zip bomb"
            )
        if total > limits.free_bytes:
            raise NoSpace(
                f"the zip unpacks to {total} bytes, for which the server's disk has no space; free some space there "
                "and try again"
            )


class _Part(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as files do; zipfile relies on it
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def check_directory_size(file: IO[bytes], max_files: int) -> None:
    """Check the size of a zip's directory before zipfile reads all of it into memory. Raises UploadTooLarge."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    file.seek(0)
    if end is None:
        raise zipfile.BadZipFile("it has no directory: it was cut off, or is not a zip")
    size, number = int(end[5]), int(end[4])
    _check_count(number, max_files)
    if size > max(2**16, max_files * DIRECTORY_BYTES_PER_FILE):
        raise UploadTooLarge(f"the zip's directory has {size} bytes, too many for {max_files} entries")


def _check_count(number: int, max_files: int) -> None:
    if number > max_files:
        raise UploadTooLarge(
            f"the zip has {number} entries; at most {max_files} are allowed (RVC_TRAIN_MAX_FILES): "
            "join short recordings to longer ones"
        )


def _key(path: PurePosixPath) -> str:
    """Equal for folders that look the same."""
    return unicodedata.normalize("NFC", str(path))


def _free_folder(path: PurePosixPath, taken: set[str]) -> PurePosixPath:
    """A folder for the content of an inner zip: its name without `.zip` unless another folder has that; then taken."""
    stem = path.name[: -len(".zip")] or path.name
    names = chain((stem, path.name), (f"{stem} ({number})" for number in count(2)))
    folder = next(path.with_name(name) for name in names if _key(path.with_name(name)) not in taken)
    taken.add(_key(folder))
    return folder


def _bounded(path: PurePosixPath) -> str:
    """A path of at most MAX_NAME_LENGTH characters: a long file name is shortened. Raises UploadRefused."""
    if len(str(path)) <= MAX_NAME_LENGTH:
        return str(path)
    if len(str(path.parent)) > MAX_FOLDER_LENGTH:
        raise UploadRefused(
            f"the zip contains a folder path of {len(str(path.parent))} characters, more than {MAX_FOLDER_LENGTH}; "
            "shorten the folders' names"
        )
    digest = hashlib.sha256(path.name.encode(errors="replace")).hexdigest()[:8]
    end = f"~{digest}{path.suffix if len(path.suffix) < 10 else ''}"
    return str(path.with_name(path.name[: MAX_NAME_LENGTH - len(str(path.parent)) - 1 - len(end)] + end))


def check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    """Refuse an entry that is encrypted, a device, compressed in an unusual way, or named as no file in a zip is."""
    path = PurePosixPath(name)
    if "\0" in name:
        raise UploadRefused(f"the zip contains a name with a null character: {name!r}")
    has_drive = _DRIVE.match(name) and (entry.create_system != _MADE_ON_UNIX or "\\" in entry.orig_filename)
    if path.is_absolute() or has_drive:
        raise UploadRefused(f"the zip contains an absolute path: {name!r}; create it with relative paths")
    if ".." in path.parts:
        raise UploadRefused(f"the zip contains a path outside of it: {name!r}; create it again")
    if entry.flag_bits & 0x1:
        raise UploadRefused(f"the zip is encrypted ({name!r}); create it without a password")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        raise UploadRefused(f"the zip contains {name!r}, which is a device or a pipe; leave it out")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UploadRefused(f"{name!r} uses an unsupported compression method; create a plain zip (deflate)")


def check_overlap(file: IO[bytes], names: Mapping[zipfile.ZipInfo, str], directory: int) -> None:
    """Reject members that share bytes, with which a small zip can pretend to contain many large files."""
    end = 0
    for entry in sorted(names, key=lambda entry: entry.header_offset):
        if not 0 <= entry.header_offset < directory:
            raise zipfile.BadZipFile(f"{names[entry]!r} is not at the offset in the directory")
        file.seek(entry.header_offset)
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"{names[entry]!r} is not at the offset in the directory")
        if entry.header_offset < end:
            name = names[entry]
            raise UploadRefused(f"the zip's entry {name!r} shares bytes with another, like a zip bomb")
        end = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + entry.compress_size
    if end > directory:
        raise UploadRefused("the zip's last entry overlaps its directory; create it again")
