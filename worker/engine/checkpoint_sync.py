"""Copies recovery checkpoints into the storage as the engine finishes them, on a thread of its own.

A copy to another disk may take minutes; neither the engine nor the reports wait for it. Only the newest is copied: one
that was overtaken meanwhile is of no use to anybody.
"""

import threading

import structlog

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.layout import Workspace
from server.results.checkpoints import CorruptCheckpoint, StoredCheckpoints

logger = structlog.get_logger(__name__)


class CheckpointSync:
    """One attempt's copies."""

    def __init__(self, stored: StoredCheckpoints, workspace: Workspace, token: int) -> None:
        self._stored, self._workspace, self._token = stored, workspace, token
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_over = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint-sync", daemon=True)
        self._thread.start()

    def schedule(self) -> None:
        """The engine has finished a checkpoint."""
        with self._changed:
            self._is_wanted = True
            self._changed.notify_all()

    def pop_error(self) -> str | None:
        """Why the last copy was not made, once."""
        with self._changed:
            error, self._error = self._error, None
            return error

    def finish(self, seconds: float) -> bool:
        """See to it that the newest checkpoint is copied, and end; whether that was done in time."""
        with self._changed:
            self._is_wanted = self._is_over = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted or self._is_over)
                if not self._is_wanted:
                    return
                self._is_wanted = False
            self._copy()

    def _copy(self) -> None:
        try:
            taken = self._stored.upload(self._workspace, self._token)
        except FileNotFoundError:  # overtaken while we looked: the engine has finished another, and tells of it
            logger.debug("a checkpoint was overtaken", workspace=str(self._workspace.root))
        except (OSError, CorruptCheckpoint, IncompatibleCheckpoint) as error:
            logger.warning("a checkpoint was not copied", reason=str(error))
            with self._changed:
                self._error = str(error)
        else:
            if taken is not None:
                logger.debug("checkpoint copied", step=taken.step)
