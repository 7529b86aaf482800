"""Workspaces of a worker's engines, and the restoring of checkpoints that an earlier attempt stored.

By default a workspace is in the folder of jobs that all workers of a machine share. A worker with a scratch folder of
its own (a faster disk, another machine) restores the last checkpoint that the server has. Several
workers may share one scratch folder. Like the data folder it holds the id of its installation; workers of another
installation refuse to use it.

    <scratch>/<job id>/          a job's workspace
    <scratch>/trash/             workspaces of jobs that the server does not have; see `server.storage.trash`
    <scratch>/instance.json      see `server.storage.instance_files`
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from rvc_engine.checkpoints.manifest import CheckpointEntry, read_entries
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobStatus
from server.storage.instance_files import INSTANCE_FILE, read_instance_id, write_instance_id
from server.storage.permissions import restrict_access
from server.storage.trash import Trash, is_untouched
from worker.gateway.errors import SettingsRefused
from worker.gateway.interface import JobLease
from worker.gateway.types import Folders, StoredCheckpoint

logger = structlog.get_logger(__name__)

_ATTEMPT_FILE = ".attempt"
"""File with the token of the last attempt that used a workspace."""
_LOCKS = frozenset({".lock", ".training.lock"})
_utc_now = partial(datetime.now, UTC)
Statuses = Callable[[Collection[str]], Mapping[str, JobStatus]]
"""As `WorkerGateway.statuses`."""


class Workspaces:
    """Workspaces of a worker."""

    def __init__(self, folders: Folders, scratch: Path | None, clock: Callable[[], datetime] = _utc_now) -> None:
        """`scratch`: folder for the workspaces; None: in those of the jobs."""
        self._folders, self._clock = folders, clock
        self._scratch = None if scratch is None else scratch.resolve()

    @property
    def private(self) -> Path:
        """Folder with the files of users, from which programs that decode strangers' files are kept out."""
        return self._folders.root

    def job_folder(self, job_id: str) -> Path:
        """The worker's folder for a job."""
        return (self._folders.jobs if self._scratch is None else self._scratch) / job_id

    def spool(self, lease: JobLease) -> Path:
        """File for events of an attempt that wait for the server."""
        if self._scratch is None:
            return lease.attempt_folder / "events.spool"
        return self.job_folder(lease.job_id) / f"events.{lease.token}.spool"

    def workspace(self, lease: JobLease) -> Workspace:
        """The workspace of a claimed job."""
        folder = self.job_folder(lease.job_id) / "workspace"
        return Workspace(folder, lease.voice, lease.config.version)

    def prepare(self, lease: JobLease, lock_wait_seconds: float) -> CheckpointEntry | None:
        """Restore the last stored checkpoint, unless the workspace has it or a later one; the restored one, or None.

        Raises IncompatibleCheckpoint when all copies are damaged, WorkspaceBusy when another engine uses the
        workspace, OSError.
        """
        workspace = self.workspace(lease)
        stored = lease.newest_checkpoint()
        restored = None
        if stored is not None and not _is_up_to_date(workspace, stored):
            with workspace.lock(lock_wait_seconds):
                restored = self._restore(lease, workspace)
        write_atomically(workspace.root / _ATTEMPT_FILE, str(lease.token).encode())
        return restored

    @staticmethod
    def _restore(lease: JobLease, workspace: Workspace) -> CheckpointEntry:
        """Replace the workspace's content by a checkpoint; slices and features are taken from the cache again."""
        for path in workspace.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in _LOCKS:
                path.unlink()
        lease.restore_checkpoint(workspace)
        return read_entries(workspace.recovery)[-1]

    def release(self, job_id: str) -> None:
        """Delete a job's folder in the scratch folder; one in the folder of jobs stays."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch / job_id, ignore_errors=True)

    def claim_scratch(self, instance_id: str, statuses: Statuses) -> None:
        """Mark the scratch folder with the installation's id, and restrict the access to it.

        Raises SettingsRefused when it belongs, or seems to belong, to another installation.
        """
        if self._scratch is None:
            return
        if self._scratch.is_relative_to(self._folders.jobs):
            raise SettingsRefused(
                f"the scratch folder {self._scratch} is inside the jobs folder of the data folder, where voices are "
                "kept; set another with RVC_TRAIN_SCRATCH_FOLDER, or none"
            )
        mark = read_instance_id(self._scratch / INSTANCE_FILE)
        jobs = self._scratch_jobs()
        if mark not in {None, instance_id} or (mark is None and jobs and not statuses([job.name for job in jobs])):
            owner = "another installation, since this one has none of its jobs" if mark is None else f"instance {mark}"
            raise SettingsRefused(
                f"the scratch folder {self._scratch} belongs to {owner}, and the data folder {self._folders.root} to "
                f"{instance_id}; set another with RVC_TRAIN_SCRATCH_FOLDER, or empty it if its jobs are not needed"
            )
        if mark is None:
            write_instance_id(self._scratch / INSTANCE_FILE, instance_id)
        for sentence in restrict_access(jobs):
            logger.warning(sentence)

    def sweep(
        self, instance_id: str, statuses: Statuses, trash_days: float, on_progress: Callable[[], None] = lambda: None
    ) -> None:
        """Delete the scratch folders of finished jobs, and old entries of the trash.

        Folders of jobs that the server does not have go to the trash once their files are unchanged for an hour.
        `on_progress`: called before each folder, whose deletion may take long.
        """
        if self._scratch is None or read_instance_id(self._scratch / INSTANCE_FILE) != instance_id:
            return
        trash = Trash(self._scratch, self._clock)
        folders = self._scratch_jobs()
        found_statuses = statuses([folder.name for folder in folders]) if folders else {}
        for folder in folders:
            on_progress()
            found = found_statuses.get(folder.name)
            if found is None and is_untouched(folder, self._clock()):
                trash.add(folder, "jobs")
            elif found is not None and found.is_terminal:
                self.release(folder.name)
                logger.info("workspace deleted", job_id=folder.name)
        trash.empty(trash_days)

    def _scratch_jobs(self) -> list[Path]:
        return [] if self._scratch is None else sorted(self._scratch.glob("job_*"))


def _is_up_to_date(workspace: Workspace, stored: StoredCheckpoint) -> bool:
    """Whether the workspace has the stored checkpoint, or was used by the attempt that stored it or a later one."""
    try:
        entries = read_entries(workspace.recovery)
    except IncompatibleCheckpoint:
        return False
    return bool(entries) and (stored.entry in entries or _last_token(workspace) >= stored.token)


def _last_token(workspace: Workspace) -> int:
    try:
        return int((workspace.root / _ATTEMPT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return -1
