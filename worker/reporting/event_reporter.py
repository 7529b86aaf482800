"""Reports an engine's events to the job store: in order, in batches, none lost while the database is unavailable."""

from collections.abc import Iterable
from pathlib import Path

import structlog

from rvc_engine.errors import ArtifactInvalid, DiskFull, EngineError
from rvc_engine.events import ArtifactReady, Event, PreviewReady, Warned
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.results.evaluations import PreviewFiles
from server.storage.local import Storage, StoredFile, is_disk_full
from worker.reporting.retry import DATABASE_UNAVAILABLE, first_line
from worker.reporting.spool import Spool

logger = structlog.get_logger(__name__)

BATCH = 500
"""Largest number of events in a transaction, so that a backlog of hours is written in short ones."""


class EventReporter:
    """Queue of events that are not in the database yet."""

    def __init__(self, job_service: JobService, storage: Storage, lease: Lease, workspace: Path, spool: Path) -> None:
        """`workspace`: folder from which the engine may publish files; `spool`: file for a long backlog."""
        self._jobs = job_service
        self._storage = storage
        self._lease = lease
        self._workspace = workspace
        self._waiting = Spool(spool)
        self._is_unavailable = False
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
        """Record the waiting events; while the database is unavailable they stay. Raises LeaseLost."""
        try:
            self.flush()
        except DATABASE_UNAVAILABLE as error:
            if not self._is_unavailable:
                logger.warning("the database is unavailable; the engine continues", reason=first_line(error))
            self._is_unavailable = True
        else:
            self._is_unavailable = False

    def flush(self) -> None:
        """Record the waiting events and publish their files. Raises DATABASE_UNAVAILABLE, LeaseLost."""
        while waiting := self._waiting.front():
            if isinstance(first := waiting[0], ArtifactReady):
                self._publish(first)
                waiting.popleft()
            elif isinstance(first, PreviewReady):
                self._publish_preview(first)
                waiting.popleft()
            else:
                batch = _next_batch(waiting)
                self._jobs.record_events(self._lease, batch)
                for _ in batch:
                    waiting.popleft()

    def _publish(self, artifact: ArtifactReady) -> None:
        """Check a file of the workspace, copy it into the storage, and record it as an artifact."""
        try:
            self._check_place(artifact.path)
            stored = self._store(artifact.path)
        except (ArtifactInvalid, OSError) as error:
            is_full = isinstance(error, OSError) and is_disk_full(error)
            kind = DiskFull if is_full else ArtifactInvalid
            self.rejected = kind(f"{artifact.name} cannot be published: {error}")
            return
        if (stored.size, stored.sha256) != (artifact.size, artifact.sha256):
            self.rejected = ArtifactInvalid(
                f"{artifact.name} changed after the engine checked it ({stored.size} bytes with sha256 "
                f"{stored.sha256}, announced {artifact.size} with {artifact.sha256}); submit the job again"
            )
            return
        self._jobs.publish_artifact(self._lease, artifact.kind, artifact.name, stored.path, stored.size, stored.sha256)
        self.published.add(artifact.kind)

    def _publish_preview(self, preview: PreviewReady) -> None:
        """Copy a preview's files into the storage and record it; a missing file gives a warning."""
        try:
            paths = (preview.audio, preview.picture, preview.recording)
            for path in paths:
                self._check_place(path)
            stored = [self._store(path) for path in paths]
        except (ArtifactInvalid, OSError) as error:
            warning = f"the preview of step {preview.step} cannot be published: {error}"
            self._jobs.record_events(self._lease, [Warned(message=warning, stage="train")])
            return
        self._jobs.publish_preview(self._lease, preview, PreviewFiles(*stored))

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
