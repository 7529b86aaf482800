"""Copies of recovery checkpoints into the storage, made on a thread of their own as the engine finishes checkpoints.

A copy to another disk may take minutes; neither the engine nor the reports wait for it. Only the newest checkpoint is
copied: the superseded ones are useless.
"""

import threading

import structlog

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.layout import Workspace
from worker.gateway.errors import LeaseLost, SettingsRefused, Unavailable
from worker.gateway.interface import JobLease

logger = structlog.get_logger(__name__)


class CheckpointSync:
    """Copies of one attempt's checkpoints."""

    def __init__(self, lease: JobLease, workspace: Workspace) -> None:
        self._lease, self._workspace = lease, workspace
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_over = False
        self._error: str | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint-sync", daemon=True)
        self._thread.start()

    def schedule(self) -> None:
        """Schedule a copy of the newest checkpoint."""
        with self._changed:
            self._is_wanted = True
            self._changed.notify_all()

    def pop_error(self) -> str | None:
        """Return the error of the last copy and clear it; None without one."""
        with self._changed:
            error, self._error = self._error, None
            return error

    def finish(self, seconds: float) -> bool:
        """Copy the newest checkpoint and end the thread; whether that took at most `seconds`."""
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
            self._lease.store_checkpoint(self._workspace)
        except (OSError, IncompatibleCheckpoint, LeaseLost, SettingsRefused, Unavailable) as error:
            logger.warning("a checkpoint was not copied", reason=str(error))
            with self._changed:
                self._error = str(error)
