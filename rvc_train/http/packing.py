"""Packing of the user's files into one to upload: a zip or a recording unchanged, anything else packed into a zip."""

import contextlib
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rvc_engine.audio.file_rules import LINK_IN_ZIP, ZIP, LeftOut, left_out, left_out_text
from rvc_engine.audio.recordings import list_folder
from rvc_train.errors import UsageError


@dataclass(frozen=True)
class UploadContents:
    """The files of an upload."""

    members: list[tuple[Path, str]] = field(default_factory=list)
    """Each file with its unique name in the zip; empty where one file is uploaded unchanged."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Files that are not uploaded; of a zip that is uploaded unchanged, those that the server leaves out."""


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
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path, name in contents.members:
                target.write(path, name)
        yield archive


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
        others = f". Left out: {left_out_text(contents.left_out)}" if contents.left_out else ""
        raise UsageError(
            f"{', '.join(map(str, paths))} contains no recordings; put recordings of one voice into it{others}"
        )
    return contents


def default_dataset_name(paths: Sequence[Path]) -> str:
    """Default name of a dataset: that of the folder, the zip (without `.zip`), or the recording."""
    if not paths:
        raise UsageError("nothing to upload; name a folder, a zip or audio files")
    first = paths[0].resolve()
    if len(paths) > 1:
        return first.parent.name or "dataset"
    return first.name.removesuffix(".zip") or "dataset"


def _contents(paths: Sequence[Path]) -> UploadContents:
    """All files. With several folders, names begin with the folder's: each may be a speaker."""
    contents = UploadContents()
    taken: set[str] = set()
    for path in paths:
        if path.is_file():
            files, others = [(path, path.name)], []
            if other := left_out(path.name):
                files, others = [], [other]
        else:
            found = list_folder(path)
            files, others = [(each.path, each.name) for each in found.recordings], found.left_out
            if len(paths) > 1:
                label = path.resolve().name
                files = [(file, f"{label}/{name}") for file, name in files]
                others = [replace(other, name=f"{label}/{other.name}") for other in others]
        contents.left_out.extend(others)
        for file, name in files:
            free = _free_name(name, taken)
            taken.add(free)
            contents.members.append((file, free))
    return contents


def _left_out_of_zip(path: Path) -> list[LeftOut]:
    """What the server leaves out of a zip; nothing where the zip is damaged, which the server reports."""
    others: list[LeftOut] = []
    unreadable = contextlib.suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError)
    with unreadable, zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if other := left_out(entry.filename):
                others.append(other)
            elif stat.S_ISLNK(entry.external_attr >> 16):
                others.append(LeftOut(entry.filename, LINK_IN_ZIP))
    return sorted(set(others), key=lambda other: other.name)


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with a number when another file has it (two folders may contain the same names)."""
    path = Path(name)
    candidate, number = name, 2
    while candidate in taken:
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}").as_posix()
        number += 1
    return candidate
