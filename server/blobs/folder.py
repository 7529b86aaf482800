"""Blobs in a folder, such as one on a large disk. Beside each lies its sha256, in a file with that suffix."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as replace_fields
from datetime import UTC, datetime
from pathlib import Path

import uuid6

from rvc_engine.environment.files import replace, sync_folder
from rvc_engine.workspace.atomic_files import write_atomically
from server.blobs.copies import copy_and_hash
from server.blobs.interface import Blob, BlobStore, DamagedBlob
from server.errors import StorageAway

_SUFFIX = ".sha256"
_CHUNK = 1 << 20


class FolderBlobs(BlobStore):
    """Blobs in one folder, which exists already: a disk that is not mounted has none."""

    def __init__(self, root: Path) -> None:
        self._root, self.address = root, root.as_uri()

    def put(self, key: str, source: Path, sha256: str, disposition: str | None = None) -> None:
        """As in the interface. There is no `url`."""
        with self._present():
            target = self._root / key
            temporary = target.with_name(f".{uuid6.uuid7().hex}.tmp")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if copy_and_hash(source, temporary)[0] != sha256:
                    raise DamagedBlob(f"{source} has not the sha256 {sha256} any more")
                write_atomically(_sum_of(target), sha256.encode())
                replace(temporary, target)
                sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def find(self, key: str) -> Blob | None:
        with self._present():
            try:
                return replace_fields(self._blob(self._root / key), sha256=self._sum(key))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _blob(self, path: Path) -> Blob:
        status = path.stat()
        key = path.relative_to(self._root).as_posix()
        return Blob(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def _sum(self, key: str) -> str:
        return _sum_of(self._root / key).read_text(encoding="ascii")

    def open(self, key: str, start: int, end: int) -> Iterator[bytes]:
        with self._present(), (self._root / key).open("rb") as file:
            file.seek(start)
            while start < end and (chunk := file.read(min(_CHUNK, end - start))):
                start += len(chunk)
                yield chunk

    def copy(self, source: str, target: str) -> None:
        with self._present():
            self.put(target, self._root / source, self._sum(source))

    def delete(self, prefix: str) -> None:
        with self._present():
            path = self._root / prefix
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            _sum_of(path).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # folders with more in them
                for folder in path.relative_to(self._root).parents:
                    if folder != Path():
                        (self._root / folder).rmdir()

    def list(self, prefix: str) -> Iterator[Blob]:
        with self._present():
            for path in (self._root / prefix).rglob("*"):
                if path.is_file() and path.suffix != _SUFFIX and not path.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        yield self._blob(path)

    def names(self, prefix: str) -> set[str]:
        folder = self._root / prefix
        with self._present():
            return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()

    def url(self, key: str, seconds: int) -> str | None:
        return None

    def fetch(self, key: str, target: Path) -> None:
        with self._present():
            expected = self._sum(key)
            if copy_and_hash(self._root / key, target)[0] != expected:
                raise DamagedBlob(f"{self._root / key} is damaged: it has not the sha256 {expected} of its record")

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Errors of the folder's disk as StorageAway: those of single blobs are left as they are."""
        if not self._root.is_dir():
            raise StorageAway(f"the folder {self._root} of RVC_TRAIN_STORAGE_URL is not there; mount its disk")
        yield


def _sum_of(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)
