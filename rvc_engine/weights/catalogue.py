"""Catalogue of published weight files, and the state of their copies on this machine. No torch.

A file lies at `<weights folder>/<id>/<file name>`. The sha256 of every new copy is computed once and cached with size
and modification time, so that a start does not read gigabytes. Downloads: `rvc_engine.weights.download`.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rvc_engine.config import SampleRate, Version
from rvc_engine.environment.files import replace, sync_folder
from rvc_engine.environment.shells import shell_words
from rvc_engine.errors import InvalidConfig, MissingWeights
from rvc_engine.machine import default_weights_folder
from rvc_engine.weights.assets import PUBLISHED_WEIGHTS
from rvc_engine.workspace.atomic_files import link_or_copy, write_atomically
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.disk import translating_disk_full

FileState = Literal["verified", "unverified", "damaged", "missing"]
"""verified: present with the right sha256. unverified: present with the right size, sha256 not yet computed."""

HUBERT = "hubert"
ENCODER_IDS: Mapping[str, str] = MappingProxyType(
    {"contentvec": HUBERT, "spin": "embedder-spin", "spin-v2": "embedder-spin-v2"}
)
"""Id of the published files of each content encoder, by its name in the configuration."""
_CHECKSUM_FILE = ".verified.json"


class Wheel(BaseModel):
    """Wheel of a Python package that contains weight files."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Path on the host of PyPI's files."""
    size: int
    """Bytes."""
    sha256: str


class Equivalent(BaseModel):
    """Another publication of the same content, such as in other number formats."""

    model_config = ConfigDict(frozen=True)

    size: int
    """Bytes."""
    sha256: str


class PublishedFile(BaseModel):
    """Published weight file."""

    model_config = ConfigDict(frozen=True)

    id: str
    """Name of a group of files: `hubert`, `pretrained-v2-40k`, ..."""
    repo: str
    """Repository on the hub, or name and version of the Python package that contains the file."""
    path: str
    """Path in the repository or in the wheel."""
    revision: str | None = None
    wheel: Wheel | None = None
    """None: the file is on a hub."""
    size: int
    """Bytes."""
    sha256: str
    equivalents: tuple[Equivalent, ...] = ()
    """Files that serve as well, as other programs have them; this one is downloaded."""

    @property
    def sizes(self) -> frozenset[int]:
        """Sizes of the file and of its equivalents."""
        return frozenset({self.size, *(each.size for each in self.equivalents)})

    @property
    def checksums(self) -> frozenset[str]:
        """The sha256 of the file and of its equivalents."""
        return frozenset({self.sha256, *(each.sha256 for each in self.equivalents)})

    @property
    def name(self) -> str:
        """File name in the folder of its id."""
        return self.path.rpartition("/")[2]

    @property
    def key(self) -> str:
        """`<id>/<name>`."""
        return f"{self.id}/{self.name}"

    @property
    def download_size(self) -> int:
        """Bytes to download for it."""
        return self.wheel.size if self.wheel is not None else self.size


class _Catalogue(BaseModel):
    files: tuple[PublishedFile, ...]


@functools.cache
def published_files() -> tuple[PublishedFile, ...]:
    """All published files."""
    return _Catalogue.model_validate_json(PUBLISHED_WEIGHTS.read_bytes()).files


class _Verified(BaseModel):
    """Checksum of a copy, valid while size and modification time are unchanged."""

    size: int
    mtime_ns: int
    sha256: str


class _ChecksumCache(BaseModel):
    files: dict[str, _Verified] = {}


@dataclass(frozen=True)
class Weights:
    """Folder of published weights."""

    folder: Path
    catalogue: tuple[PublishedFile, ...] | None = None
    """None: all published files."""

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files of the catalogue."""
        return published_files() if self.catalogue is None else self.catalogue

    def files_of(self, name: str) -> list[PublishedFile]:
        """Files of an id, or the one file of `<id>/<name>`. Raises InvalidConfig for an unknown name."""
        found = [file for file in self.files if name in {file.id, file.key}]
        if not found:
            known = ", ".join(dict.fromkeys(file.id for file in self.files))
            raise InvalidConfig(f"there are no published weights named {name!r}; known are {known}")
        return found

    def path_of(self, file: PublishedFile) -> Path:
        """Path of the file in this folder, present or not."""
        return self.folder / file.id / file.name

    def state(self, file: PublishedFile) -> FileState:
        """State of the file, without reading it."""
        found = _stat(self.path_of(file))
        if found is None:
            return "missing"
        if found.st_size not in file.sizes:
            return "damaged"
        recorded = self._checksums().files.get(file.key)
        if recorded is None or (recorded.size, recorded.mtime_ns) != (found.st_size, found.st_mtime_ns):
            return "unverified"
        return "verified" if recorded.sha256 in file.checksums else "damaged"

    def verify(self, file: PublishedFile, again: bool = False) -> FileState:
        """State of the file, after computing the sha256 of an unverified copy, or with `again` of any copy."""
        state = self.state(file)
        path = self.path_of(file)
        found = _stat(path)
        if found is None or found.st_size not in file.sizes or (state != "unverified" and not again):
            return state
        digest = sha256_of(path)
        self.record_checksum(file, digest, found)
        return "verified" if digest in file.checksums else "damaged"

    def checksum_of(self, file: PublishedFile) -> str:
        """The sha256 of the present copy: the file's, or that of an equivalent. Raises MissingWeights."""
        self.require([file], file.id)
        recorded = self._checksums().files.get(file.key)
        return sha256_of(self.path_of(file)) if recorded is None else recorded.sha256

    def record_checksum(self, file: PublishedFile, digest: str, found: os.stat_result) -> None:
        """Cache the sha256 of a copy. Two programs at once may lose an entry, whose file is then hashed again."""
        cache = self._checksums()
        cache.files[file.key] = _Verified(size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=digest)
        write_atomically(self.folder / _CHECKSUM_FILE, cache.model_dump_json(indent=1).encode())

    def _checksums(self) -> _ChecksumCache:
        try:
            return _ChecksumCache.model_validate_json((self.folder / _CHECKSUM_FILE).read_bytes())
        except (OSError, ValueError):
            return _ChecksumCache()

    def problems(self, files: Iterable[PublishedFile]) -> list[str]:
        """Reasons why these files cannot be used, as phrases; empty when all are present and intact."""
        names: dict[tuple[Path, FileState], list[str]] = {}
        for file in files:
            if (state := self.verify(file)) != "verified":
                names.setdefault((self.path_of(file).parent, state), []).append(file.name)
        return [f"{state} in {folder}: {', '.join(found)}" for (folder, state), found in names.items()]

    def folder_of(self, name: str) -> Path:
        """Folder of an id's files, verified. Raises MissingWeights, InvalidConfig for an unknown id."""
        files = self.files_of(name)
        self.require(files, name)
        return self.path_of(files[0]).parent

    def pretrained_files(self, version: Version, rate: SampleRate, f0: bool) -> list[PublishedFile]:
        """Published base weights for a kind of voice, generator first."""
        prefix = "f0" if f0 else ""
        folder = f"pretrained-{version}-{rate}"
        return [self.files_of(f"{folder}/{prefix}{letter}{rate}.pth")[0] for letter in "GD"]

    def require(self, files: Sequence[PublishedFile], name: str) -> None:
        """Raise MissingWeights, with instructions to get `name`, unless all files are present and intact."""
        if problems := self.problems(files):
            raise MissingWeights(f"{'; '.join(problems)}. {self.ways_to_get(name)}")

    def ways_to_get(self, name: str, otherwise: str | None = None) -> str:
        """Instructions to get the weights of an id, or an alternative; a sentence without its full stop."""
        here = "" if self.folder == default_weights_folder() else f" --weights {shell_words(str(self.folder))}"
        fetch, taken = f"rvc-engine weights fetch {name}{here}", f"rvc-engine weights import FOLDER{here}"
        if otherwise is None:
            return f"Download with `{fetch}`, or take them from an RVC or Applio installation with `{taken}`"
        return f"Download with `{fetch}`, take them from an RVC or Applio installation with `{taken}`, or {otherwise}"

    def import_from(
        self, source: Path, on_file: Callable[[PublishedFile, Path], None] = lambda _file, _path: None
    ) -> list[PublishedFile]:
        """Import all published files found at or anywhere under `source` that are not present yet; returns them.

        Files are recognised by size and sha256, whatever their names. They are hard-linked, or copied where links do
        not work. `on_file` is called for each. Raises InvalidConfig when there is no such file or folder, DiskFull.
        """
        if not source.exists():
            raise InvalidConfig(
                f"there is no folder or file {source}; give the folder of an RVC or Applio installation"
            )
        missing = {file.key: file for file in self.files if self.verify(file) != "verified"}
        imported = []
        for path in files_under(source):
            if not missing:
                break
            for file, digest in _matches(path, missing.values()):
                self._import_file(path, file, digest)
                on_file(file, path)
                imported.append(missing.pop(file.key))
        return imported

    def import_file(self, source: Path) -> list[PublishedFile]:
        """Import one file, and return the published files that it is; none if it is not published. Raises DiskFull."""
        found = _matches(source, self.files)
        for file, digest in found:
            if self.verify(file) != "verified":
                self._import_file(source, file, digest)
        return [file for file, _ in found]

    def _import_file(self, source: Path, file: PublishedFile, digest: str) -> None:
        target = self.path_of(file)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with translating_disk_full(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_or_copy(source, temporary)
                replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)
            self.record_checksum(file, digest, target.stat())


def _stat(path: Path) -> os.stat_result | None:
    """Status of a regular file; None where there is none."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None


def files_under(folder: Path) -> Iterator[Path]:
    """The file itself, or all files of a folder in a stable order.

    Links to files are followed (a hub's cache has them), links to folders are not.
    """
    if folder.is_file():
        yield folder
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _matches(path: Path, files: Iterable[PublishedFile]) -> list[tuple[PublishedFile, str]]:
    """Published files that the file at `path` is or is equivalent to, with its sha256."""
    found = _stat(path)
    same_size = [file for file in files if found is not None and found.st_size in file.sizes]
    if not same_size:
        return []
    try:
        digest = sha256_of(path)
    except OSError:  # not readable for this user
        return []
    return [(file, digest) for file in same_size if digest in file.checksums]
