"""Copies of a job's recovery checkpoints in the storage, so that another worker can go on where a lost one was.

    jobs/<job id>/checkpoints/<token>/    step_*.pt and manifest.json as the engine writes them; evaluation.json and
                                          best.pth, which go with them

Each attempt writes under its own token alone, so a worker that lost its job and does not know it disturbs nobody: what
it still writes is a good checkpoint of the same run, and older than what counts. Files are hard links where workspace
and storage share a disk, and take no room then; a copy is hashed on its way.
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
"""The token under which a retry finds the checkpoints of the job that it tries again."""
EVALUATIONS = "evaluation.json"
_BEST = "best.pth"


class CorruptCheckpoint(Exception):
    """A checkpoint's file is not what its manifest says."""


@dataclass(frozen=True)
class StoredRun:
    """What one attempt left."""

    token: int
    folder: Path
    entries: list[CheckpointEntry]
    """Oldest first, at least one."""

    @property
    def newest(self) -> CheckpointEntry:
        """The last one."""
        return self.entries[-1]


class StoredCheckpoints:
    """The folder of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest(self) -> StoredRun | None:
        """What the newest attempt left that left anything. IncompatibleCheckpoint when its manifest is damaged."""
        for run in sorted(self.folder.glob("[0-9]*"), reverse=True):
            if run.name.isdecimal() and (entries := read_entries(run)):
                return StoredRun(int(run.name), run, entries)
        return None

    def upload(self, workspace: Workspace, token: int) -> CheckpointEntry | None:
        """Upload the workspace's newest checkpoint, in place of the oldest; None when it is here, or there is none.

        Raises CorruptCheckpoint, OSError, IncompatibleCheckpoint.
        """
        there = read_entries(workspace.recovery)
        folder = self._run_folder(token)
        here = read_entries(folder)
        if not there or there[-1] in here:
            return None
        newest = there[-1]
        folder.mkdir(parents=True, exist_ok=True)
        link_or_copy_verified(workspace.recovery / newest.file, folder / newest.file, newest)
        for source, name in ((workspace.best_file, _BEST), (workspace.root / EVALUATIONS, EVALUATIONS)):
            if source.is_file():
                link_or_copy_verified(source, folder / name)
        write_entries(folder, [*(old for old in here if old.file != newest.file), newest][-KEPT_CHECKPOINTS:])
        for other in self.folder.glob("[0-9]*"):
            if other.name.isdecimal() and int(other.name) < token:
                shutil.rmtree(other, ignore_errors=True)
        return newest

    def restore(self, run: StoredRun, workspace: Workspace) -> list[CheckpointEntry]:
        """Restore a run's checkpoints into an empty workspace; returns those that are intact, oldest first. OSError."""
        workspace.recovery.mkdir(parents=True, exist_ok=True)
        good = []
        for entry in run.entries:
            try:
                link_or_copy_verified(run.folder / entry.file, workspace.recovery / entry.file, entry)
            except (CorruptCheckpoint, FileNotFoundError):
                continue  # the one beside it may be good; with none, the engine says that there is none
            good.append(entry)
        if good:
            write_entries(workspace.recovery, good)
        for name, target in ((_BEST, workspace.best_file), (EVALUATIONS, workspace.root / EVALUATIONS)):
            if (run.folder / name).is_file():
                link_or_copy_verified(run.folder / name, target)
        return good

    def copy_to(self, other: "StoredCheckpoints") -> CheckpointEntry | None:
        """Copy the newest checkpoints to another job, to begin from; the newest of them, None without any."""
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
    """Link a file or, from another disk, copy it; complete and on disk before it has its name.

    Raises CorruptCheckpoint, OSError.

    A link is the very file that its writer hashed; only its size is looked at, and the engine verifies what it loads.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        digest = link_or_copy(source, temporary)
        size = temporary.stat().st_size
        if entry is not None and (size != entry.size or digest not in {None, entry.sha256}):
            raise CorruptCheckpoint(f"{source} is not the checkpoint that its manifest names")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
