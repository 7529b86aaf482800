"""A folder for what belongs to nobody, where it lies for some days before it is deleted.

    trash/<time of arrival>/<kind>/<name>    such as trash/20261128T101500Z/datasets/ds_...

The time of arrival stands in the path, since a file that is moved keeps its own times. To bring something back, move it
back. The data folder has one, and so has each scratch folder of workers.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from server.database.clock import utc_now

logger = structlog.get_logger(__name__)

NAME = "trash"
SECONDS_UNTOUCHED = 3600
"""Only what nobody has changed for so long goes to the trash: younger things may be just on their way."""
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class TrashEntry:
    """One thing in the trash."""

    path: Path
    arrived_at: datetime


class Trash:
    """The trash of one folder."""

    def __init__(self, root: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self.folder = root / NAME
        self._clock = clock

    def add(self, path: Path, kind: str) -> bool:
        """Move a file or folder here; False, with a line in the log, where that is not possible."""
        target = self.folder / self._clock().astimezone(UTC).strftime(_STAMP) / kind / path.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        except OSError as error:  # it is gone, or lies on another disk
            logger.warning("something that belongs to nobody stays where it is", path=str(path), reason=str(error))
            return False
        logger.warning("moved to the trash: it belongs to nobody", path=str(path), now=str(target))
        return True

    def entries(self) -> list[TrashEntry]:
        """Everything here, in the order of arrival."""
        return [
            TrashEntry(path, arrived_at)
            for arrived_at, batch in sorted(self._batches())
            for path in sorted(batch.glob("*/*"))
        ]

    def overdue(self, days: float) -> list[TrashEntry]:
        """What has been here for more than so many days."""
        oldest = self._clock() - timedelta(days=days)
        return [each for each in self.entries() if each.arrived_at < oldest]

    def empty(self, days: float) -> None:
        """Delete what has been here for more than so many days."""
        oldest = self._clock() - timedelta(days=days)
        for arrived_at, batch in self._batches():
            if arrived_at < oldest:
                shutil.rmtree(batch, ignore_errors=True)
                logger.info("deleted from the trash", path=str(batch))

    def _batches(self) -> list[tuple[datetime, Path]]:
        batches = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with suppress(ValueError):  # not of our making
                batches.append((datetime.strptime(path.name, _STAMP).replace(tzinfo=UTC), path))
        return batches


def is_untouched(path: Path, now: datetime, seconds: float = SECONDS_UNTOUCHED) -> bool:
    """Whether neither a file or folder, nor anything in it, has changed or arrived there for so long."""
    newest = now.timestamp() - seconds
    try:
        if _changed_at(path) > newest:
            return False
        if not path.is_dir():
            return True
        for parent, folders, files in os.walk(path, onerror=_raise):
            if any(_changed_at(Path(parent) / name) > newest for name in (*folders, *files)):
                return False
    except OSError:  # it is being worked on
        return False
    return True


def _changed_at(path: Path) -> float:
    found = path.lstat()
    return max(found.st_mtime, found.st_ctime)  # a copy may keep the first, never the second


def _raise(error: OSError) -> None:
    raise error
