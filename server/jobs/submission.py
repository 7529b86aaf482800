"""Submission of jobs: each once, and into the queue when their dataset is ready and their weights are present."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine.errors import FailureCode
from rvc_engine.pipeline.required_weights import missing_files
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import JobCreate, JobStatus, Resources, RetryFrom, with_job_defaults
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.database.engine import read_session, write_session
from server.database.tables import LOCAL_OWNER, Dataset, Job, JobConsent, new_id
from server.errors import ConsentRequired, Refused
from server.estimates.estimates import Estimator
from server.estimates.resources import least_memory_bytes
from server.job_store import idempotency
from server.job_store.events import NewEvent
from server.job_store.idempotency import IdempotentRequest
from server.job_store.leases import AT_ONCE
from server.job_store.queries import consent_missing, find_job, usable_dataset
from server.job_store.starts import Start, find_start
from server.job_store.transitions import JobStore
from server.jobs.serializers import jobs_public
from server.scheduling.resources import needs_of
from server.storage.local import Storage
from server.storage.sizes import measure_again
from server.webhooks.service import copy_webhooks, new_webhook

S = JobStatus


@dataclass(frozen=True)
class Submission:
    """Result of a submission."""

    job_id: str
    answer: str
    """The job as JSON (`JobPublic`); that of the first request, where this one repeats it."""
    is_replay: bool
    """Whether an earlier request under the same key made the job."""


@dataclass(frozen=True)
class RetryOrigin:
    """Origin of a job that retries another one."""

    job_id: str
    start_from: RetryFrom
    step: int | None
    """Step of the checkpoint that training continues from; None from the start."""
    begun_from: dict[str, Any] | None = None
    """Column `start_from` of the job that is retried, whose files the new job's folder has already."""


class Submissions:
    """Submission of jobs to one database."""

    def __init__(
        self,
        store: JobStore,
        quotas: Quotas | None,
        estimator: Estimator,
        storage: Storage | None = None,
        *,
        requires_consent: bool = False,
    ) -> None:
        """`storage`: for jobs that wait for missing weights; None: no job does.

        `requires_consent`: jobs are refused whose dataset has no consent of the speaker.
        """
        self._requires_consent = requires_consent
        self._store, self._quotas, self._estimator, self._storage = store, quotas, estimator, storage

    def submit(
        self,
        request: JobCreate,
        *,
        owner: str = LOCAL_OWNER,
        visible_owner: str | None = None,
        idempotent: IdempotentRequest | None = None,
        job_id: str | None = None,
        retry_origin: RetryOrigin | None = None,
    ) -> Submission:
        """Create a job and its answer in one transaction; a repeated idempotency key gives the first answer, for a day.

        `visible_owner`: owner of the datasets that may be used; None: anyone's. `job_id`: id of the new job, where its
        folder exists already. Raises Refused when the dataset is unknown or unusable, or the key was used for another
        request; ConsentRequired, QuotaExceeded, StorageQuotaExceeded.
        """
        job_id = job_id or new_id("job")
        if retry_origin is not None or self._storage is None or not _has_own_start(request):
            return self._submit(request, owner, visible_owner, idempotent, job_id, retry_origin, None)
        if idempotent is not None and (earlier := self.replay(idempotent)) is not None:
            return earlier  # what it started from may have been deleted since
        with read_session(self._store.engine) as session:
            start = find_start(session, request, self._storage, owner, visible_owner)
        try:
            record = place_start(self._storage, job_id, start)
            submission = self._submit(request, owner, visible_owner, idempotent, job_id, None, record)
        except BaseException:
            self._storage.delete_job(job_id)
            raise
        if submission.is_replay:
            self._storage.delete_job(job_id)
        return submission

    def _submit(
        self,
        request: JobCreate,
        owner: str,
        visible_owner: str | None,
        idempotent: IdempotentRequest | None,
        job_id: str,
        retry_origin: RetryOrigin | None,
        start_record: dict[str, Any] | None,
    ) -> Submission:
        """Insert a job whose folder has what it starts from."""
        with write_session(self._store.engine) as session:
            if idempotent is not None:
                idempotency.lock(session, idempotent)
                if (earlier := self._find(session, idempotent)) is not None:
                    return earlier
            dataset = usable_dataset(session, request.dataset_id, visible_owner, lock=True)
            if self._requires_consent and dataset.consent is None:
                raise ConsentRequired(consent_missing(dataset.id), "/dataset_id")
            if self._quotas is not None:
                self._quotas.check_job(session, owner)
            job = self._insert(session, request, owner, job_id, retry_origin, start_record)
            if dataset.consent is not None and job.number is not None:
                session.add(JobConsent(job_number=job.number, consent=dataset.consent))
                session.flush()
            created = NewEvent(EventType.CREATED, _created_message(job, retry_origin))
            if dataset.status == DatasetStatus.READY and job.weights_progress is None:
                self._enqueue(session, job, created)
            else:
                self._store.append_events(session, job, created)
                session.refresh(job)
            answer = self._answer(session, job)
            if idempotent is not None:
                idempotency.store(session, idempotent, job.id, answer, self._store.clock())
            return Submission(job.id, answer, is_replay=False)

    def replay(self, idempotent: IdempotentRequest) -> Submission | None:
        """The submission that an earlier request under the key made, or None. Refused for another request's key."""
        with read_session(self._store.engine) as session:
            return self._find(session, idempotent)

    def finish_dataset_validation(self, session: Session, dataset_id: str, reason: str | None) -> None:
        """Enqueue the jobs that wait only for a dataset, or fail all with `reason`; in the caller's transaction.

        That has the dataset's row locked, so no submission inserts a waiting job meanwhile.
        """
        query = select(Job).where(Job.dataset_id == dataset_id, Job.status == S.VALIDATING).order_by(col(Job.number))
        for job in session.exec(query.with_for_update()).all():
            if reason is not None:
                self._store.fail(session, job, FailureCode.INVALID_DATASET, reason)
            elif job.weights_progress is None:
                self._enqueue(session, job)

    def waiting_for_weights(self) -> Sequence[Job]:
        """The jobs that wait for weights, oldest first."""
        query = select(Job).where(Job.status == S.VALIDATING, col(Job.weights_progress).is_not(None))
        with read_session(self._store.engine) as session:
            return session.exec(query.order_by(col(Job.number))).all()

    def record_weights_progress(self, job: Job, share: float) -> None:
        """Set the share of a job's weights that is downloaded; no-op once it does not wait for them."""
        is_waiting = sa.and_(
            col(Job.number) == job.number, col(Job.status) == S.VALIDATING, col(Job.weights_progress).is_not(None)
        )
        with write_session(self._store.engine) as session:
            session.execute(sa.update(Job).where(is_waiting).values(weights_progress=share))

    def finish_fetch(self, job_id: str, reason: str | None) -> None:
        """End a job's wait for weights: it is failed with `reason`, or enqueued if its dataset is ready."""
        with write_session(self._store.engine) as session:
            dataset_id = session.exec(select(Job.dataset_id).where(Job.id == job_id)).one()
            dataset = session.get_one(Dataset, dataset_id, with_for_update={"read": True})  # locked before the job
            job = find_job(session, job_id, lock=True)
            if job.status != S.VALIDATING or job.weights_progress is None:
                return
            if reason is not None:
                self._store.fail(session, job, FailureCode.MISSING_WEIGHTS, reason)
                return
            session.execute(sa.update(Job).where(col(Job.number) == job.number).values(weights_progress=None))
            session.refresh(job)
            if dataset.status == DatasetStatus.READY:
                self._enqueue(session, job)

    def _find(self, session: Session, idempotent: IdempotentRequest) -> Submission | None:
        row = idempotency.find(session, idempotent, self._store.clock())
        if row is None:
            return None
        answer = self._answer(session, find_job(session, row.job_id)) if row.answer is None else row.answer
        return Submission(row.job_id, answer, is_replay=True)

    def _answer(self, session: Session, job: Job) -> str:
        return jobs_public(session, [job], self._estimator, self._store.clock())[0].model_dump_json()

    def _insert(
        self,
        session: Session,
        request: JobCreate,
        owner: str,
        job_id: str,
        retry_origin: RetryOrigin | None,
        start_record: dict[str, Any] | None,
    ) -> Job:
        """Add the rows of a job: its own, its webhook's and the audit entry."""
        now = self._store.clock()
        config = with_job_defaults(request.config).model_dump(mode="json")
        fields = request.model_dump(mode="json", exclude={"webhook", "config", "start_from", "resources"})
        given = request.resources.model_dump(mode="json", exclude_defaults=True)
        needs = needs_of(request.resources, least_memory_bytes(request.config))
        fields |= {"config": config, "start_from": start_record, "resources": given or None, "needs": needs.text}
        job = Job(**fields, id=job_id, owner=owner, created_at=now, not_before=AT_ONCE)
        if request.fetch_weights and self._lacks_weights(request, job_id):
            job.weights_progress = 0.0
        origin = {}
        if retry_origin is not None:
            job.retry_of, job.retry_from = retry_origin.job_id, retry_origin.start_from
            job.start_from = retry_origin.begun_from
            origin = {"retry_of": retry_origin.job_id, "from": retry_origin.start_from}
        session.add(job)
        session.flush()
        if retry_origin is not None or start_record is not None or request.config.own_base_weights is not None:
            measure_again(session, job)  # it has copies of checkpoints, or what it starts from
        if retry_origin is not None:
            copy_webhooks(session, retry_origin.job_id, job.id, now)
        if request.webhook is not None:
            session.add(new_webhook(owner, request.webhook, job.id, now))
        record(session, "job.submitted", job.id, name=job.name, dataset_id=job.dataset_id, **origin)
        return job

    def _lacks_weights(self, request: JobCreate, job_id: str) -> bool:
        storage = self._storage
        return storage is not None and bool(
            missing_files(request.config, storage.weights_folder, storage.start_files(job_id))
        )

    def _enqueue(self, session: Session, job: Job, *events: NewEvent) -> None:
        """Put a job into the queue; `events`: those before, which are numbered and written with it."""
        before = [*events, NewEvent(EventType.VALIDATED, "the dataset is usable")]
        queued = NewEvent(EventType.QUEUED, "waiting for a worker")
        self._store.transition(session, job, S.QUEUED, queued, events_before=before)


def place_start(storage: Storage, job_id: str, start: Start | None) -> dict[str, Any] | None:
    """Fill the new job's folder with what it starts from; returns the record for its row. Refused if it is gone."""
    if start is None:
        return None
    try:
        storage.place_start(job_id, start.files, start.origin)
    except FileNotFoundError as error:
        raise Refused(f"{start.origin} was deleted meanwhile; choose another start") from error
    return start.record


def _has_own_start(request: JobCreate) -> bool:
    return request.start_from is not None or request.config.own_base_weights is not None


def request_fingerprint(request: JobCreate) -> str:
    """Hash of a submission's payload."""
    defaults = {"fetch_weights": False, "start_from": None, "resources": Resources()}
    newer = {name for name, value in defaults.items() if getattr(request, name) == value}  # older keys stay valid
    return hashlib.sha256(request.model_dump_json(exclude=newer).encode()).hexdigest()


def _created_message(job: Job, retry_origin: RetryOrigin | None) -> str:
    text = f"job for the voice {job.name!r} created"
    if retry_origin is None:
        return text
    start = "the start" if retry_origin.step is None else f"the checkpoint of step {retry_origin.step}"
    return f"{text}, retrying {retry_origin.job_id} from {start}"
