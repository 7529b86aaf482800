"""Blobs in object storage (S3, Google Cloud Storage, Azure) by `obstore`, which the extra `storage` installs.

Large files are sent in parts, and read in ranges, each repeated by itself: memory is bounded, and no request takes
long. Endpoint, region and credentials come from the usual environment variables of the kind of storage.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog

from server.blobs.interface import Blob, BlobStore, DamagedBlob
from server.errors import SettingsRefused, StorageAway
from server.transient_errors import first_line

if TYPE_CHECKING:
    from obstore.store import ObjectStore

logger = structlog.get_logger(__name__)

_CHUNK = 8 << 20
_NUM_AT_ONCE = 4
_SUM = "sha256"
_DISPOSITION = "Content-Disposition"
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")


class ObjectBlobs(BlobStore):
    """Blobs below a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises SettingsRefused for an address or an environment that cannot be used."""
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            from rvc_engine.installation import install_command

            raise SettingsRefused(
                "RVC_TRAIN_STORAGE_URL names object storage, for which a package is missing; install it with: "
                f"{install_command('storage')}"
            ) from error
        self._obstore, self.address = obstore, url.rstrip("/")
        is_plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        options: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=120)}
        try:
            self._store: ObjectStore = from_url(
                self.address,
                client_options=cast("Any", options | ({"allow_http": True} if is_plain else {})),
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
            )
        except Exception as error:
            raise SettingsRefused(f"RVC_TRAIN_STORAGE_URL cannot be used: {first_line(error)}") from error

    def put(self, key: str, source: Path, sha256: str, disposition: str | None = None) -> None:
        if not source.is_file():
            raise FileNotFoundError(f"{source} was deleted")
        attributes = {_SUM: sha256} | ({} if disposition is None else {_DISPOSITION: disposition})
        try:
            with self._answers(key):
                self._obstore.put(
                    self._store, key, source, attributes=attributes, chunk_size=_CHUNK, max_concurrency=_NUM_AT_ONCE
                )
        except FileNotFoundError as error:  # not of the source, which is there
            raise StorageAway(f"{self.address} takes no files: {first_line(error.__cause__ or error)}") from error

    def find(self, key: str) -> Blob | None:
        try:
            with self._answers(key):
                found = self._obstore.get(self._store, key, options={"head": True})
                size, changed_at, attributes = found.meta["size"], found.meta["last_modified"], found.attributes
                return Blob(key, size, changed_at, attributes.get(_SUM), attributes.get(_DISPOSITION))
        except FileNotFoundError:
            return None

    def open(self, key: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            with self._answers(key):
                chunk = bytes(self._obstore.get_range(self._store, key, start=start, end=min(start + _CHUNK, end)))
            if not chunk:
                return
            start += len(chunk)
            yield chunk

    def copy(self, source: str, target: str) -> None:
        with self._answers(source):
            self._obstore.copy(self._store, source, target)

    def delete(self, prefix: str) -> None:
        keys = [blob.key for blob in self.list(prefix)]
        if keys:
            with self._answers(prefix):
                self._obstore.delete(self._store, keys)
        try:
            with self._answers(prefix):
                self._obstore.delete(self._store, prefix)
        except FileNotFoundError:
            pass

    def list(self, prefix: str) -> Iterator[Blob]:
        with self._answers(prefix):
            pages = self._obstore.list(self._store, prefix.rstrip("/") or None)
            for page in pages:
                for each in page:
                    yield Blob(each["path"], each["size"], each["last_modified"])

    def names(self, prefix: str) -> set[str]:
        with self._answers(prefix):
            found = self._obstore.list_with_delimiter(self._store, prefix.rstrip("/") or None)
            return {path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]}

    def url(self, key: str, seconds: int) -> str | None:
        try:
            with self._answers(key):
                address: str = self._obstore.sign(cast("Any", self._store), "GET", key, timedelta(seconds=seconds))
        except OSError as error:  # of credentials that sign nothing, as of some machines of clouds
            logger.warning("no signed address can be made, and the server sends the file", reason=str(error))
            return None
        return address

    def fetch(self, key: str, target: Path) -> None:
        found = self.find(key)
        if found is None:
            raise FileNotFoundError(f"{self.address} has no {key}")
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for chunk in self.open(key, 0, found.size):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != found.sha256:
            raise DamagedBlob(f"{self.address}/{key} is damaged: it has not the sha256 {found.sha256} of its record")

    @contextmanager
    def _answers(self, key: str) -> Iterator[None]:
        """Translate errors of the storage to FileNotFoundError and StorageAway."""
        from obstore.exceptions import BaseError, NotFoundError

        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(f"{self.address} has no {key}") from error
        except (BaseError, OSError) as error:
            raise StorageAway(f"the object storage {self.address} does not answer: {first_line(error)}") from error
