"""Layout of the data folder, and writes to it that a power cut leaves complete or absent.

    datasets/<dataset id>/recordings/    000001.wav ... and recordings.json (their original names)
    jobs/<job id>/workspace/             the engine's workspace
    jobs/<job id>/job.log                the job's whole log, appended by the worker
    jobs/<job id>/artifacts/<sha256>     published files
    jobs/<job id>/checkpoints/           copies of recovery checkpoints, for other workers and for retries
    cache/<dataset id>/                  stage results shared by the dataset's jobs
    weights/                             published weights
    readings/<worker id>                 GPU telemetry of a worker
    uploads/<upload id>                  resumable uploads, as far as received
    workers/                             locks and records of workers; see `worker.engine.slots`
    incoming/                            other uploads and folders being written
    trash/<time>/<kind>/<name>           orphaned files, kept for some days; see `server.storage.trash`
    backups/before-<schema>-<time>.db    the database before its last upgrades; see `server.database.copies`
    instance.json                        id of the installation; see `server.storage.instances`
    server.lock                          held by the one server of the folder, where the database is SQLite

No path has a part chosen by a user. The class is small on purpose, so that an object store can replace it.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import uuid6

from rvc_engine.workspace.atomic_files import sync_folder
from server.errors import SettingsRefused

_ID = re.compile(r"^[a-z]{2,4}_[0-9a-f]{32}$")
_NAMES = {"datasets": "ds_", "cache": "ds_", "jobs": "job_", "uploads": "upl_", "incoming": ""}
"""Prefix of the names in each folder; the rest is 32 hexadecimal digits."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file committed to the storage."""

    path: str
    """Relative to the storage's root, with forward slashes."""
    size: int
    sha256: str


class Storage:
    """Storage in the data folder."""

    def __init__(self, root: Path) -> None:
        """`root` is created when first needed."""
        self.root = root.resolve()

    def _path(self, kind: str, an_id: str) -> Path:
        if not _ID.match(an_id):
            raise ValueError(f"{an_id!r} is not a valid id")
        return self.root / kind / an_id

    def lock(self, wait_seconds: float) -> filelock.BaseFileLock:
        """Take the lock of the folder's one server; it is released at the latest with the process.

        On SQLite a second server would checkpoint the write-ahead log under the first. Waits for a server that is
        stopping, and raises SettingsRefused after `wait_seconds`.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / "server.lock", timeout=wait_seconds)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise SettingsRefused(
                f"another server uses the data folder {self.root}; stop it, or use another folder"
            ) from error
        return lock

    @property
    def incoming(self) -> Path:
        """Folder of uploads being received."""
        return self.root / "incoming"

    def upload_file(self, upload_id: str) -> Path:
        """The bytes received of a resumable upload."""
        return self._path("uploads", upload_id)

    def entries(self, kind: str) -> list[Path]:
        """Entries with a generated name in the folder `kind`; empty if the folder does not exist."""
        pattern = re.compile(rf"{_NAMES[kind]}[0-9a-f]{{32}}")
        try:
            return sorted(path for path in (self.root / kind).iterdir() if pattern.fullmatch(path.name))
        except FileNotFoundError:
            return []

    @property
    def weights_folder(self) -> Path:
        """Folder of published weights."""
        return self.root / "weights"

    def gpu_telemetry_file(self, worker_id: str) -> Path:
        """GPU telemetry of a worker; see `server.workers.gpu_telemetry`."""
        return self._path("readings", worker_id)

    def gpu_telemetry_files(self) -> list[Path]:
        """GPU telemetry of all workers."""
        return list((self.root / "readings").glob("wrk_*"))

    def cache_folder(self, dataset_id: str) -> Path:
        """Stage results of slice, pitch and content for a dataset, deleted with it."""
        return self._path("cache", dataset_id)

    def dataset_home(self, dataset_id: str) -> Path:
        """Folder of all files of a dataset."""
        return self._path("datasets", dataset_id)

    def dataset_folder(self, dataset_id: str) -> Path:
        """Folder of the recordings with their manifest, the engine's input."""
        return self.dataset_home(dataset_id) / "recordings"

    def job_home(self, job_id: str) -> Path:
        """Folder of all files of a job."""
        return self._path("jobs", job_id)

    def workspace(self, job_id: str) -> Path:
        """The engine's workspace."""
        return self.job_home(job_id) / "workspace"

    def checkpoints(self, job_id: str) -> Path:
        """Copies of recovery checkpoints; see `server.results.checkpoints`."""
        return self.job_home(job_id) / "checkpoints"

    def job_log(self, job_id: str) -> Path:
        """The job's whole log over all attempts, UTF-8; the worker appends to it."""
        return self.job_home(job_id) / "job.log"

    def artifacts_folder(self, job_id: str) -> Path:
        """Published files, named by their hash."""
        return self.job_home(job_id) / "artifacts"

    def resolve(self, path: str) -> Path:
        """The file of a `StoredFile.path`. Raises ValueError for a path outside of the storage."""
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise ValueError(f"{path!r} is outside of the storage")
        return found

    @contextlib.contextmanager
    def incoming_folder(self) -> Iterator[Path]:
        """A new empty folder on the storage's disk, deleted at the end unless moved away."""
        folder = self.incoming / uuid6.uuid7().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def store_artifact(self, job_id: str, source: Path) -> StoredFile:
        """Copy a file into the job's artifacts, hashed on the way. Storing the same bytes twice keeps one file."""
        folder = self.artifacts_folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(".*.tmp"):  # left by a killed worker: a job has one worker at a time
            partial.unlink(missing_ok=True)
        temporary = folder / f".{uuid6.uuid7().hex}.tmp"
        try:
            sha256, size = copy_and_hash(source, temporary)
            target = folder / sha256
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(folder)
        return StoredFile(target.relative_to(self.root).as_posix(), size, sha256)

    def commit_folder(self, temporary: Path, target: Path) -> None:
        """Move a complete folder to its place. All its files, and both folders, are on disk when this returns."""
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                sync_file(path)
        for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            sync_folder(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
        sync_folder(target.parent)

    def delete_job(self, job_id: str) -> None:
        """Delete everything of a job: workspace, checkpoints, log, artifacts."""
        shutil.rmtree(self.job_home(job_id), ignore_errors=True)

    def delete_workspace(self, job_id: str) -> None:
        """Delete a job's workspace and stored checkpoints. Log and artifacts are kept."""
        shutil.rmtree(self.workspace(job_id), ignore_errors=True)
        shutil.rmtree(self.checkpoints(job_id), ignore_errors=True)

    def cache_folders(self) -> list[Path]:
        """Folders of stage results of all datasets."""
        return [folder for folder in (self.root / "cache").glob("*_*") if folder.is_dir()]

    def take_cache(self, dataset_id: str, target: Path) -> None:
        """Move the stage results of a dataset away; the next job recomputes them."""
        with contextlib.suppress(FileNotFoundError):
            self.cache_folder(dataset_id).rename(target)

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset's recordings and the stage results made from them."""
        shutil.rmtree(self.dataset_home(dataset_id), ignore_errors=True)
        shutil.rmtree(self.cache_folder(dataset_id), ignore_errors=True)

    def free_bytes(self) -> int:
        """Free space on the storage's disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free


def copy_and_hash(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file and sync it to disk; returns the copy's sha256 and size in bytes."""
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            write.write(chunk)
            size += len(chunk)
        write.flush()
        os.fsync(write.fileno())
    return digest.hexdigest(), size


def link_or_copy(source: Path, target: Path) -> str | None:
    """Hard-link a file, or copy it where links are not possible; returns a copy's sha256, None for a link."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # across file systems, on one without hard links, or with too many of them
        return copy_and_hash(source, target)[0]
    return None


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def sync_file(path: Path) -> None:
    """Sync a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
