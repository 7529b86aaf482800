"""Retry of a job: a new job with the old one's request, from its last checkpoint or from the start."""

from pydantic import ValidationError

from rvc_engine.checkpoints.manifest import FIXED_CHOICES, CheckpointEntry
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_train.schemas.jobs import JobCreate, JobRetry, JobStatus
from server.database.tables import Job, new_id
from server.errors import Conflict, Refused
from server.job_store.idempotency import IdempotentRequest
from server.jobs.service import JobService
from server.jobs.submission import Render, RetryOrigin
from server.results.checkpoints import CorruptCheckpoint, StoredCheckpoints
from server.storage.local import Storage


class RetryService:
    """Retries on one job service and one storage."""

    def __init__(self, job_service: JobService, storage: Storage) -> None:
        self._jobs = job_service
        self._storage = storage

    def retry(
        self,
        job_id: str,
        request: JobRetry,
        *,
        visible_owner: str | None,
        idempotent: IdempotentRequest | None = None,
        render: Render | None = None,
    ) -> Job:
        """Take the new job in, for the owner of the old one.

        NotFound; Conflict when the job has not ended, or there is no checkpoint to go on from; Refused for a config
        that cannot be, or not from a checkpoint; and what `JobService.submit` raises.
        """
        old = self._jobs.get(job_id)
        if not JobStatus(old.status).is_terminal:
            raise Conflict(f"the job is {old.status}; cancel it before you try it again")
        again = _retry_request(old, request)
        new_job_id = new_id("job")
        try:
            checkpoint = self._checkpoint(old, new_job_id) if request.start_from == "checkpoint" else None
            step = None if checkpoint is None else checkpoint.step
            job = self._jobs.submit(
                again,
                owner=old.owner,
                visible_owner=visible_owner,
                idempotent=idempotent,
                render=render,
                job_id=new_job_id,
                retry_origin=RetryOrigin(old.id, request.start_from, step),
            )
        except BaseException:
            self._storage.delete_job(new_job_id)
            raise
        if job.id != new_job_id:  # the same key gave an earlier job
            self._storage.delete_job(new_job_id)
        return job

    def _checkpoint(self, old: Job, new_job_id: str) -> CheckpointEntry:
        stored = StoredCheckpoints(self._storage.checkpoints(old.id))
        try:
            found = stored.copy_to(StoredCheckpoints(self._storage.checkpoints(new_job_id)))
        except (CorruptCheckpoint, IncompatibleCheckpoint, FileNotFoundError) as error:
            raise Conflict(f"the job's checkpoints are damaged ({error}); try it again from the start") from error
        if found is None:
            raise Conflict("the job left no checkpoint to go on from; try it again from the start")
        return found


def _retry_request(old: Job, request: JobRetry) -> JobCreate:
    """What the new job asks for. Refused when that cannot be."""
    changed = {name for name, value in request.config.items() if old.config.get(name) != value}
    if request.start_from == "checkpoint" and (fixed := sorted(changed & FIXED_CHOICES)):
        raise Refused(
            f"{', '.join(fixed)} cannot change when training goes on from a checkpoint; try the job again from the "
            "start, which repeats no preparation that is the same",
            f"/config/{fixed[0]}",
        )
    try:
        config = TrainingConfig.model_validate({**old.config, **request.config})
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"/{part}" for part in first["loc"])
        raise Refused(str(first["msg"]).removeprefix("Value error, "), f"/config{place}") from error
    return JobCreate(
        name=old.name,
        dataset_id=old.dataset_id,
        config=config,
        priority=old.priority,
        labels=dict(old.labels),
        max_attempts=old.max_attempts,
        max_duration_seconds=old.max_duration_seconds,
    )
