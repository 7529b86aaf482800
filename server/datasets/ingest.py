"""Ingestion of an untrusted upload into a folder of recordings with generated names.

No file is extracted under its own name: members become `000001.wav` and so on, and their names go into
`recordings.json`. Links, and files that are no recordings by `file_rules`, are left out, with a note and, all of them,
in the report. Links are never followed. What zips are rejected: `zips.py`.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, TypeAdapter

from rvc_engine.audio.file_rules import ZIP, LeftOut, left_out, left_out_text
from rvc_engine.audio.parts import MAX_PARTS_BYTES, PARTS_FILE, Part, Parts, merged, parse_all_parts
from rvc_engine.audio.recordings import MANIFEST, list_dataset
from rvc_engine.environment.files import rename
from rvc_engine.environment.text_files import decoded
from rvc_engine.errors import InvalidDataset
from rvc_engine.names.code_pages import AUTO
from rvc_engine.workspace.atomic_files import write_atomically
from server.blobs.copies import link_or_copy
from server.datasets.zips import Member, UnpackLimits, ZipContent, ZipReader
from server.errors import UploadRefused, UploadTooLarge

CHOSEN = "chosen"
"""Code of the reason of files that their owner leaves out."""
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
OTHER_ARCHIVE_MAGICS = (
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
)


FETCHED = "files.json"
"""List of the files in a folder of downloads."""


class FetchedFile(BaseModel):
    """A file that is downloaded, in a folder of such ones."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    """Its own name there."""
    url: str
    name: str = ""
    """Name of the recording or zip, with "/" between folders; of one that is not complete perhaps empty."""
    size: int | None = None
    is_of_hub: bool = False
    sha256: str | None = None
    """None: not complete yet."""


_FETCHED_LIST = TypeAdapter(list[FetchedFile])


@dataclass(frozen=True)
class Omission:
    """Recordings, and parts of others, that a derived dataset leaves out of the one that it is made from."""

    names: frozenset[str] = frozenset()
    """Names of recordings."""
    parts: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)
    """Parts of others, by the recording's number from 1."""

    @classmethod
    def from_json(cls, stored: Iterable[str | list[float]]) -> "Omission":
        """Read the column of a dataset: names, and [number, start, end] for each part."""
        names, parts = set[str](), dict[int, list[Part]]()
        for each in stored:
            if isinstance(each, str):
                names.add(each)
            else:
                parts.setdefault(int(each[0]), []).append(Part(each[1], each[2]))
        return cls(frozenset(names), {number: merged(found) for number, found in parts.items()})

    def to_json(self) -> list[str | list[float]]:
        """The same in a form that does not depend on the order of a request."""
        parts = [[number, *part] for number, found in sorted(self.parts.items()) for part in found]
        return [*sorted(self.names), *parts]

    def sha256(self, of_origin: str) -> str:
        """The digest that stands for the hash of the bytes of a derived dataset."""
        return hashlib.sha256(json.dumps([of_origin, self.to_json()]).encode()).hexdigest()


@dataclass(frozen=True)
class IngestResult:
    """Content of an upload."""

    num_files: int
    stored_bytes: int
    """Bytes of the recordings and their manifest."""
    notes: list[str] = field(default_factory=list)
    """Sentences on the files that were left out."""


def unpacked_bytes(upload: Path, limits: UnpackLimits, zip_names: str = AUTO) -> int:
    """Check an upload as far as that is possible without unpacking it; returns the bytes of its recordings.

    Raises UploadRefused, UploadTooLarge or NoSpace.
    """
    if not _is_zip(upload):
        return _checked_size(upload, limits)
    with _checked_zip(upload, limits, zip_names) as content:
        return content.num_bytes


def ingest(
    upload: Path,
    name: str,
    folder: Path,
    limits: UnpackLimits,
    check: Callable[[], None] = lambda: None,
    zip_names: str = AUTO,
) -> IngestResult:
    """Ingest the recordings of an upload into `folder`, with their manifest. The upload is not changed.

    A single recording is a hard link where possible. `check` is called for each megabyte of an archive, and may raise.
    `zip_names`: code page of the names in zips. Raises UploadRefused, UploadTooLarge or NoSpace.
    """
    content, parts = ZipContent(), dict[str, Parts]()
    if _is_zip(upload):
        with _checked_zip(upload, limits, zip_names) as content:
            folder.mkdir(parents=True)
            stored = _unpack(content.members, folder, check)
            parts = _parts_in(content, stored)
    else:
        _checked_size(upload, limits)
        stored = [(f"000001{_plain_suffix(name) or _suffix_of(upload)}", name)]
        folder.mkdir(parents=True)
        link_or_copy(upload, folder / stored[0][0])
    others = content.left_out
    _write_manifest(folder, stored, others, parts)
    notes = [f"left out: {left_out_text(others)}; the report names all"] if others else []
    notes = [*content.notes, *notes]
    return IngestResult(len(stored), sum(path.stat().st_size for path in folder.iterdir()), notes)


def ingest_fetched(
    fetched: Path,
    folder: Path,
    limits: UnpackLimits,
    check: Callable[[], None] = lambda: None,
    zip_names: str = AUTO,
) -> IngestResult:
    """Ingest the downloaded files of a folder as one dataset. Of several, each zip has a folder with its name.

    `check`, `zip_names` and errors: as for `ingest`.
    """
    files, stored, others, notes = read_fetched(fetched), list[tuple[str, str]](), list[LeftOut](), list[str]()
    parts: dict[str, Parts] = {}
    folder.mkdir(parents=True)
    for number, file in enumerate(files, 1):
        rule = left_out(file.name)
        if len(files) > 1 and rule is not None and rule.code != ZIP:
            others.append(rule)
            continue
        part = folder.with_name(f"{folder.name}-{number}")
        left = limits.less(len(stored), sum(path.stat().st_size for path in folder.iterdir()))
        result = ingest(fetched / file.path, file.name, part, left, check, zip_names)
        made = list_dataset(part)
        inside = (
            f"{PurePosixPath(file.name).with_suffix('')}/" if len(files) > 1 and _is_zip(fetched / file.path) else ""
        )
        for recording in made.recordings:
            path = f"{len(stored) + 1:06d}{recording.path.suffix}"
            rename(recording.path, folder / path)
            stored.append((path, inside + recording.name))
            parts[path] = recording.without
        others += [replace(other, name=inside + other.name) for other in made.left_out]
        notes += [f"{inside}: {note}" if inside else note for note in result.notes]
        shutil.rmtree(part)
    if not stored:
        raise UploadRefused(f"none of the files is a recording or a zip. Left out: {left_out_text(others)}")
    _write_manifest(folder, stored, others, parts)
    return IngestResult(len(stored), sum(path.stat().st_size for path in folder.iterdir()), notes)


def write_fetched(folder: Path, files: Sequence[FetchedFile]) -> None:
    """Keep the list of the downloaded files of a folder."""
    write_atomically(folder / FETCHED, _FETCHED_LIST.dump_json(list(files)))


def read_fetched(folder: Path) -> list[FetchedFile]:
    """The downloaded files of a folder. Raises FileNotFoundError without their list."""
    return _FETCHED_LIST.validate_json((folder / FETCHED).read_bytes())


def derive(source: Path, omission: Omission, folder: Path, check: Callable[[], None] = lambda: None) -> IngestResult:
    """Link the recordings of another dataset into `folder`, but those that are left out, with their manifest.

    Parts are left out in the manifest alone.
    `check` is called for each recording, and may raise. Raises FileNotFoundError or InvalidDataset for a dataset that
    is deleted meanwhile.
    """
    files = list_dataset(source)
    folder.mkdir(parents=True)
    stored, left_out, parts = [], files.left_out, dict[str, Parts]()
    for number, recording in enumerate(files.recordings, 1):
        check()
        if recording.name in omission.names:
            left_out.append(LeftOut(recording.name, "left out by choice", CHOSEN))
        else:
            link_or_copy(recording.path, folder / recording.path.name)
            stored.append((recording.path.name, recording.name))
            parts[recording.path.name] = merged([*recording.without, *omission.parts.get(number, ())])
    _write_manifest(folder, stored, left_out, parts)
    return IngestResult(len(stored), sum(path.stat().st_size for path in folder.iterdir()))


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


def _plain_suffix(name: str) -> str:
    """The suffix of an owner's name where it is a plain one, such as ".flac"; else empty."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""


def _suffix_of(upload: Path) -> str:
    """Suffix guessed from the first bytes, for readers only: decoders do not use it."""
    head = _head(upload)
    by_magic = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"FORM": ".aiff", b"caff": ".caf"}
    for magic, suffix in by_magic.items():
        if head.startswith(magic):
            return suffix
    return ".m4a" if head[4:8] == b"ftyp" else ".audio"


@contextmanager
def _checked_zip(upload: Path, limits: UnpackLimits, zip_names: str) -> Iterator[ZipContent]:
    """The content of a zip with at least one recording. Raises UploadRefused, UploadTooLarge or NoSpace."""
    with ZipReader(upload, limits, zip_names) as reader:
        content = reader.read()
        if not content.members:
            raise UploadRefused(_nothing_found(content))
        yield content


def _nothing_found(content: ZipContent) -> str:
    if not content.num_entries:
        return "the zip is empty; add recordings of one voice"
    left = f". Left out: {left_out_text(content.left_out)}" if content.left_out else ""
    return (
        f"the zip has no recording among its {content.num_entries} entries; add recordings of one voice (wav, flac, "
        f"mp3, ogg, opus, m4a, ...){left}"
    )


def _unpack(members: list[Member], folder: Path, check: Callable[[], None]) -> list[tuple[str, str]]:
    """Write the members under generated names; these, with their own."""
    stored = []
    for number, member in enumerate(members, 1):
        path = folder / f"{number:06d}{_plain_suffix(member.name)}"
        with path.open("xb") as target:
            member.unpack(target, check)
        stored.append((path.name, member.name))
    return stored


def _parts_in(content: ZipContent, stored: list[tuple[str, str]]) -> dict[str, Parts]:
    """The parts that lists in a zip leave out, by the path of their recording. Raises UploadRefused."""
    if sum(member.info.file_size for member in content.parts_files) > MAX_PARTS_BYTES:
        raise UploadRefused(f"{PARTS_FILE} in the zip is larger than {MAX_PARTS_BYTES >> 20} MB")
    texts: dict[str, str] = {}
    for member in content.parts_files:
        text = io.BytesIO()
        member.unpack(text)
        texts[member.name.rpartition("/")[0]] = decoded(text.getvalue())
    try:
        by_name = parse_all_parts(texts, [name for _, name in stored])
    except InvalidDataset as error:
        raise UploadRefused(f"{error}; correct or delete it in the zip") from error
    return {path: by_name[name] for path, name in stored if name in by_name}


def _write_manifest(
    folder: Path, stored: list[tuple[str, str]], others: list[LeftOut], parts: Mapping[str, Parts] = {}
) -> None:
    """Write the list of recordings. `parts`: those that are left out, by the path of their recording."""
    rows = [
        {"path": path, "name": name, **({"without": left_out_parts} if (left_out_parts := parts.get(path)) else {})}
        for path, name in stored
    ]
    text = json.dumps({"files": rows, "left_out": [asdict(other) for other in others]}, ensure_ascii=False)
    (folder / MANIFEST).write_bytes(text.encode(errors="replace"))
