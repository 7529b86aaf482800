"""Cache of the results of slice, pitch and content, for other runs on the same recordings. No torch.

`<cache>/<stage>/<fingerprint>/<folder name>/...`, hard-linked both ways where the file system allows it, so that
nothing is stored twice. Entries appear whole or not at all: they are written under a temporary name and renamed.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import filelock

from rvc_engine.environment.files import rename
from rvc_engine.events import Stage
from rvc_engine.workspace.atomic_files import link_or_copy
from rvc_engine.workspace.disk import size_on_disk

MAX_BYTES = 20 * 2**30
"""Default limit on the size; the least recently used entries are deleted first."""


class StageCache:
    """A folder of stage results; several engines may use it at once."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def contains(self, stage: Stage, fingerprint: str) -> bool:
        """Whether the cache has a result for this fingerprint at present."""
        return (self.folder / stage / fingerprint).is_dir()

    def restore(self, stage: Stage, fingerprint: str, folders: Sequence[Path]) -> bool:
        """Fill the folders with a cached result; return False, and change nothing, when there is none."""
        entry = self.folder / stage / fingerprint
        with self._lock():
            if not entry.is_dir():
                return False
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
                _link_tree(entry / folder.name, folder)
            os.utime(entry)
        return True

    def store(self, stage: Stage, fingerprint: str, folders: Sequence[Path]) -> None:
        """Store the folders as the stage's result for this fingerprint."""
        entry = self.folder / stage / fingerprint
        with self._lock():
            if entry.is_dir():
                return
            temporary = entry.with_name(f".{fingerprint}.{os.getpid()}.tmp")
            try:
                for folder in folders:
                    _link_tree(folder, temporary / folder.name)
                rename(temporary, entry)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._evict(entry)

    def _evict(self, newest: Path) -> None:
        entries = [path for stage in self.folder.iterdir() if stage.is_dir() for path in stage.iterdir()]
        sizes = {path: size_on_disk(path) for path in sorted(entries, key=lambda path: path.stat().st_mtime)}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= self.max_bytes:
                return
            if path != newest:
                shutil.rmtree(path, ignore_errors=True)
                total -= size

    def _lock(self) -> filelock.BaseFileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".lock")


def _link_tree(source: Path, target: Path) -> None:
    """Copy a flat folder by hard links, or by copies across file systems."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        link_or_copy(file, target / file.name)
