"""A blob as a file that is read in parts, as responses do."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from server.blobs.interface import Blob, BlobStore, DamagedBlob


@dataclass(frozen=True)
class BlobFile:
    """A blob with the methods of a `Path` that responses use."""

    blobs: BlobStore
    blob: Blob

    def is_file(self) -> bool:
        """True: it was found."""
        return True

    def stat(self) -> os.stat_result:
        """Size and time of change."""
        changed = int(self.blob.modified_at.timestamp())
        return os.stat_result((0o100600, 0, 0, 1, 0, 0, self.blob.size, changed, changed, changed))

    def open(self, _mode: Literal["rb"], /) -> BinaryIO:
        """Open it. Nothing is asked of the store before the first `read`."""
        return cast("BinaryIO", _Reader(self.blobs, self.blob))


class _Reader(io.RawIOBase):
    """Reads a blob from a position on. From the start, its last bytes are given only if all are intact."""

    def __init__(self, blobs: BlobStore, blob: Blob) -> None:
        self._blobs, self._blob = blobs, blob
        self.seek(0)

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET  # noqa: S101 - no response needs another
        self._position, self._rest = position, b""
        self._digest = hashlib.sha256() if position == 0 else None
        self._chunks: Iterator[bytes] = self._blobs.open(self._blob.key, position, self._blob.size)
        return position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (-1: as many as are there at once); none at the end. FileNotFoundError, DamagedBlob."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
            self._position += len(self._rest)
            self._check()
        end = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:end], self._rest[end:]
        return data

    def _check(self) -> None:
        if self._digest is not None:
            self._digest.update(self._rest)
            if self._position == self._blob.size and self._digest.hexdigest() != self._blob.sha256:
                raise DamagedBlob(f"{self._blobs.address}/{self._blob.key} is damaged")
