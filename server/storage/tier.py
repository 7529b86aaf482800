"""The store behind a data folder (`RVC_TRAIN_STORAGE_URL`): what is kept lies in both, and the copy here may go.

A file is put there when it has its place here, before the row that names it. What is read comes back first, by `fetch`.
In the folder of a unit whose files are not here lies the file `.away`. A job's log is sent in segments as it grows:

    jobs/<job id>/log/<offset of its first byte>

Workspaces, stage results, uploads, downloads and conversions are not kept: they are work, or deleted within a day.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import structlog
import uuid6

from rvc_engine.environment.files import replace
from rvc_engine.workspace.checksum import sha256_of
from server.blobs.dispositions import content_disposition
from server.blobs.interface import BlobStore, DamagedBlob
from server.storage.instance_files import INSTANCE_FILE, InstanceMark, read_mark

logger = structlog.get_logger(__name__)

AWAY = ".away"
MOVING_FILE = "moving.json"
"""Blob of a store to which a move has begun and not ended, in place of `instance.json`."""
KEPT = ("datasets", "consents", "base-weights", "jobs")
"""Folders of the data folder with files that are kept."""
NUM_AT_ONCE = 4
_LOG = "job.log"
_SEGMENT = 32 << 20


_UNIT = re.compile(
    r"(datasets/[^/]+/recordings|(consents|base-weights)/[^/]+|jobs/[^/]+/(start|artifacts|checkpoints/[^/]+)"
    r"|jobs/[^/]+/attempts/[^/]+/(artifacts|checkpoints))/[^./][^/]*|(jobs/[^/]+/job\.log)"
)
"""A key of a file that is kept: the first group is the folder of the files that are kept together with it."""


def unit_of(key: str) -> str | None:
    """The folder of the files that are kept together with this one; None for a file that is not kept.

    A log is a unit of its own.
    """
    match = _UNIT.fullmatch(key)
    return None if match is None else match[1] or match[5]


def is_by_name(unit: str) -> bool:
    """Whether the files of a unit are asked for one by one, never as a folder."""
    return unit.startswith("consents/") or unit.endswith(("/artifacts", _LOG))


class Tier:
    """The store of one data folder."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self.root, self.blobs = root, blobs
        self._lock = threading.Lock()
        self._log_ends: dict[str, int] = {}
        """Bytes of the logs that were sent, by job."""

    def key_of(self, path: Path) -> str:
        """The key of a file or folder."""
        return path.relative_to(self.root).as_posix()

    def keep(self, source: Path, place: Path, sha256: str | None = None, name: str | None = None) -> None:
        """Put a file, or all files of a folder, as those of a place in the data folder. StorageAway, OSError.

        `name`: of the file for its users.
        """
        disposition = None if name is None else content_disposition(name)

        def put(path: Path) -> None:
            key = self.key_of(place if path == source else place / path.relative_to(source))
            if unit_of(key) is not None:
                self.blobs.put(key, path, sha256 or sha256_of(path), disposition)

        _for_each(put, _files_below(source))

    def keep_copy(self, of: Path, place: Path) -> None:
        """As `keep`, of a file or folder that is the same as another one, which the store has already."""

        def copy(path: Path) -> None:
            source = of if path == place else of / path.relative_to(place)
            try:
                self.blobs.copy(self.key_of(source), self.key_of(path))
            except FileNotFoundError:
                self.keep(path, path)

        _for_each(copy, _files_below(place))

    def fetch(self, path: Path) -> None:
        """Have a file here, and mark it as used; one that is nowhere or damaged stays missing. StorageAway, OSError."""
        if path.name == _LOG:
            self._fetch_log(path)
        else:
            self._fetch_file(path)
        _mark_as_used(path)

    def fetch_folder(self, folder: Path) -> None:
        """Have all files of a unit's folder here, and mark them as used. StorageAway, OSError."""
        if (folder / AWAY).exists():
            _for_each(self._fetch_file, (self.root / blob.key for blob in self.blobs.list(self.key_of(folder))))
            (folder / AWAY).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            _mark_as_used(next(folder.iterdir()))

    def _fetch_file(self, path: Path) -> None:
        if path.exists():
            return
        with self._temporary() as temporary:
            try:
                self.blobs.fetch(self.key_of(path), temporary)
            except FileNotFoundError:
                return
            except DamagedBlob as error:
                logger.error("a file in the store is damaged, and counts as missing", reason=str(error))
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(temporary, path)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self.root / "incoming" / uuid6.uuid7().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def has(self, path: Path, *, is_compared: bool = False) -> bool:
        """Whether the store has all of a file that is here, by its size or `is_compared` by its sha256. StorageAway."""
        if path.name == _LOG:
            return path.stat().st_size == max((end for _, end in self._segments(path.parent.name)), default=0)
        found = self.blobs.find(self.key_of(path))
        if found is None or found.size != path.stat().st_size:
            return False
        return not is_compared or found.sha256 == sha256_of(path)

    def send(self, path: Path) -> None:
        """Put a file that is here, or what a log has more. StorageAway, OSError."""
        if path.name == _LOG:
            self.send_log(path)
        else:
            self.keep(path, path)

    def forget(self, path: Path) -> None:
        """Delete a file or a folder from the store; while that is away, it is left to the search for orphans."""
        with _left_to_the_search(path):
            self.blobs.delete(self.key_of(path))

    def forget_but(self, folder: Path, names: Collection[str]) -> None:
        """As `forget`, of what else the store has of a folder than files of these names."""
        with _left_to_the_search(folder):
            for blob in list(self.blobs.list(self.key_of(folder))):
                if PurePosixPath(blob.key).name not in names:
                    self.blobs.delete(blob.key)

    def instance(self, key: str = INSTANCE_FILE) -> InstanceMark | None:
        """The installation that the store belongs to. SettingsRefused, StorageAway.

        `key`: `MOVING_FILE` for the one whose files are being moved there.
        """
        with self._temporary() as temporary:
            try:
                self.blobs.fetch(key, temporary)
            except FileNotFoundError:
                return None
            return read_mark(temporary)

    # Logs

    def send_log(self, log: Path) -> None:
        """Put what a log has more than its segments."""
        job_id = log.parent.name
        with self._lock:
            sent = self._log_ends.get(job_id)
            if sent is None:
                sent = max((end for _, end in self._segments(job_id)), default=0)
            try:
                with log.open("rb") as read, self._temporary() as segment:
                    read.seek(sent)
                    while data := read.read(_SEGMENT):
                        segment.write_bytes(data)
                        self.blobs.put(f"jobs/{job_id}/log/{sent:016d}", segment, sha256_of(segment))
                        sent += len(data)
            except FileNotFoundError:
                self._log_ends.pop(job_id, None)
                return
            self._log_ends[job_id] = sent

    def send_logs(self, running: Collection[str]) -> None:
        """Send the logs of the jobs that run, and of those that have ended since the last call."""
        for job_id in {*running, *self._log_ends}:
            self.send_log(self.root / "jobs" / job_id / _LOG)
            if job_id not in running:
                self._log_ends.pop(job_id, None)

    def _segments(self, job_id: str) -> list[tuple[int, int]]:
        """First and last offset of each segment of a log."""
        found = [(int(PurePosixPath(blob.key).name), blob.size) for blob in self.blobs.list(f"jobs/{job_id}/log")]
        return sorted((start, start + size) for start, size in found)

    def _fetch_log(self, log: Path) -> None:
        if log.exists():
            return
        with self._lock, self._temporary() as whole:
            try:
                self._write_log(log.parent.name, whole)
            except FileNotFoundError:
                return
            if not log.exists():
                log.parent.mkdir(parents=True, exist_ok=True)
                replace(whole, log)

    def _write_log(self, job_id: str, target: Path) -> None:
        segments = self._segments(job_id)
        if not segments:
            raise FileNotFoundError(f"{self.blobs.address} has no log of the job {job_id}")
        with self._temporary() as part, target.open("wb") as written:
            for start, _ in segments:
                self.blobs.fetch(f"jobs/{job_id}/log/{start:016d}", part)
                written.seek(start)
                written.write(part.read_bytes())

    # The whole

    def all_keys(self) -> Iterator[str]:
        """Keys of all files that are kept in the store; of a log, its name in the data folder."""
        logs = set()
        for kind in KEPT:
            for blob in self.blobs.list(kind):
                parts = PurePosixPath(blob.key).parts
                if kind == "jobs" and parts[2:3] == ("log",):
                    logs.add(f"jobs/{parts[1]}/{_LOG}")
                elif unit_of(blob.key) is not None:
                    yield blob.key
        yield from sorted(logs)

    def copy_out(self, key: str, target: Path) -> None:
        """Write the file of one of `all_keys`. FileNotFoundError, DamagedBlob, StorageAway, OSError."""
        if key.endswith(f"/{_LOG}"):
            self._write_log(key.split("/")[1], target)
        else:
            self.blobs.fetch(key, target)

    def kept_files(self) -> Iterator[Path]:
        """All files here that are kept."""
        for kind in KEPT:
            for path in _files_below(self.root / kind):
                if unit_of(self.key_of(path)) is not None:
                    yield path

    def send_missing(self) -> int:
        """Put what the store has not, or with another size; returns the number of files. StorageAway."""
        sizes = {blob.key: blob.size for kind in KEPT for blob in self.blobs.list(kind)}
        num_sent = 0
        for path in self.kept_files():
            key = self.key_of(path)
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                if sizes.get(key) != path.stat().st_size:  # a log has no blob of its name
                    self.send(path)
                    num_sent += path.name != _LOG
        return num_sent

    def make_folders(self) -> None:
        """Make the folders of all that the store has, marked as away: for a data folder that was lost."""
        for key in self.all_keys():
            unit = PurePosixPath(key).parent.as_posix()
            if not (self.root / unit).exists():
                (self.root / unit).mkdir(parents=True)
                if unit == unit_of(key) and not is_by_name(unit):
                    (self.root / unit / AWAY).touch()


def _for_each(act: Callable[[Path], None], paths: Iterable[Path]) -> None:
    """Act on some files at once: each waits for the network. Raises the first error."""
    found = list(paths)
    if len(found) < 2:
        for path in found:
            act(path)
        return
    with ThreadPoolExecutor(NUM_AT_ONCE, "store") as threads:
        try:
            for done in [threads.submit(act, path) for path in found]:
                done.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)  # not the others' timeouts too
            raise


@contextlib.contextmanager
def _left_to_the_search(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        logger.warning("not deleted from the store yet", path=str(path), reason=str(error))


def _mark_as_used(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _files_below(path: Path) -> Iterator[Path]:
    """A file, or all files of a folder whose names do not begin with a dot."""
    if not path.is_dir():
        yield path
        return
    for parent, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "workspace"]  # large, and not kept
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
