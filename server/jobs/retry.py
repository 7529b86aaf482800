"""Retry of a job: a new job with the old one's request, from its last checkpoint or from the start."""

from typing import Any

from pydantic import ValidationError

from rvc_engine.checkpoints.manifest import FIXED_CHOICES, CheckpointEntry
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_train.schemas.jobs import JobCreate, JobRetry, JobStatus, Resources
from server.database.engine import read_session
from server.database.tables import Job, new_id
from server.errors import Conflict, Refused
from server.job_store.idempotency import IdempotentRequest
from server.job_store.starts import find_start
from server.jobs.service import JobService
from server.jobs.submission import RetryOrigin, Submission, place_start
from server.results.checkpoints import CorruptCheckpoint, StoredCheckpoints
from server.storage.local import Storage


class RetryService:
    """Retries of jobs, with one job service and one storage."""

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
    ) -> Submission:
        """Submit a new job for the owner of the old one.

        Raises NotFound; Conflict when the job has not ended or has no checkpoint to continue from; Refused for an
        invalid config, or one that cannot continue from a checkpoint, or has no epoch left to train; and the errors of
        `JobService.submit`.
        """
        old = self._jobs.get(job_id)
        if idempotent is not None and (earlier := self._jobs.replay(idempotent)) is not None:
            return earlier  # before the checkpoint is copied
        if not JobStatus(old.status).is_terminal:
            raise Conflict(f"the job is {old.status}; cancel it before you retry it")
        create_request = _retry_request(old, request)
        _refuse_nothing_to_do(old, request, create_request.config)
        new_job_id = new_id("job")
        try:
            checkpoint = self._checkpoint(old, new_job_id) if request.start_from == "checkpoint" else None
            step = None if checkpoint is None else checkpoint.step
            begun_from = self._place_start(old, create_request, new_job_id, step)
            submission = self._jobs.submit(
                create_request,
                owner=old.owner,
                visible_owner=visible_owner,
                idempotent=idempotent,
                job_id=new_job_id,
                retry_origin=RetryOrigin(old.id, request.start_from, step, begun_from),
            )
        except BaseException:
            self._storage.delete_job(new_job_id)
            raise
        if submission.is_replay:
            self._storage.delete_job(new_job_id)
        return submission

    def _place_start(self, old: Job, request: JobCreate, job_id: str, step: int | None) -> dict[str, Any] | None:
        """Have the new job start from what the old one did, or from base weights that its changed config names."""
        if request.config.pretrained == old.config.get("pretrained"):
            self._storage.copy_start(old.id, job_id)
            if step is not None or any(self._storage.start_files(job_id)):
                return old.start_from
            if old.start_from is not None:
                raise Conflict("the save that the job started from is no longer there; submit a new job")
        if request.config.own_base_weights is not None:
            with read_session(self._jobs.engine) as session:
                start = find_start(session, request, self._storage, old.owner, old.owner)
            return place_start(self._storage, job_id, start)
        return None

    def _checkpoint(self, old: Job, new_job_id: str) -> CheckpointEntry:
        try:
            found = StoredCheckpoints(self._storage, old.id).copy_to(new_job_id)
        except (CorruptCheckpoint, IncompatibleCheckpoint, FileNotFoundError) as error:
            raise Conflict(f"the job's checkpoints are damaged ({error}); retry it from the start") from error
        if found is None:
            raise Conflict("the job has no checkpoint to continue from; retry it from the start")
        return found


def _refuse_nothing_to_do(old: Job, request: JobRetry, config: TrainingConfig) -> None:
    """Refuse to continue a training that has reached its end: the new job would train nothing."""
    if old.status != JobStatus.SUCCEEDED or old.epoch is None or request.start_from != "checkpoint":
        return
    if config.epoch_limit <= old.epoch:
        option = "max_epochs" if config.total_epochs == "auto" else "total_epochs"
        raise Refused(
            f"the job has already trained {old.epoch} epochs; set {option} higher, or retry from the start",
            f"/config/{option}",
        )
    has_converged = old.training_end is not None and old.training_end["reason"] == "no_better_save"
    if has_converged and config.total_epochs == "auto" and config.stop_share <= old.config["stop_share"]:
        raise Refused(
            f"the job ended after {old.epoch} epochs because no later save was better; set stop_share higher than "
            f"{old.config['stop_share']:g}, or total_epochs to a number above {old.epoch}, or retry from the start",
            "/config/stop_share",
        )


def _retry_request(old: Job, request: JobRetry) -> JobCreate:
    """The request for the new job. Refused when its config is invalid."""
    changed = {name for name, value in request.config.items() if old.config.get(name) != value}
    if request.start_from == "checkpoint" and (fixed := sorted(changed & FIXED_CHOICES)):
        raise Refused(
            f"{', '.join(fixed)} cannot change when training continues from a checkpoint; retry the job from the "
            "start: preparation whose settings are unchanged is not repeated",
            f"/config/{fixed[0]}",
        )
    kept = old.config
    if request.config.get("total_epochs", "auto") != "auto":  # a number has no use for what auto goes by
        kept = {name: value for name, value in kept.items() if name not in {"stop_share", "max_epochs"}}
    try:
        config = TrainingConfig.model_validate({**kept, **request.config})
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise Refused(str(first["msg"]).removeprefix("Value error, "), f"/config{pointer}") from error
    return JobCreate(
        name=old.name,
        dataset_id=old.dataset_id,
        config=config,
        priority=old.priority,
        labels=dict(old.labels),
        max_attempts=old.max_attempts,
        max_duration_seconds=old.max_duration_seconds,
        resources=Resources.model_validate(old.resources or {}),
        fetch_weights=old.fetch_weights if request.fetch_weights is None else request.fetch_weights,
    )
