"""Files that are kept: in the data folder alone, or in the store behind it as well."""

import shutil
from pathlib import Path

from server.blobs.dispositions import content_disposition
from server.blobs.interface import BlobStore
from server.blobs.reading import BlobFile
from server.storage.tier import Tier


class KeptFiles:
    """Files of a data folder, with or without a store behind it."""

    def __init__(self, root: Path, blobs: BlobStore | None = None) -> None:
        """`root` is created when first needed. `blobs`: the store behind it; None: the folder has all files."""
        self.root = root.resolve()
        self.tier = None if blobs is None else Tier(self.root, blobs)

    def resolve(self, path: str) -> Path:
        """The file of a `StoredFile.path`. Raises ValueError for a path outside of the storage."""
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise ValueError(f"{path!r} is outside of the storage")
        return found

    def keep(self, source: Path, place: Path | None = None, sha256: str | None = None, name: str | None = None) -> None:
        """Have a complete file, or those of a folder, in the store too, as those of `place` (None: where they are).

        `name`: of the file for its users. StorageAway, OSError.
        """
        if self.tier is not None:
            self.tier.keep(source, place or source, sha256, name)

    def keep_copy(self, of: Path, place: Path) -> None:
        """As `keep`, where `place` has the same files as `of`, which are kept already. StorageAway, OSError."""
        if self.tier is not None:
            self.tier.keep_copy(of, place)

    def keep_only(self, folder: Path) -> None:
        """Delete from the store what a folder has no longer."""
        if self.tier is not None:
            self.tier.forget_but(folder, {path.name for path in folder.iterdir()})

    def fetch(self, path: Path) -> Path:
        """A file, to be read here; one that is nowhere stays missing. StorageAway, OSError."""
        if self.tier is not None:
            self.tier.fetch(path)
        return path

    def fetch_folder(self, folder: Path) -> Path:
        """A folder of files that are kept together, to be read here. StorageAway, OSError."""
        if self.tier is not None:
            self.tier.fetch_folder(folder)
        return folder

    def readable(self, path: str) -> Path | BlobFile:
        """The file of a `StoredFile.path` for a response, which needs no copy here. StorageAway."""
        found = self.resolve(path)
        if self.tier is not None and not found.exists():
            blob = self.tier.blobs.find(self.tier.key_of(found))
            return found if blob is None else BlobFile(self.tier.blobs, blob)
        return found

    def signed_url(self, path: str, name: str, seconds: int) -> str | None:
        """An address that gives a file of this name without a token; None where the store has none. StorageAway.

        It is for files that were kept with their name: browsers would save others under their sha256.
        """
        if self.tier is None:
            return None
        key = self.tier.key_of(self.resolve(path))
        blob = self.tier.blobs.find(key)
        is_named = blob is not None and blob.disposition == content_disposition(name)
        return self.tier.blobs.url(key, seconds) if is_named else None

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._forget(folder)

    def _forget(self, path: Path) -> None:
        if self.tier is not None:
            self.tier.forget(path)
