"""The recordings of a dataset folder, with the names that their owner gave them, and the files left out. No torch.

A folder of audio files is a dataset. The server stores uploads under generated names, so that no path is built from
untrusted input, and writes `recordings.json` beside them: {"files": [{"path": "000001.wav", "name": "...",
"without": [[1.5, 4.0]]}], "left_out": [{"name": "...", "reason": "...", "code": "..."}]}. In `without` are the parts of
a recording that are left out; for folders without such a file they are in `left_out_parts.txt` (`parts`).
"""

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

from rvc_engine.audio.file_rules import ZIP, LeftOut, left_out, left_out_text
from rvc_engine.audio.parts import MAX_PARTS_BYTES, Part, is_parts_file, merged, parse_all_parts
from rvc_engine.environment.text_files import read_text
from rvc_engine.errors import InvalidDataset
from rvc_engine.names.paths import readable_paths

MANIFEST = "recordings.json"


@dataclass(frozen=True)
class Recording:
    """A file of a dataset, which may turn out not to be audio when it is decoded."""

    path: Path
    name: str
    """The owner's name for it: for messages, never for paths."""
    without: tuple[Part, ...] = ()
    """Parts that are left out, in order, none overlapping another."""


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset."""

    recordings: list[Recording]
    """In a stable order: by name, or in the order of the manifest."""
    left_out: list[LeftOut] = field(default_factory=list)
    zips: list[Recording] = field(default_factory=list)
    """Zips, which are in `left_out` too, for programs that unpack them."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how names were read."""


class _ManifestRow(BaseModel):
    path: str
    name: str
    without: list[Part] = []


class _LeftOutRow(BaseModel):
    name: str
    reason: str
    code: str = ""


class _Manifest(BaseModel):
    files: list[_ManifestRow]
    left_out: list[_LeftOutRow] = []


def list_recordings(folder: Path) -> list[Recording]:
    """The recordings of a dataset, as `list_dataset`."""
    return list_dataset(folder).recordings


def list_dataset(folder: Path) -> DatasetFiles:
    """List the files of a dataset: by its manifest, or without one by `list_folder`.

    Raises InvalidDataset when the folder does not exist or holds no recordings, or when the manifest is malformed or
    names anything but files inside the folder.
    """
    if folder.is_file():
        raise InvalidDataset(f"{folder} is a file; give the folder that holds the recordings")
    if not folder.is_dir():
        raise InvalidDataset(f"there is no dataset folder {folder}; give the folder that holds the recordings")
    manifest = folder / MANIFEST
    files = _from_manifest(manifest) if manifest.is_file() else _without_parts(folder, list_folder(folder))
    if not files.recordings:
        others = f". Left out: {left_out_text(files.left_out, None)}" if files.left_out else ""
        raise InvalidDataset(
            f"the dataset folder {folder} holds no files that could be recordings; put recordings of one voice into "
            f"it{others}"
        )
    return files


def _without_parts(folder: Path, files: DatasetFiles) -> DatasetFiles:
    """The files with the parts that lists in their folders leave out. Raises InvalidDataset."""
    listed = [each for each in files.left_out if is_parts_file(each.name)]
    parts = parse_all_parts(
        {each.name.rpartition("/")[0]: _parts_text(folder / each.name) for each in listed},
        [recording.name for recording in files.recordings],
    )
    recordings = [replace(each, without=parts.get(each.name, ())) for each in files.recordings]
    return replace(files, recordings=recordings, left_out=[each for each in files.left_out if each not in listed])


def _parts_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_PARTS_BYTES:
            raise InvalidDataset(
                f"{path} is larger than {MAX_PARTS_BYTES >> 20} MB; leave out whole recordings instead"
            )
        return read_text(path)
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error.strerror}; correct or delete it") from error


def list_folder(folder: Path) -> DatasetFiles:
    """List all files below a folder by `file_rules`. Links are followed, but each folder is read once.

    Only for folders of the user: links may lead anywhere.
    """
    walk = _Walk(folder)
    walk.run()
    files = sorted(walk.files, key=lambda path: path.relative_to(folder))
    paths = [*files, *sorted(walk.zips)]
    names, choice = readable_paths([path.relative_to(folder).as_posix() for path in paths])
    found = [Recording(path, name) for path, name in zip(paths, names, strict=True)]
    others = sorted(walk.left_out, key=lambda file: file.name)
    notes = [] if choice is None else [f"file names that are not UTF-8 were read as {choice.page.title}"]
    return DatasetFiles(found[: len(files)], others, found[len(files) :], notes)


class _Walk:
    """All files below a folder. Linked folders come last, so that a folder has its own name rather than a link's."""

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.left_out: list[LeftOut] = []
        self.zips: list[Path] = []
        self._root = folder
        self._folders = [folder]
        self._links: list[Path] = []
        self._entered: set[Path] = set()

    def run(self) -> None:
        while self._folders or self._links:
            if self._folders:
                self._enter(self._folders.pop())
            else:
                self._follow(self._links.pop(0))

    def _leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append(LeftOut(_name_in(self._root, path), reason))

    def _enter(self, folder: Path) -> None:
        target = folder.resolve()
        if target in self._entered:
            self._leave_out(folder, "a folder that is read already")
            return
        self._entered.add(target)
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            self._leave_out(folder, _cannot_open(error))
            return
        for path in paths:
            self._add(path)

    def _add(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            is_circle = error.errno == errno.ELOOP
            is_dangling = path.is_symlink() and error.errno in {errno.ENOENT, errno.ENOTDIR}
            reason = "a link to nothing" if is_dangling else _cannot_open(error)
            self._leave_out(path, "a link to itself" if is_circle else reason)
            return
        is_folder, name = stat.S_ISDIR(mode), _name_in(self._root, path)
        if known := left_out(f"{name}/" if is_folder else name):
            self.left_out.append(known)
            if known.code == ZIP and stat.S_ISREG(mode):
                self.zips.append(path)
        elif is_folder:
            (self._links if path.is_symlink() else self._folders).append(path)
        elif not stat.S_ISREG(mode):
            self._leave_out(path, "neither a file nor a folder")
        elif not os.access(path, os.R_OK):
            self._leave_out(path, "this user may not read it")
        else:
            self.files.append(path)

    def _follow(self, link: Path) -> None:
        target = link.resolve()
        around = {
            folder for inner in (link.parent.resolve(), self._root.resolve()) for folder in (inner, *inner.parents)
        }
        if target in around:
            self._leave_out(link, "a link to a folder around it")
        else:
            self._enter(link)


def _cannot_open(error: OSError) -> str:
    return f"it cannot be opened: {error.strerror}"


def _name_in(folder: Path, path: Path) -> str:
    return _printable(path.relative_to(folder).as_posix())


def _from_manifest(manifest: Path) -> DatasetFiles:
    try:
        content = _Manifest.model_validate_json(manifest.read_bytes())
    except (ValidationError, OSError) as error:
        raise InvalidDataset(
            f"{manifest} is not a list of recordings in the server's format; delete or correct it"
        ) from error
    recordings = [
        Recording(_inside(manifest.parent, row.path), _printable(row.name), merged(row.without))
        for row in content.files
    ]
    return DatasetFiles(recordings, [LeftOut(_printable(row.name), row.reason, row.code) for row in content.left_out])


def _inside(folder: Path, name: str) -> Path:
    """The path of a file in the folder, links resolved. Raises InvalidDataset when it lies elsewhere."""
    try:
        path = (folder / name).resolve()
        is_inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name too long, a null character, a loop of links
        is_inside = False
    if not is_inside:
        raise InvalidDataset(f"{folder / MANIFEST} names {name!r}, which is not a file inside the dataset's folder")
    return path


def _printable(name: str) -> str:
    """Make a name valid UTF-8 without control characters, for logs and terminals (file systems allow both)."""
    valid = name.encode(errors="replace").decode()
    return "".join("?" if unicodedata.category(character) == "Cc" else character for character in valid)
