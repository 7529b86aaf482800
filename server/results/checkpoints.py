"""Copies of a job's recovery checkpoints in the storage, from which another worker continues after a lost one.

    jobs/<job id>/checkpoints/<token>/    step_*.pt and manifest.json as the engine writes them, with their
                                          evaluation.json and best.pth

Each attempt writes under its own token, so a worker that has lost its lease unnoticed does no harm: it still writes
good checkpoints of the same run, which newer tokens supersede. Files are hard links, which take no space, if workspace
and storage share a disk; copies are hashed on the way.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.checkpoints.manifest import KEPT_CHECKPOINTS, CheckpointEntry, read_entries, write_entries
from rvc_engine.workspace.atomic_files import sync_folder
from rvc_engine.workspace.layout import Workspace
from server.storage.local import link_or_copy

ORIGIN = 0
"""Token of the checkpoints that a retry takes over from its original job."""
EVALUATIONS = "evaluation.json"
_BEST = "best.pth"


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


class StoredCheckpoints:
    """Stored checkpoints of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> StoredRun | None:
        """Checkpoints of the newest attempt that has any. Raises IncompatibleCheckpoint for a damaged manifest."""
        for run in sorted(self.folder.glob("[0-9]*"), reverse=True):
            if run.name.isdecimal() and (entries := read_entries(run)):
                return StoredRun(int(run.name), run, entries)
        return None

    def upload(self, workspace: Workspace, token: int) -> CheckpointEntry | None:
        """Store the workspace's newest checkpoint, replacing the oldest; None without a new one.

        Raises CorruptCheckpoint, OSError, IncompatibleCheckpoint.
        """
        entries = read_entries(workspace.recovery)
        folder = self._run_folder(token)
        stored = read_entries(folder)
        if not entries or entries[-1] in stored:
            return None
        newest = entries[-1]
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy_verified(workspace.recovery / newest.file, folder / newest.file, newest)
        for source, name in ((workspace.best_file, _BEST), (workspace.root / EVALUATIONS, EVALUATIONS)):
            if source.is_file():
                link_or_copy_verified(source, folder / name)
        write_entries(folder, [*(old for old in stored if old.file != newest.file), newest][-KEPT_CHECKPOINTS:])
        for other in self.folder.glob("[0-9]*"):
            if other.name.isdecimal() and int(other.name) < token:
                shutil.rmtree(other, ignore_errors=True)
        return newest

    def restore(self, run: StoredRun, workspace: Workspace) -> list[CheckpointEntry]:
        """Restore a run's checkpoints to an empty workspace; returns the intact ones, oldest first. Raises OSError."""
        workspace.recovery.mkdir(parents=True, exist_ok=True)
        intact = []
        for entry in run.entries:
            try:
                link_or_copy_verified(run.folder / entry.file, workspace.recovery / entry.file, entry)
            except (CorruptCheckpoint, FileNotFoundError):
                continue  # another may be intact; without any, the engine reports that
            intact.append(entry)
        if intact:
            write_entries(workspace.recovery, intact)
        for name, target in ((_BEST, workspace.best_file), (EVALUATIONS, workspace.root / EVALUATIONS)):
            if (run.folder / name).is_file():
                link_or_copy_verified(run.folder / name, target)
        return intact

    def copy_to(self, other: "StoredCheckpoints") -> CheckpointEntry | None:
        """Copy the newest checkpoints to another job, which starts from them; returns the newest, None without any."""
        run = self.latest()
        if run is None:
            return None
        folder = other._run_folder(ORIGIN)
        folder.mkdir(parents=True)
        for entry in run.entries:
            link_or_copy_verified(run.folder / entry.file, folder / entry.file, entry)
        write_entries(folder, run.entries)
        return run.newest

    def _run_folder(self, token: int) -> Path:
        return self.folder / f"{token:06d}"


def link_or_copy_verified(source: Path, target: Path, entry: CheckpointEntry | None = None) -> None:
    """Link a file or, across disks, copy it; it is complete and on disk before it gets its name.

    Of a link only the size is checked: its writer hashed the same file, and the engine verifies what it loads. Raises
    CorruptCheckpoint, OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        digest = link_or_copy(source, temporary)
        size = temporary.stat().st_size
        if entry is not None and (size != entry.size or digest not in {None, entry.sha256}):
            raise CorruptCheckpoint(f"{source} does not match its manifest")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
