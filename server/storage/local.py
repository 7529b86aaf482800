"""Layout of the data folder, and writes to it that a power cut leaves complete or absent.

    datasets/<dataset id>/recordings/    000001.wav ... and recordings.json (their original names)
    jobs/<job id>/workspace/             the engine's workspace, guarded by its lock
    jobs/<job id>/start/                 generator.pth, discriminator.pth that training starts from, and origin.txt
    jobs/<job id>/job.log                the job's whole log, appended by its workers
    jobs/<job id>/attempts/<token>/      what one attempt writes, and no other one:
        artifacts/<sha256>                   published files: voices, indexes, previews
        checkpoints/                         copies of recovery checkpoints, for other workers and for retries
        incoming/                            files that a worker on another machine sends, until they are recorded
        log.json                             place of the last lines of the log that such a worker sent
        config.json, provenance.json         for the engine
        events.spool                         events that wait for the database
    jobs/<job id>/artifacts/, checkpoints/<token>/     the same before schema 0014; only read and deleted
    consents/<dataset id>/<sha256>       document of the consent to a dataset's recordings
    fetched/<dataset id>/                downloads that a dataset is made of, until it is ingested
    cache/<dataset id>/                  stage results shared by the dataset's jobs
    weights/                             published weights
    readings/<worker id>                 GPU telemetry of a worker
    calibrations/<hash>.json             speed of a kind of device; see `server.estimates.calibrations`
    base-weights/<id>/                   generator.pth, discriminator.pth: base weights of users
    conversions/<id>/in/                 recordings to convert, numbered
    conversions/<id>/out/<token>/        results of the attempt under a token
    uploads/<upload id>                  resumable uploads, as far as received
    workers/                             locks and records of workers; see `worker.engine.slots`
    incoming/                            other uploads and folders being written
    trash/<time>/<kind>/<name>           orphaned files, kept for some days; see `server.storage.trash`
    backups/before-<schema>-<time>.db    the database before its last upgrades; see `server.database.copies`
    instance.json                        id of the installation; see `server.storage.instances`
    server.lock                          held by the one server of the folder, where the database is SQLite

An attempt's folder is created by the transaction that claims the job, and its worker creates no folder above it: a
stale worker can neither change files of its successor nor bring back a deleted job.

No path has a part chosen by a user. With a store behind the folder (`server.storage.tier`) what is kept lies there too,
and files here are copies.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import structlog
import uuid6

from rvc_engine.environment.files import is_in_use, rename, replace, sync_file, sync_folder, unlink
from rvc_engine.weights.own import BASE_ROLES, BaseRole
from rvc_engine.workspace.atomic_files import write_atomically
from server.blobs.copies import copy_and_hash, link_or_copy
from server.errors import LeaseLost, SettingsRefused
from server.storage.kept_files import KeptFiles

logger = structlog.get_logger(__name__)

_ID = re.compile(r"^[a-z]{2,4}_[0-9a-f]{32}$")
_NAMES = {
    "datasets": "ds_",
    "consents": "ds_",
    "fetched": "ds_",
    "cache": "ds_",
    "jobs": "job_",
    "base-weights": "bw_",
    "conversions": "cnv_",
    "uploads": "upl_",
    "incoming": "",
}
"""Prefix of the names in each folder; the rest is 32 hexadecimal digits."""
ARTIFACTS = "artifacts"
CHECKPOINTS = "checkpoints"
ATTEMPTS = "attempts"
INCOMING = "incoming"
ORIGIN_FILE = "origin.txt"
ORIGIN = 0
"""Token of files that were there before the first attempt, which has token 1: checkpoints of a job that is retried, and
the files of a voice from another server."""


@dataclass(frozen=True)
class StoredFile:
    """A file committed to the storage."""

    path: str
    """Relative to the storage's root, with forward slashes."""
    size: int
    sha256: str


class Storage(KeptFiles):
    """Storage in the data folder."""

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

    def delete_upload(self, upload_id: str) -> bool:
        """Delete the bytes of an upload; False, with a log line, while that fails, as for a file in use on Windows."""
        try:
            unlink(self.upload_file(upload_id))
        except OSError as error:
            logger.warning("upload not deleted yet; it is tried again later", upload_id=upload_id, reason=str(error))
            return False
        return True

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

    def calibration_file(self, key: str) -> Path:
        """Calibration of a kind of device, by the hash of its name."""
        return self.root / "calibrations" / f"{key}.json"

    def cache_folder(self, dataset_id: str) -> Path:
        """Stage results of slice, pitch and content for a dataset, deleted with it."""
        return self._path("cache", dataset_id)

    def dataset_home(self, dataset_id: str) -> Path:
        """Folder of all files of a dataset."""
        return self._path("datasets", dataset_id)

    def dataset_folder(self, dataset_id: str) -> Path:
        """Folder of the recordings with their manifest, the engine's input."""
        return self.dataset_home(dataset_id) / "recordings"

    def recordings(self, dataset_id: str) -> Path:
        """`dataset_folder` with all of its files, to be read here. StorageAway, OSError."""
        return self.fetch_folder(self.dataset_folder(dataset_id))

    def fetched_folder(self, dataset_id: str) -> Path:
        """Folder of the downloads that a dataset is made of; see `server.fetching`."""
        return self._path("fetched", dataset_id)

    def consent_folder(self, dataset_id: str) -> Path:
        """Folder of the document of a dataset's consent, which is named by its sha256."""
        return self._path("consents", dataset_id)

    def keep_consent(self, dataset_id: str, source: Path, sha256: str) -> None:
        """Link a document into a dataset's `consent_folder`; the one before stays until `delete_consents`."""
        folder = self.consent_folder(dataset_id)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link_or_copy(source, folder / sha256)
        sync_folder(folder)
        sync_folder(folder.parent)

    def delete_consents(self, dataset_id: str, but: str | None = None) -> None:
        """Delete the documents of a dataset's consents, except the one of the sha256 `but`."""
        folder = self.consent_folder(dataset_id)
        with contextlib.suppress(OSError):  # one that is being sent on Windows stays until the dataset goes
            for path in folder.iterdir():
                if path.name != but:
                    path.unlink()
            if but is None:
                folder.rmdir()
        if self.tier is not None:
            self.tier.forget_but(folder, () if but is None else (but,))

    def job_home(self, job_id: str) -> Path:
        """Folder of all files of a job."""
        return self._path("jobs", job_id)

    def workspace(self, job_id: str) -> Path:
        """The engine's workspace."""
        return self.job_home(job_id) / "workspace"

    def attempt_folder(self, job_id: str, token: int) -> Path:
        """Folder of the files that the attempt under a token writes."""
        return self.job_home(job_id) / ATTEMPTS / f"{token:06d}"

    def create_attempt(self, job_id: str, token: int) -> None:
        """Create an attempt's folder. Only for the transaction that claims the job: it excludes a deletion."""
        self.attempt_folder(job_id, token).mkdir(parents=True, exist_ok=True)

    def result_folder(self, job_id: str, token: int, name: str) -> Path:
        """A folder within an attempt's, created if missing. FileNotFoundError when the attempt's is gone."""
        folder = self.attempt_folder(job_id, token) / name
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            for parent in list(folder.parents)[:5]:  # up to the root: the claim's transaction synced none
                sync_folder(parent)
        return folder

    def checkpoints(self, job_id: str, token: int) -> Path:
        """An attempt's copies of recovery checkpoints; see `server.results.checkpoints`."""
        return self.attempt_folder(job_id, token) / CHECKPOINTS

    def checkpoint_folders(self, job_id: str) -> dict[int, Path]:
        """Existing folders of copied checkpoints by token, oldest first."""
        home = self.job_home(job_id)
        old, new = home.glob(f"{CHECKPOINTS}/[0-9]*"), home.glob(f"{ATTEMPTS}/[0-9]*/{CHECKPOINTS}")
        named = [*((path.name, path) for path in old), *((path.parent.name, path) for path in new)]
        return dict(sorted((int(name), path) for name, path in named if name.isdecimal()))

    def artifact_folders(self, job_id: str) -> dict[int, Path]:
        """Existing folders of published files by token; -1 for the one that all attempts shared before schema 0014."""
        home = self.job_home(job_id)
        named = [("-1", home / ARTIFACTS)] if (home / ARTIFACTS).is_dir() else []
        named += [(path.parent.name, path) for path in home.glob(f"{ATTEMPTS}/[0-9]*/{ARTIFACTS}")]
        return {int(name): path for name, path in named}

    def base_weights_folder(self, base_weights_id: str) -> Path:
        """Files of base weights."""
        return self._path("base-weights", base_weights_id)

    def conversion_home(self, conversion_id: str) -> Path:
        """Folder of all files of a conversion."""
        return self._path("conversions", conversion_id)

    def conversion_output(self, conversion_id: str, token: int) -> Path:
        """Folder of the results that the attempt under a token writes; created by the claim's transaction."""
        return self.conversion_home(conversion_id) / "out" / f"{token:06d}"

    def start_folder(self, job_id: str) -> Path:
        """Files that a job's training starts from in place of published base weights."""
        return self.job_home(job_id) / "start"

    def start_files(self, job_id: str) -> tuple[Path | None, Path | None]:
        """Generator and discriminator in a job's `start_folder`; None where it has none."""
        folder = self.fetch_folder(self.start_folder(job_id))
        generator, discriminator = (folder / f"{role}.pth" for role in BASE_ROLES)
        return generator if generator.is_file() else None, discriminator if discriminator.is_file() else None

    def place_start(self, job_id: str, files: Mapping[BaseRole, Path], origin: str) -> None:
        """Fill a job's `start_folder` by hard links, which keep the bytes when the sources are deleted.

        `files`: by role. `origin`: what they are, for the voice's record. Raises FileNotFoundError for a missing one.
        """
        folder = self.start_folder(job_id)
        folder.mkdir(parents=True)
        for role, source in files.items():
            link_or_copy(self.fetch(source), folder / f"{role}.pth")
        write_atomically(folder / ORIGIN_FILE, origin.encode())
        self.keep(folder)

    def copy_start(self, job_id: str, new_job_id: str) -> None:
        """Have a new job start from the same files as an old one, as far as it has some."""
        folder = self.start_folder(job_id)
        files = {role: path for role, path in zip(BASE_ROLES, self.start_files(job_id), strict=True) if path}
        if files:
            self.place_start(new_job_id, files, (folder / ORIGIN_FILE).read_text(encoding="utf-8"))

    def job_log(self, job_id: str) -> Path:
        """The job's whole log over all attempts, UTF-8; the worker appends to it."""
        return self.job_home(job_id) / "job.log"

    @contextlib.contextmanager
    def incoming_folder(self) -> Iterator[Path]:
        """A new empty folder on the storage's disk, deleted at the end unless moved away."""
        folder = self.incoming / uuid6.uuid7().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def store_artifact(self, job_id: str, token: int, source: Path, name: str | None = None) -> StoredFile:
        """Copy a file into an attempt's artifacts, hashed on the way. Storing the same bytes twice keeps one file.

        `name`: as for `keep`.

        Raises LeaseLost when the attempt's folder is gone, because the job was deleted; OSError.
        """
        attempt = self.attempt_folder(job_id, token)
        temporary = attempt / ARTIFACTS / f".{uuid6.uuid7().hex}.tmp"
        try:
            folder = self.result_folder(job_id, token, ARTIFACTS)
            sha256, size = copy_and_hash(source, temporary)
            target = folder / sha256
            try:
                replace(temporary, target)
            except OSError as error:
                if not is_in_use(error) or not target.is_file() or target.stat().st_size != size:
                    raise  # otherwise these very bytes are there, and are being sent to someone
            sync_folder(folder)
            self.keep(target, sha256=sha256, name=name)
        except FileNotFoundError as error:
            if attempt.is_dir():
                raise
            raise LeaseLost(f"the job {job_id} was deleted, and the files of its attempt {token} with it") from error
        finally:
            temporary.unlink(missing_ok=True)
        return StoredFile(target.relative_to(self.root).as_posix(), size, sha256)

    def take_artifact(self, job_id: str, token: int, source: Path, sha256: str, name: str | None = None) -> StoredFile:
        """As `store_artifact`, of a complete file of this sha256 in the attempt's folder, which is moved."""
        try:
            target = self.result_folder(job_id, token, ARTIFACTS) / sha256
            if source.exists() or not target.exists():  # it was moved before, and is recorded again
                replace(source, target)
                sync_folder(target.parent)
            self.keep(target, sha256=sha256, name=name)
        except FileNotFoundError as error:
            if self.attempt_folder(job_id, token).is_dir():
                raise
            raise LeaseLost(f"the job {job_id} was deleted, and the files of its attempt {token} with it") from error
        return StoredFile(target.relative_to(self.root).as_posix(), target.stat().st_size, sha256)

    def delete_partial_files(self, job_id: str, token: int) -> None:
        """Delete half-written files of the attempts before the one under a token: a checkpoint's can be a gigabyte."""
        for path in self.job_home(job_id).glob(f"{ATTEMPTS}/[0-9]*/*/.*.tmp"):
            if int(path.parts[-3]) < token:
                path.unlink(missing_ok=True)
        for path in self.job_home(job_id).glob(f"{ATTEMPTS}/[0-9]*/{INCOMING}"):
            if int(path.parts[-2]) < token:
                shutil.rmtree(path, ignore_errors=True)

    def delete_files(self, paths: Iterable[str]) -> None:
        """Delete the files of `StoredFile.path`s; one that cannot be deleted is left to the search for orphans."""
        for path in paths:
            with contextlib.suppress(OSError):
                self.resolve(path).unlink(missing_ok=True)
                self._forget(self.resolve(path))

    def commit_folder(self, temporary: Path, target: Path) -> None:
        """Move a complete folder to its place. All its files, and both folders, are on disk when this returns."""
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                sync_file(path)
        for path in [*(p for p in temporary.rglob("*") if p.is_dir()), temporary]:
            sync_folder(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        rename(temporary, target)
        sync_folder(target.parent)

    def delete_job(self, job_id: str, conversion_ids: Iterable[str] = ()) -> None:
        """Delete everything of a job: workspace, checkpoints, log, artifacts, and the conversions with its voice.

        Its folder is moved away first: what still writes into it, such as a stale worker, cannot add to it any more.
        """
        self._delete_home(self.job_home(job_id))
        self._forget(self.job_home(job_id))
        for conversion_id in conversion_ids:
            self.delete_conversion(conversion_id)

    def delete_conversion(self, conversion_id: str) -> None:
        """Delete all files of a conversion, as those of a job: a worker may write into its folder."""
        self._delete_home(self.conversion_home(conversion_id))

    def _delete_home(self, home: Path) -> None:
        with contextlib.suppress(OSError), self.incoming_folder() as folder:
            home.rename(folder / home.name)
        shutil.rmtree(home, ignore_errors=True)  # where it cannot be moved

    def delete_workspace(self, job_id: str) -> None:
        """Delete a job's workspace, stored checkpoints and what it started from. Log and artifacts are kept."""
        shutil.rmtree(self.workspace(job_id), ignore_errors=True)
        for folder in (self.start_folder(job_id), *self.checkpoint_folders(job_id).values()):
            self._delete(folder)

    def delete_checkpoints(self, job_id: str, before: int) -> None:
        """Delete the copied checkpoints of the attempts before the one under a token."""
        for token, folder in self.checkpoint_folders(job_id).items():
            if token < before:
                self._delete(folder)

    def delete_base_weights(self, base_weights_id: str) -> None:
        """Delete base weights."""
        self._delete(self.base_weights_folder(base_weights_id))

    def cache_folders(self) -> list[Path]:
        """Folders of stage results of all datasets."""
        return [folder for folder in (self.root / "cache").glob("*_*") if folder.is_dir()]

    def take_cache(self, dataset_id: str, target: Path) -> None:
        """Move the stage results of a dataset away; the next job recomputes them."""
        with contextlib.suppress(FileNotFoundError):
            rename(self.cache_folder(dataset_id), target)

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset's recordings, the document of its consent, downloads and the stage results."""
        shutil.rmtree(self.fetched_folder(dataset_id), ignore_errors=True)
        shutil.rmtree(self.cache_folder(dataset_id), ignore_errors=True)
        for folder in (self.dataset_home(dataset_id), self.consent_folder(dataset_id)):
            self._delete(folder)

    def free_bytes(self) -> int:
        """Free space on the storage's disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free
