"""Recording of a worker's batch of events; one that names files is published with them."""

from collections.abc import Callable, Sequence

from rvc_engine.events import ArtifactReady, Event, PreviewReady
from server.job_store.leases import Lease
from server.jobs.service import JobService
from server.results.evaluations import PreviewFiles
from server.storage.local import StoredFile


def record_batch(
    jobs: JobService, lease: Lease, events: Sequence[Event], write: int, store: Callable[[str, str | None], StoredFile]
) -> None:
    """Record a batch; one event that names files stands alone. `store`: stores the file that an event names, with its
    name for users.

    Raises ArtifactInvalid for a file that is not the announced one, LeaseLost, and the errors of `store`.
    """
    match events:
        case [ArtifactReady() as artifact]:
            file = store(artifact.path, artifact.name)
            artifact.check(file.size, file.sha256)
            kind, name = artifact.kind, artifact.name
            jobs.publish_artifact(lease, kind, name, file.path, file.size, file.sha256, write=write)
        case [PreviewReady() as preview]:
            files = PreviewFiles(*(store(path, None) for path in (preview.audio, preview.picture, preview.recording)))
            jobs.publish_preview(lease, preview, files, write=write)
        case _:
            jobs.record_events(lease, events, write=write)
