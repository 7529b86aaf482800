"""Reports an engine's events to the server: in order, in batches, none lost while it is unavailable."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

import structlog

from rvc_engine.errors import ArtifactInvalid, DiskFull, EngineError
from rvc_engine.events import ArtifactReady, Event, PreviewReady, Warned
from rvc_engine.workspace.disk import is_disk_full
from worker.gateway.errors import first_line, is_transient
from worker.gateway.interface import JobLease
from worker.reporting.spool import Spool

logger = structlog.get_logger(__name__)

BATCH = 500
"""Largest number of events in a batch, so that a backlog of hours is written in short transactions."""


class _OutsideWorkspace(Exception):
    """An event names a file that is not in the workspace."""


class EventReporter:
    """Queue of events that the server does not have yet."""

    def __init__(
        self,
        lease: JobLease,
        workspace: Path,
        spool: Path,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`workspace`: folder from which the engine may publish files; `spool`: file for a long backlog.

        `on_progress`: called before each file or batch.
        """
        self._on_progress = on_progress
        self._lease = lease
        self._workspace = workspace
        self._waiting = Spool(spool)
        self._is_unavailable = False
        self._num_written = 0
        """Writes that were answered; the next one has the next number, also when it is repeated."""
        self._num_sent = 0
        """Events in the last batch, while its answer is missing: it is repeated with these alone."""
        self.published: set[str] = set()
        """Kinds of the published artifacts."""
        self.rejected: EngineError | None = None
        """Error of an artifact that was not published; None without one."""

    def add(self, events: Iterable[Event]) -> None:
        """Append events, in their order."""
        for event in events:
            self._waiting.add(event)

    def close(self) -> None:
        """Discard the events that still wait."""
        self._waiting.close()

    def try_flush(self) -> None:
        """Record the waiting events; while the server or a disk is unavailable they stay. Raises LeaseLost."""
        try:
            self.flush()
        except Exception as error:
            if not (is_transient(error) or isinstance(error, OSError)):
                raise
            if not self._is_unavailable:
                logger.warning("events wait, and the engine continues", reason=first_line(error))
            self._is_unavailable = True
        else:
            self._is_unavailable = False

    def flush(self, is_wait_over: Callable[[], bool] = lambda: False) -> None:
        """Record the waiting events and publish their files. Raises transient errors, OSError, LeaseLost.

        `is_wait_over`: asked when a file cannot be stored, whether another try is out of the question. Then an artifact
        is rejected because of a full disk, and RuntimeError raised for another fault of the storage.
        """
        while waiting := self._waiting.front():
            self._on_progress()
            batch = list(islice(waiting, self._num_sent)) or _next_batch(waiting)
            self._num_sent = len(batch)
            if isinstance(first := batch[0], ArtifactReady):
                self._publish(first, is_wait_over)
            elif isinstance(first, PreviewReady):
                self._publish_preview(first, is_wait_over)
            else:
                self._record(batch)
            for _ in batch:
                waiting.popleft()
            self._num_sent = 0
            self._num_written += 1

    def _record(self, events: Sequence[Event]) -> None:
        self._lease.record(events, self._num_written + 1)

    def _publish(self, artifact: ArtifactReady, is_wait_over: Callable[[], bool]) -> None:
        """Have a file of the workspace published as an artifact."""
        try:
            self._check_place(artifact.path)
            self._record([artifact])
        except ArtifactInvalid as error:
            self.rejected = error
        except (_OutsideWorkspace, OSError) as error:
            message = f"{artifact.name} cannot be published: {error}"
            if isinstance(error, _OutsideWorkspace) or not Path(artifact.path).is_file():
                self.rejected = ArtifactInvalid(message)
            elif not is_wait_over():
                raise
            elif is_disk_full(error):
                self.rejected = DiskFull(message)
            else:
                raise RuntimeError(message) from error
        else:
            self.published.add(artifact.kind)

    def _publish_preview(self, preview: PreviewReady, is_wait_over: Callable[[], bool]) -> None:
        """Have a preview's files published; a missing one gives a warning."""
        try:
            for path in (preview.audio, preview.picture, preview.recording):
                self._check_place(path)
            self._record([preview])
        except (_OutsideWorkspace, OSError) as error:
            if is_transient(error) and not is_wait_over():
                raise
            warning = f"the preview of step {preview.step} cannot be published: {error}"
            self._record([Warned(message=warning, stage="train")])

    def _check_place(self, path: str) -> None:
        if not Path(path).resolve().is_relative_to(self._workspace.resolve()):
            raise _OutsideWorkspace("its path is outside the job's workspace")


def _next_batch(waiting: Iterable[Event]) -> list[Event]:
    """The next batch; an event that names files stands alone."""
    batch: list[Event] = []
    for event in waiting:
        names_files = isinstance(event, ArtifactReady | PreviewReady)
        if len(batch) == BATCH or (batch and names_files):
            break
        batch.append(event)
        if names_files:
            break
    return batch
