"""Files of a lease: those that a worker may read, and those that it sends.

Sent files are named by their sha256, so that no worker chooses a path. They are received into the folder of the
attempt, and stay there until they are recorded:

    attempts/<token>/incoming/.<sha256>.tmp    as far as received
    attempts/<token>/incoming/<sha256>         complete, and checked
"""

import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from rvc_engine.environment.files import replace, sync_file, sync_folder
from rvc_engine.workspace.checksum import sha256_of
from rvc_train.schemas.work.workers import WorkFile
from server.errors import ChecksumMismatch, Conflict, LeaseLost, NotFound
from server.storage.local import INCOMING

MAX_FILE_BYTES = 64 * 2**30
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_MAX_HASHES = 100_000


class FileHashes:
    """The sha256 of files that do not change, remembered by their size and time of change. Callable in any thread."""

    def __init__(self, sha256: Callable[[Path], str] = sha256_of) -> None:
        self._sha256 = sha256
        self._known: OrderedDict[tuple[str, int, int], str] = OrderedDict()
        self._lock = threading.Lock()

    def describe(self, path: Path, name: str) -> WorkFile:
        """Name, size and sha256 of a file. OSError."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found = self._sha256(path)
            with self._lock:
                self._known[key] = found
                if len(self._known) > _MAX_HASHES:
                    self._known.popitem(last=False)
        return WorkFile(name=name, size_bytes=status.st_size, sha256=found)


def plain_file(folder: Path, name: str) -> Path:
    """A regular file directly in a folder, not a link out of it. NotFound."""
    path = folder / name
    is_name = name not in {"", ".", ".."} and not re.search(r"[/\\\x00]", name) and len(name.encode()) <= 255
    if not is_name or path.is_symlink() or not path.is_file():
        raise NotFound("there is no such file of this lease; ask for the list of its files again")
    return path


class IncomingFiles:
    """Files that are sent under one lease."""

    def __init__(self, attempt_folder: Path) -> None:
        self._folder = attempt_folder / INCOMING

    def complete(self, sha256: str) -> Path:
        """Path of a complete file. Conflict when it is not."""
        path = self._path(sha256)
        if not path.is_file():
            raise Conflict(f"the file {sha256} was not sent completely; send it and try again")
        return path

    def is_complete(self, sha256: str) -> bool:
        """Whether a file is complete."""
        return self._path(sha256).is_file()

    def received(self, sha256: str) -> int:
        """Bytes received of a file."""
        for path in (self._path(sha256), self.partial(sha256)):
            if path.is_file():
                return path.stat().st_size
        return 0

    def partial(self, sha256: str) -> Path:
        """Path of a file that is being received."""
        return self._folder / f".{self._path(sha256).name}.tmp"

    def begin(self) -> None:
        """Create the folder. LeaseLost when the attempt's is gone, because the job was deleted."""
        try:
            self._folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise LeaseLost("the job was deleted, and the files of its attempts with it") from error

    def finish(self, sha256: str) -> None:
        """Check a file that was received to its end. ChecksumMismatch for another content, which is deleted."""
        partial = self.partial(sha256)
        if sha256_of(partial) != sha256:
            partial.unlink()
            raise ChecksumMismatch(f"the file that was sent does not have the sha256 {sha256}; send it again")
        sync_file(partial)
        replace(partial, self._path(sha256))
        sync_folder(self._folder)

    def delete(self) -> None:
        """Delete all of them, once they were recorded."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.match(sha256):
            raise NotFound("files are named by their sha256, in hexadecimal")
        return self._folder / sha256
