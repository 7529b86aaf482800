"""Copies of a job's recovery checkpoints in the storage, from which another worker continues after a lost one.

    jobs/<job id>/attempts/<token>/checkpoints/    step_*.pt and manifest.json as the engine writes them, with their
                                                   evaluation.json and best.pth

Each attempt writes under its own token, so a worker that has lost its lease unnoticed does no harm: it still writes
good checkpoints of the same run, which newer tokens supersede. Files are hard links, which take no space, if workspace
and storage share a disk; copies are hashed on the way.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.checkpoints.manifest import KEPT_CHECKPOINTS, CheckpointEntry, manifest_in, read_entries, write_entries
from rvc_engine.environment.files import replace, sync_folder
from rvc_engine.workspace.layout import Workspace
from server.blobs.copies import link_or_copy
from server.storage.local import CHECKPOINTS, ORIGIN, Storage

EVALUATIONS = "evaluation.json"
BEST = "best.pth"
OTHERS = frozenset({BEST, EVALUATIONS})
"""Files beside checkpoints: the best save and the record of evaluations."""


class CorruptCheckpoint(Exception):
    """A checkpoint's file does not match its manifest."""


@dataclass(frozen=True)
class StoredRun:
    """Checkpoints of one attempt."""

    token: int
    folder: Path
    entries: list[CheckpointEntry]
    """Oldest first, at least one."""

    @property
    def newest(self) -> CheckpointEntry:
        """The newest checkpoint."""
        return self.entries[-1]

    def restore(self, workspace: Workspace) -> list[CheckpointEntry]:
        """Restore the checkpoints to an empty workspace; returns the intact ones, oldest first. Raises OSError."""
        workspace.recovery.mkdir(parents=True, exist_ok=True)
        intact = []
        for entry in self.entries:
            try:
                link_or_copy_verified(self.folder / entry.file, workspace.recovery / entry.file, entry)
            except (CorruptCheckpoint, FileNotFoundError):
                continue  # another may be intact; without any, the engine reports that
            intact.append(entry)
        if intact:
            write_entries(workspace.recovery, intact)
        for name, target in ((BEST, workspace.best_file), (EVALUATIONS, workspace.root / EVALUATIONS)):
            if (self.folder / name).is_file():
                target.parent.mkdir(exist_ok=True)
                link_or_copy_verified(self.folder / name, target)
        return intact


class StoredCheckpoints:
    """Stored checkpoints of one job."""

    def __init__(self, storage: Storage, job_id: str) -> None:
        self._storage, self._job_id = storage, job_id

    def latest(self) -> StoredRun | None:
        """Checkpoints of the newest attempt that has any. Raises IncompatibleCheckpoint for a damaged manifest."""
        for token, folder in reversed(self._storage.checkpoint_folders(self._job_id).items()):
            if entries := read_entries(self._storage.fetch_folder(folder)):
                return StoredRun(token, folder, entries)
        return None

    def upload(self, workspace: Workspace, token: int) -> CheckpointEntry | None:
        """Store the workspace's newest checkpoint, replacing the oldest; None without a new one.

        Raises CorruptCheckpoint, IncompatibleCheckpoint, OSError: FileNotFoundError when the job was deleted.
        """
        entries = read_entries(workspace.recovery)
        if not entries:
            return None
        others = {BEST: workspace.best_file, EVALUATIONS: workspace.root / EVALUATIONS}
        others = {name: path for name, path in others.items() if path.is_file()}
        return self.store(token, entries[-1], workspace.recovery / entries[-1].file, others)

    def store(
        self, token: int, newest: CheckpointEntry, source: Path, others: Mapping[str, Path]
    ) -> CheckpointEntry | None:
        """Store a checkpoint of an attempt, replacing its oldest; None for one that is stored.

        `others`: files beside it, by the names in `OTHERS`. Raises as `upload`.
        """
        folder = self._storage.fetch_folder(self._storage.checkpoints(self._job_id, token))
        stored = read_entries(folder)
        if newest in stored:
            return None
        self._storage.result_folder(self._job_id, token, CHECKPOINTS)
        link_or_copy_verified(source, folder / newest.file, newest)
        for name, path in others.items():
            link_or_copy_verified(path, folder / name)
        entries = [*(old for old in stored if old.file != newest.file), newest][-KEPT_CHECKPOINTS:]
        self._keep(folder, [newest.file, *others], entries)
        write_entries(folder, entries)
        self._storage.keep_only(folder)
        self._storage.delete_checkpoints(self._job_id, before=token)
        return newest

    def _keep(self, folder: Path, names: Iterable[str], entries: Sequence[CheckpointEntry]) -> None:
        """Have new files of a folder in the store, and then the manifest that names them.

        It is there before it is here: a try that is cut off is repeated as long as the one here does not name them.
        """
        for name in names:
            self._storage.keep(folder / name)
        if self._storage.tier is not None:
            with self._storage.incoming_folder() as temporary:
                write_entries(temporary, entries)
                self._storage.keep(manifest_in(temporary), manifest_in(folder))

    def copy_to(self, job_id: str) -> CheckpointEntry | None:
        """Copy the newest checkpoints to a new job, which starts from them; returns the newest, None without any."""
        run = self.latest()
        if run is None:
            return None
        folder = self._storage.checkpoints(job_id, ORIGIN)
        folder.mkdir(parents=True)
        for entry in run.entries:
            link_or_copy_verified(run.folder / entry.file, folder / entry.file, entry)
            self._storage.keep_copy(run.folder / entry.file, folder / entry.file)
        write_entries(folder, run.entries)
        self._storage.keep(manifest_in(folder))
        return run.newest


def link_or_copy_verified(source: Path, target: Path, entry: CheckpointEntry | None = None) -> None:
    """Link a file or, across disks, copy it; it is complete and on disk before it gets its name.

    Of a link only the size is checked: its writer hashed the same file, and the engine verifies what it loads. Raises
    CorruptCheckpoint, OSError.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        digest = link_or_copy(source, temporary)
        size = temporary.stat().st_size
        if entry is not None and (size != entry.size or digest not in {None, entry.sha256}):
            raise CorruptCheckpoint(f"{source} does not match its manifest")
        replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
