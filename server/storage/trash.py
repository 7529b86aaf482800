"""Trash for orphaned files, which are deleted some days after they were moved there.

    trash/<time of arrival>/<kind>/<name>    such as trash/20261128T101500Z/datasets/ds_...

The path has the time of arrival, because a moved file keeps its own times. To restore a file, move it back. The data
folder and each worker's scratch folder have a trash.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

logger = structlog.get_logger(__name__)

NAME = "trash"
SECONDS_UNTOUCHED = 3600
"""Time without changes before a file may be moved to the trash: newer ones may still be in use."""
_STAMP = "%Y%m%dT%H%M%SZ"
_utc_now = partial(datetime.now, UTC)


@dataclass(frozen=True)
class TrashEntry:
    """A file or folder in the trash."""

    path: Path
    arrived_at: datetime


class Trash:
    """The trash of one folder."""

    def __init__(self, root: Path, clock: Callable[[], datetime] = _utc_now) -> None:
        self.folder = root / NAME
        self._clock = clock

    def add(self, path: Path, kind: str) -> bool:
        """Move a file or folder to the trash; False, with a log line, if that fails."""
        target = self.folder / self._clock().astimezone(UTC).strftime(_STAMP) / kind / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        except OSError as error:  # it was deleted, or is on another disk
            logger.warning("orphan not moved to the trash", path=str(path), reason=str(error))
            return False
        logger.warning("orphan moved to the trash", path=str(path), now=str(target))
        return True

    def entries(self) -> list[TrashEntry]:
        """All entries, in the order of arrival."""
        return [
            TrashEntry(path, arrived_at)
            for arrived_at, batch in sorted(self._batches())
            for path in sorted(batch.glob("*/*"))
        ]

    def overdue(self, days: float) -> list[TrashEntry]:
        """Entries older than `days`."""
        oldest = self._clock() - timedelta(days=days)
        return [each for each in self.entries() if each.arrived_at < oldest]

    def empty(self, days: float) -> None:
        """Delete entries older than `days`."""
        oldest = self._clock() - timedelta(days=days)
        for arrived_at, batch in self._batches():
            if arrived_at < oldest:
                shutil.rmtree(batch, ignore_errors=True)
                logger.info("deleted from the trash", path=str(batch))

    def _batches(self) -> list[tuple[datetime, Path]]:
        batches = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(ValueError):  # not created by `add`
                batches.append((datetime.strptime(path.name, _STAMP).replace(tzinfo=UTC), path))
        return batches


def is_untouched(path: Path, now: datetime, seconds: float = SECONDS_UNTOUCHED) -> bool:
    """Whether a file or folder, and everything in it, has been unchanged for `seconds`."""
    newest = now.timestamp() - seconds
    try:
        if _changed_at(path) > newest:
            return False
        if not path.is_dir():
            return True
        for parent, folders, files in os.walk(path, onerror=_raise):
            if any(_changed_at(Path(parent) / name) > newest for name in (*folders, *files)):
                return False
    except OSError:  # it is changing now
        return False
    return True


def _changed_at(path: Path) -> float:
    found = path.lstat()
    return max(found.st_mtime, found.st_ctime)  # a copy may keep mtime, but never ctime


def _raise(error: OSError) -> None:
    raise error
