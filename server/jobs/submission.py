"""Submission of jobs: each once, and into the queue when their dataset is ready."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session, col, select

from rvc_engine.errors import FailureCode
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.events import EventType
from rvc_train.schemas.jobs import JobCreate, JobStatus, RetryFrom
from server.auth.audit import record
from server.database.engine import read_session, write_session
from server.database.tables import LOCAL_OWNER, Job, new_id
from server.job_store import idempotency
from server.job_store.base import JobStore
from server.job_store.events import NewEvent
from server.job_store.idempotency import IdempotentRequest
from server.job_store.lookups import usable_dataset
from server.webhooks.service import new_webhook

S = JobStatus

Render = Callable[[Session, Job], str]
"""Makes the answer to a submission, in its transaction."""


@dataclass(frozen=True)
class RetryOrigin:
    """What a new job tries again."""

    job_id: str
    start_from: RetryFrom
    step: int | None
    """Of the checkpoint that it goes on from."""


class Submissions(JobStore):
    """Jobs on their way in."""

    def submit(
        self,
        request: JobCreate,
        *,
        owner: str = LOCAL_OWNER,
        visible_owner: str | None = None,
        idempotent: IdempotentRequest | None = None,
        render: Render | None = None,
        job_id: str | None = None,
        retry_origin: RetryOrigin | None = None,
    ) -> Job:
        """Create a job. The same idempotency key with the same request gives the same job again for a day.

        `visible_owner`: whose datasets may be used; None: anyone's. `render` makes the answer to store under the key.
        `job_id`: the new one's, where its folder is there already. Raises Refused when the dataset is unknown or
        unusable, or the key was used for another request; QuotaExceeded.
        """
        with write_session(self.engine) as session:
            if idempotent is not None and (existing := self._find_replayed(session, idempotent)) is not None:
                return existing
            dataset = usable_dataset(session, request.dataset_id, visible_owner)
            if self._quotas is not None:
                self._quotas.check_job(session, owner)
            now = self._clock()
            fields = request.model_dump(mode="json", exclude={"webhook"})
            job = Job(**fields, id=job_id or new_id("job"), owner=owner, created_at=now, not_before=now)
            if retry_origin is not None:
                job.retry_of, job.retry_from = retry_origin.job_id, retry_origin.start_from
            session.add(job)
            session.flush()
            if request.webhook is not None:
                session.add(new_webhook(owner, request.webhook, job.id, now))
            self._transitions.append_events(
                session, job, NewEvent(EventType.CREATED, _created_message(job, retry_origin))
            )
            origin = {} if retry_origin is None else {"retry_of": retry_origin.job_id, "from": retry_origin.start_from}
            record(session, "job.submitted", job.id, name=job.name, dataset_id=job.dataset_id, **origin)
            if dataset.status == DatasetStatus.READY:
                self._enqueue_validated(session, job)
            session.refresh(job)
            if idempotent is not None:
                answer = None if render is None else render(session, job)
                idempotency.store(session, idempotent, job.id, answer, now)
            return job

    def stored_response(self, idempotent: IdempotentRequest) -> str | None:
        """What a request under the key was answered with, if there was one. Refused when it was another request."""
        with read_session(self.engine) as session:
            row = idempotency.find(session, idempotent, self._clock())
            return None if row is None else row.answer

    def _find_replayed(self, session: Session, idempotent: IdempotentRequest) -> Job | None:
        row = idempotency.find(session, idempotent, self._clock())
        if row is None:
            return None
        job = session.exec(select(Job).where(Job.id == row.job_id)).first()
        if job is None:  # deleted in the meantime: the key is free again
            session.delete(row)
            session.flush()
        return job

    # For the dataset's report

    def finish_dataset_validation(self, session: Session, dataset_id: str, reason: str | None) -> None:
        """Let the jobs that waited for a dataset's report go on, or fail with `reason`; in the caller's transaction."""
        query = select(Job).where(Job.dataset_id == dataset_id, Job.status == S.VALIDATING).order_by(col(Job.number))
        for job in session.exec(query.with_for_update()).all():
            if reason is None:
                self._enqueue_validated(session, job)
            else:
                self._transitions.fail(session, job, FailureCode.INVALID_DATASET, reason)

    def _enqueue_validated(self, session: Session, job: Job) -> None:
        self._transitions.append_events(session, job, NewEvent(EventType.VALIDATED, "the dataset is usable"))
        self._transitions.transition(session, job, S.QUEUED, NewEvent(EventType.QUEUED, "waiting for a worker"))


def request_fingerprint(request: JobCreate) -> str:
    """Stands for a submission's payload."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def _created_message(job: Job, retry_origin: RetryOrigin | None) -> str:
    text = f"job for the voice {job.name!r} created"
    if retry_origin is None:
        return text
    how = "from the start" if retry_origin.step is None else f"from the checkpoint of step {retry_origin.step}"
    return f"{text}, trying {retry_origin.job_id} again {how}"
