"""Where each file lies under the data folder, and how one gets there so that a power cut leaves all of it or nothing.

    datasets/<dataset id>/recordings/    000001.wav ... and recordings.json (names as their owner knows them)
    jobs/<job id>/workspace/             the engine's
    jobs/<job id>/job.log                the job's whole log, appended by the worker
    jobs/<job id>/artifacts/<sha256>     published files
    jobs/<job id>/checkpoints/           copies of recovery checkpoints, for other workers and for retries
    cache/<dataset id>/                  stage results that jobs on one dataset share
    weights/                             published weights
    readings/<worker id>                 what a worker's GPUs are doing
    uploads/<upload id>                  uploads in pieces, as far as they have come
    incoming/                            other uploads on their way
    trash/<time>/<kind>/<name>           what belonged to nobody, for some days; see `server.storage.trash`
    instance.json                        the installation that the folder belongs to; see `server.storage.instances`
    server.lock                          held by the one server of the folder

No path holds a word that a user typed. The class is small on purpose: an object store can take its place.
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
"""Beginnings of the names in each folder; the rest is 32 hexadecimal digits."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file that lies in the storage for good."""

    path: str
    """Relative to the storage's root, with forward slashes."""
    size: int
    sha256: str


class Storage:
    """The data folder."""

    def __init__(self, root: Path) -> None:
        """`root` is made when first needed."""
        self.root = root.resolve()

    def _path(self, kind: str, an_id: str) -> Path:
        if not _ID.match(an_id):
            raise ValueError(f"{an_id!r} is no id of ours")
        return self.root / kind / an_id

    def lock(self, wait_seconds: float) -> filelock.BaseFileLock:
        """The lock of the folder's one server, taken; it ends with the process at the latest.

        A second server would fold the write-ahead log under the first. Waits for one that is just stopping. Raises
        SettingsRefused when it stays.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / "server.lock", timeout=wait_seconds)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise SettingsRefused(
                f"another server works in the data folder {self.root}; stop it, or choose another folder"
            ) from error
        return lock

    @property
    def incoming(self) -> Path:
        """Uploads on their way."""
        return self.root / "incoming"

    def upload_file(self, upload_id: str) -> Path:
        """What has come of an upload."""
        return self._path("uploads", upload_id)

    def entries(self, kind: str) -> list[Path]:
        """What lies in the folder `kind` under a name of ours; nothing where there is no such folder."""
        pattern = re.compile(rf"{_NAMES[kind]}[0-9a-f]{{32}}")
        try:
            return sorted(path for path in (self.root / kind).iterdir() if pattern.fullmatch(path.name))
        except FileNotFoundError:
            return []

    @property
    def weights_folder(self) -> Path:
        """Published weights."""
        return self.root / "weights"

    def gpu_telemetry_file(self, worker_id: str) -> Path:
        """What a worker's GPUs are doing; see `server.workers.gpu_telemetry`."""
        return self._path("readings", worker_id)

    def gpu_telemetry_files(self) -> list[Path]:
        """Those of all workers."""
        return list((self.root / "readings").glob("wrk_*"))

    def cache_folder(self, dataset_id: str) -> Path:
        """Results of slice, pitch and content for one dataset: they go when the dataset goes."""
        return self._path("cache", dataset_id)

    def dataset_home(self, dataset_id: str) -> Path:
        """Everything kept of a dataset."""
        return self._path("datasets", dataset_id)

    def dataset_folder(self, dataset_id: str) -> Path:
        """The recordings with their manifest: what the engine takes as its dataset."""
        return self.dataset_home(dataset_id) / "recordings"

    def job_home(self, job_id: str) -> Path:
        """Everything kept of a job."""
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
        """The file of a `StoredFile.path`. ValueError when it would lead out of the storage."""
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise ValueError(f"{path!r} leads out of the storage")
        return found

    @contextlib.contextmanager
    def incoming_folder(self) -> Iterator[Path]:
        """A new empty folder on the storage's disk, gone at the end unless it was moved away."""
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
        for half in folder.glob(".*.tmp"):  # of a worker that was killed: a job has one at a time
            half.unlink(missing_ok=True)
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
        """Move a finished folder to its place; every file in it, and both folders, are on disk when this returns."""
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
        """Delete a job's workspace: slices, features, checkpoints here and there. Log and artifacts stay."""
        shutil.rmtree(self.workspace(job_id), ignore_errors=True)
        shutil.rmtree(self.checkpoints(job_id), ignore_errors=True)

    def cache_folders(self) -> list[Path]:
        """The stage results of all datasets that have some."""
        return [folder for folder in (self.root / "cache").glob("*_*") if folder.is_dir()]

    def delete_cache(self, dataset_id: str) -> None:
        """Delete the stage results of a dataset; the next job makes them again."""
        shutil.rmtree(self.cache_folder(dataset_id), ignore_errors=True)

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset's recordings and the stage results made from them."""
        shutil.rmtree(self.dataset_home(dataset_id), ignore_errors=True)
        shutil.rmtree(self.cache_folder(dataset_id), ignore_errors=True)

    def free_bytes(self) -> int:
        """Room left on the storage's disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free


def copy_and_hash(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file onto the disk; the copy's sha256 and size in bytes."""
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
    """Link a file under another name, or copy it onto the disk where it cannot be linked; a copy's sha256."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        return copy_and_hash(source, target)[0]
    return None


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room, or of the user's share of it."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def sync_file(path: Path) -> None:
    """Make what was written to a file survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
