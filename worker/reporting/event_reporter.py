"""Reports an engine's events to the job store: in order, in batches, none lost while the database is unavailable."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import structlog

from rvc_engine.errors import ArtifactInvalid, DiskFull, EngineError
from rvc_engine.events import ArtifactReady, Event, PreviewReady, Warned
from rvc_engine.workspace.disk import is_disk_full
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.results.evaluations import PreviewFiles
from server.storage.local import Storage, StoredFile
from server.transient_errors import first_line, is_transient
from worker.reporting.spool import Spool

logger = structlog.get_logger(__name__)

BATCH = 500
"""Largest number of events in a transaction, so that a backlog of hours is written in short ones."""


class EventReporter:
    """Queue of events that are not in the database yet."""

    def __init__(
        self,
        job_service: JobService,
        storage: Storage,
        lease: Lease,
        workspace: Path,
        spool: Path,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`workspace`: folder from which the engine may publish files; `spool`: file for a long backlog.

        `on_progress`: called before each file or batch.
        """
        self._on_progress = on_progress
        self._jobs = job_service
        self._storage = storage
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
        """Record the waiting events; while the database or the storage is unavailable they stay. Raises LeaseLost."""
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
            if isinstance(first := waiting[0], ArtifactReady):
                self._publish(first, is_wait_over)
                waiting.popleft()
            elif isinstance(first, PreviewReady):
                self._publish_preview(first, is_wait_over)
                waiting.popleft()
            else:
                batch = list(islice(waiting, self._num_sent)) or _next_batch(waiting)
                self._num_sent = len(batch)
                self._jobs.record_events(self._lease, batch, write=self._num_written + 1)
                for _ in batch:
                    waiting.popleft()
                self._num_sent = 0
            self._num_written += 1

    def _publish(self, artifact: ArtifactReady, is_wait_over: Callable[[], bool]) -> None:
        """Check a file of the workspace, copy it into the storage, and record it as an artifact."""
        try:
            self._check_place(artifact.path)
            stored = self._store(artifact.path)
        except (ArtifactInvalid, OSError) as error:
            message = f"{artifact.name} cannot be published: {error}"
            if isinstance(error, ArtifactInvalid) or not Path(artifact.path).is_file():
                self.rejected = ArtifactInvalid(message)
            elif not is_wait_over():
                raise
            elif is_disk_full(error):
                self.rejected = DiskFull(message)
            else:
                raise RuntimeError(message) from error
            return
        if (stored.size, stored.sha256) != (artifact.size, artifact.sha256):
            self.rejected = ArtifactInvalid(
                f"{artifact.name} changed after the engine checked it ({stored.size} bytes with sha256 "
                f"{stored.sha256}, announced {artifact.size} with {artifact.sha256}); submit the job again"
            )
            return
        self._jobs.publish_artifact(
            self._lease,
            artifact.kind,
            artifact.name,
            stored.path,
            stored.size,
            stored.sha256,
            write=self._num_written + 1,
        )
        self.published.add(artifact.kind)

    def _publish_preview(self, preview: PreviewReady, is_wait_over: Callable[[], bool]) -> None:
        """Copy a preview's files into the storage and record it; a missing file gives a warning."""
        try:
            paths = (preview.audio, preview.picture, preview.recording)
            for path in paths:
                self._check_place(path)
            stored = [self._store(path) for path in paths]
        except (ArtifactInvalid, OSError) as error:
            if is_transient(error) and not is_wait_over():
                raise
            warning = f"the preview of step {preview.step} cannot be published: {error}"
            warned = Warned(message=warning, stage="train")
            self._jobs.record_events(self._lease, [warned], write=self._num_written + 1)
            return
        self._jobs.publish_preview(self._lease, preview, PreviewFiles(*stored), write=self._num_written + 1)

    def _store(self, path: str) -> StoredFile:
        return self._storage.store_artifact(self._lease.job_id, self._lease.token, Path(path))

    def _check_place(self, path: str) -> None:
        if not Path(path).resolve().is_relative_to(self._workspace.resolve()):
            raise ArtifactInvalid("its path is outside the job's workspace")


def _next_batch(waiting: Iterable[Event]) -> list[Event]:
    batch: list[Event] = []
    for event in waiting:
        if isinstance(event, ArtifactReady | PreviewReady) or len(batch) == BATCH:
            break
        batch.append(event)
    return batch
