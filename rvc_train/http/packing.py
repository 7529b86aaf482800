"""Packing of the user's files into one to upload: a zip or a recording unchanged, anything else packed into a zip."""

import contextlib
import errno
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rvc_engine.audio.file_rules import LINK_IN_ZIP, ZIP, LeftOut, left_out, left_out_text
from rvc_engine.audio.parts import is_parts_file
from rvc_engine.audio.recordings import DatasetFiles, Recording, list_folder
from rvc_engine.names.paths import free_path, readable_paths
from rvc_engine.names.voices import check_dataset_name, default_dataset_name
from rvc_engine.names.zip_names import read_names
from rvc_train.errors import UsageError


@dataclass(frozen=True)
class UploadContents:
    """The files of an upload."""

    members: list[tuple[Path, str]] = field(default_factory=list)
    """Each file with its unique name in the zip; empty where one file is uploaded unchanged."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Files that are not uploaded, and those that the server leaves out of zips."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how names were read."""


@contextlib.contextmanager
def packed(
    paths: Sequence[Path], on_contents: Callable[[UploadContents], None] = lambda contents: None
) -> Iterator[Path]:
    """The file to upload. A folder, or several files, become a temporary zip that is deleted afterwards.

    Recordings are stored, not compressed: audio does not shrink, and storing costs no time. `on_contents` is called
    before that, and may raise. Raises UsageError for a path that does not exist and when there are no recordings.
    """
    contents = upload_contents(paths)
    on_contents(contents)
    if not contents.members:
        yield paths[0]
        return
    with tempfile.TemporaryDirectory(prefix="rvc-train-") as folder:
        archive = Path(folder) / "dataset.zip"
        with _room_for(archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path, name in contents.members:
                target.write(path, name)
        yield archive


@contextlib.contextmanager
def _room_for(archive: Path) -> Iterator[None]:
    """Raise UsageError when the disk of the temporary zip becomes full."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        usage = shutil.disk_usage(archive.parent)
        raise UsageError(
            f"the disk of {archive.parent.parent} is full: {usage.free / 1e6:.1f} of {usage.total / 1e6:.1f} MB are "
            "free, and the recordings are packed there before they are sent; free some space, or set TMPDIR to a "
            "folder on another disk"
        ) from error


def upload_contents(paths: Sequence[Path]) -> UploadContents:
    """The files of an upload of these paths: those that are recordings by `file_rules`. Raises UsageError."""
    missing = [path for path in paths if not path.exists()]
    if missing or not paths:
        named = ", ".join(map(str, missing)) or "nothing"
        raise UsageError(f"cannot upload {named}: there is no such file or folder")
    if len(paths) == 1 and paths[0].is_file():
        other = left_out(paths[0].name)
        if other is None:
            return UploadContents()
        if other.code == ZIP:
            return UploadContents(left_out=_left_out_of_zip(paths[0]))
    contents = _contents(paths)
    if not contents.members:
        others = f". Left out: {left_out_text(contents.left_out, None)}" if contents.left_out else ""
        raise UsageError(
            f"{', '.join(map(str, paths))} contains no recordings; put recordings of one voice into it{others}"
        )
    return contents


def _contents(paths: Sequence[Path]) -> UploadContents:
    """All files, the zips included, which the server unpacks.

    With several folders, names begin with the folder's, of which no two are equal: each may be a speaker.
    """
    contents = UploadContents()
    taken: set[str] = set()
    labels: set[str] = set()
    for path in {path.resolve(): path for path in paths}.values():
        if path.is_file():
            label, found = "", _single(path)
        else:
            label, found = _label(path, labels) if len(paths) > 1 else "", list_folder(path)
        contents.notes.extend(found.notes)
        others = [other for other in found.left_out if other.code != ZIP or other.name.endswith("/")]
        lists = [other for other in others if path.is_dir() and is_parts_file(other.name)]
        contents.members.extend((path / each.name, label + each.name) for each in lists)  # the server reads them
        others = [other for other in others if other not in lists]
        for each in found.zips:
            inner = each.name[: -len(".zip")]
            others += [replace(other, name=f"{inner}/{other.name}") for other in _left_out_of_zip(each.path)]
        contents.left_out.extend(replace(other, name=label + other.name) for other in others)
        for each in [*found.recordings, *found.zips]:
            free = free_path(label + each.name, taken)
            taken.add(free)
            contents.members.append((each.path, free))
    return contents


def _single(path: Path) -> DatasetFiles:
    names, _ = readable_paths([path.name])
    file, other = Recording(path, names[0]), left_out(path.name)
    if other is None:
        return DatasetFiles([file])
    return DatasetFiles([], [other], [file] if other.code == ZIP else [])


def _label(folder: Path, taken: set[str]) -> str:
    """Start of the names of a folder's files."""
    names, _ = readable_paths([folder.resolve().name or "folder"])
    label = free_path(names[0], taken)
    taken.add(label)
    return f"{label}/"


def dataset_name(name: str | None, paths: Sequence[Path]) -> str:
    """Name of a dataset; None: that of the folder, the zip (without `.zip`), or the recording. Raises UsageError."""
    if name is not None:
        try:
            return check_dataset_name(name)
        except ValueError as error:
            raise UsageError(f"--name: {error}") from error
    if not paths:
        raise UsageError("nothing to upload; name a folder, a zip or audio files")
    first = paths[0].resolve()
    if len(paths) > 1:
        return default_dataset_name(first.parent.name)
    return default_dataset_name(re.sub(r"\.zip$", "", first.name, flags=re.IGNORECASE))


def _left_out_of_zip(path: Path) -> list[LeftOut]:
    """Entries that the server leaves out of a zip; none where the zip is damaged, which the server reports."""
    others: list[LeftOut] = []
    unreadable = contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
    with unreadable, zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry, name in zip(entries, read_names(entries).names, strict=True):
            other = left_out(name)
            if other is not None and (other.code != ZIP or entry.is_dir()):
                others.append(other)
            elif stat.S_ISLNK(entry.external_attr >> 16):
                others.append(LeftOut(name, LINK_IN_ZIP))
    return sorted(set(others), key=lambda other: other.name)
