"""Interface of a store of files (blobs) by keys, which are paths relative to the data folder, with forward slashes.

A blob appears whole or not at all, with the sha256 that it was put with; `fetch` checks it. Every method raises
StorageAway while the store does not answer, and refuses nothing that it may repeat.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


class DamagedBlob(OSError):
    """A blob has not the sha256 that it was put with."""


@dataclass(frozen=True)
class Blob:
    """A blob as it is listed or found."""

    key: str
    size: int
    modified_at: datetime
    sha256: str | None = None
    """Checksum that it was put with; None in a list, which has none."""
    disposition: str | None = None
    """The `Content-Disposition` that it was put with."""


class BlobStore(ABC):
    """A store of blobs."""

    address: str
    """Its URL, without credentials."""

    @abstractmethod
    def put(self, key: str, source: Path, sha256: str, disposition: str | None = None) -> None:
        """Store a file of this sha256, replacing a blob of the key. `disposition`: the `Content-Disposition` with
        which `url` is answered. OSError.
        """

    @abstractmethod
    def find(self, key: str) -> Blob | None:
        """A blob with its sha256."""

    @abstractmethod
    def open(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Chunks of the bytes from `start` up to but not including `end`. FileNotFoundError."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy a blob within the store. FileNotFoundError."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Delete the blob of this key, and all below it as a folder."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Blob]:
        """The blobs below a prefix as a folder; all for an empty one."""

    @abstractmethod
    def names(self, prefix: str) -> set[str]:
        """Names of the folders directly below a prefix."""

    @abstractmethod
    def url(self, key: str, seconds: int) -> str | None:
        """An address that gives the blob without credentials for some seconds; None where the store has none."""

    @abstractmethod
    def fetch(self, key: str, target: Path) -> None:
        """Write a blob to a file, which its folder has room for. FileNotFoundError, DamagedBlob, OSError."""
