"""Retention: a policy on what is kept how long, the plan derived from it, and its application.

A plan can be inspected before anything is deleted. Unfinished jobs, and those with the label `keep`, are never deleted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from rvc_train.schemas.administration import Removal, RetentionPlan, RetentionPolicy
from rvc_train.schemas.jobs import TERMINAL_STATUSES
from server.auth.audit import record
from server.database.clock import utc_now
from server.database.engine import advisory_lock, read_session, write_session
from server.database.tables import Dataset, Job, Policy
from server.errors import Conflict, NotFound
from server.jobs.service import JobService
from server.storage.local import Storage
from server.storage.sizes import JobSizes, size_of

logger = structlog.get_logger(__name__)

KEEP_LABEL = "keep"
_NAME = "retention"


class Retention:
    """Retention of one server."""

    def __init__(self, job_service: JobService, storage: Storage, clock: Callable[[], datetime] = utc_now) -> None:
        self._jobs = job_service
        self._storage = storage
        self._clock = clock
        self._sizes = JobSizes(job_service.engine, storage, clock)

    def policy(self) -> RetentionPolicy:
        """The current policy; by default everything is kept."""
        with read_session(self._jobs.engine) as session:
            row = session.get(Policy, _NAME)
        return RetentionPolicy() if row is None else RetentionPolicy.model_validate(row.value)

    def set_policy(self, policy: RetentionPolicy) -> None:
        """Replace the policy. It is applied by the next periodic run, or by `apply`."""
        with write_session(self._jobs.engine) as session:
            advisory_lock(session, "retention policy")
            record(session, "retention.changed", _NAME, **policy.model_dump())
            session.merge(Policy(name=_NAME, value=policy.model_dump(mode="json"), changed_at=self._clock()))

    def plan(self, policy: RetentionPolicy | None = None) -> RetentionPlan:
        """List what the policy (None: the current one) would delete now, without deleting it."""
        policy = policy or self.policy()
        ended = self._ended_jobs()
        expired = _expired(ended, policy, self._clock())
        reason = _job_reason(policy)
        removals = [self._removal("job", job, [self._storage.job_home(job.id)], reason) for job in expired]
        expired_ids = {job.id for job in expired}
        kept = [job for job in ended if job.id not in expired_ids]
        removals += self._old_workspaces(policy, kept)
        removals += self._free_space_removals(policy, kept, removals)
        return RetentionPlan(removals=removals, freed_bytes=sum(removal.size for removal in removals))

    def apply(self, plan: RetentionPlan | None = None) -> RetentionPlan:
        """Apply a plan (None: that of the current policy), except to what has changed since."""
        plan = plan or self.plan()
        for removal in plan.removals:
            try:
                self._remove(removal)
            except (Conflict, NotFound) as error:
                logger.info("retention skipped", id=removal.id, reason=str(error))
                continue
            logger.info("retention deleted", kind=removal.kind, id=removal.id, why=removal.why, bytes=removal.size)
        return plan

    def _remove(self, removal: Removal) -> None:
        """Delete what a plan names. Raises Conflict or NotFound where that may no longer be deleted."""
        match removal.kind:
            case "job":
                self._jobs.delete(removal.id, keep_label=KEEP_LABEL)
                self._storage.delete_job(removal.id)
            case "workspace":
                if (job := self._jobs.get(removal.id)).finished_at is None or KEEP_LABEL in job.labels:
                    raise Conflict("the job has not ended, or is to be kept")
                self._storage.delete_workspace(removal.id)
                self._sizes.invalidate(removal.id)
            case "cache":
                self._delete_cache(removal.id)

    def _delete_cache(self, dataset_id: str) -> None:
        """Delete a dataset's stage results. Raises Conflict when a job needs them."""
        with self._storage.incoming_folder() as folder, write_session(self._jobs.engine) as session:
            session.get(Dataset, dataset_id, with_for_update=True)  # waits for a submission on it
            if dataset_id in self._datasets_in_use(session):
                raise Conflict("a job on the dataset has not ended")
            self._storage.take_cache(dataset_id, folder / "cache")

    def _ended_jobs(self) -> Sequence[Job]:
        """Ended jobs without the label `keep`, oldest first."""
        with read_session(self._jobs.engine) as session:
            query = select(Job).where(col(Job.status).in_(TERMINAL_STATUSES)).order_by(col(Job.number))
            return [job for job in session.exec(query).all() if KEEP_LABEL not in job.labels]

    def _old_workspaces(self, policy: RetentionPolicy, jobs: Sequence[Job]) -> Iterator[Removal]:
        """Workspaces of jobs that ended more than `workspace_days` ago."""
        if policy.workspace_days is None:
            return
        oldest = self._clock() - timedelta(days=policy.workspace_days)
        why = f"ended more than {policy.workspace_days:g} days ago"
        for job in jobs:
            if _ended_at(job) < oldest and (folders := self._workspace_folders(job)):
                yield self._removal("workspace", job, folders, why)

    def _free_space_removals(
        self, policy: RetentionPolicy, jobs: Sequence[Job], planned: Sequence[Removal]
    ) -> Iterator[Removal]:
        """Workspaces of ended jobs, then stage caches, oldest first, until `min_free_bytes` are free."""
        if policy.min_free_bytes is None:
            return
        free = self._storage.free_bytes() + sum(removal.size for removal in planned)
        done = {removal.id for removal in planned}
        why = f"less than {policy.min_free_bytes} bytes are free"
        for job in jobs:
            if free >= policy.min_free_bytes:
                return
            if job.id not in done and (folders := self._workspace_folders(job)):
                removal = self._removal("workspace", job, folders, why)
                free += removal.size
                yield removal
        with read_session(self._jobs.engine) as session:
            busy = self._datasets_in_use(session)
        for folder in sorted(self._storage.cache_folders(), key=lambda folder: folder.stat().st_mtime):
            if free >= policy.min_free_bytes:
                return
            if folder.name not in busy:
                size = size_of(folder)
                free += size
                yield Removal(kind="cache", id=folder.name, name="stage results", size=size, why=why)

    @staticmethod
    def _datasets_in_use(session: Session) -> set[str]:
        query = sa.select(col(Job.dataset_id)).where(col(Job.status).not_in(TERMINAL_STATUSES))
        return set(session.connection().execute(query).scalars())

    def _workspace_folders(self, job: Job) -> list[Path]:
        """Existing folders that `Storage.delete_workspace` deletes."""
        folders = (self._storage.workspace(job.id), *self._storage.checkpoint_folders(job.id).values())
        return [folder for folder in folders if folder.is_dir()]

    @staticmethod
    def _removal(kind: str, job: Job, folders: Sequence[Path], why: str) -> Removal:
        return Removal.model_validate(
            {"kind": kind, "id": job.id, "name": job.name, "size": size_of(*folders), "why": why}
        )


def _ended_at(job: Job) -> datetime:
    assert job.finished_at is not None  # noqa: S101 - guaranteed by a CHECK constraint
    return job.finished_at


def _expired(ended: Sequence[Job], policy: RetentionPolicy, now: datetime) -> list[Job]:
    """Ended jobs, oldest first, that neither `keep_days` nor `keep_last` keeps; none if the policy sets neither."""
    if policy.keep_days is None and policy.keep_last is None:
        return []
    expired: list[Job] = []
    num_newer = Counter[str]()
    for job in reversed(ended):
        is_young = policy.keep_days is not None and _ended_at(job) >= now - timedelta(days=policy.keep_days)
        is_last = policy.keep_last is not None and num_newer[job.owner] < policy.keep_last
        num_newer[job.owner] += 1
        if not is_young and not is_last:
            expired.append(job)
    return expired[::-1]


def _job_reason(policy: RetentionPolicy) -> str:
    reasons = []
    if policy.keep_days is not None:
        reasons.append(f"ended more than {policy.keep_days:g} days ago")
    if policy.keep_last is not None:
        reasons.append(f"not among its owner's last {policy.keep_last}")
    return " and ".join(reasons)
