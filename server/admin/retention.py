"""Retention: a policy on what is kept how long, the plan derived from it, and its application.

A plan can be inspected before anything is deleted. Unfinished jobs, and those with the label `keep`, are never deleted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col

from rvc_train.schemas.administration import Removal, RetentionPlan, RetentionPolicy
from rvc_train.schemas.jobs import TERMINAL_STATUSES
from server.auth.audit import record
from server.auth.quotas import UNFINISHED
from server.database.clock import utc_now
from server.database.derived_tables import JobLabel
from server.database.engine import advisory_lock, read_session, write_session
from server.database.result_tables import StoredFileRow
from server.database.tables import Dataset, Job, Policy
from server.errors import Conflict, NotFound
from server.jobs.service import JobService
from server.storage.local import Storage
from server.storage.sizes import IS_DUE, JobSizes, size_of

logger = structlog.get_logger(__name__)

KEEP_LABEL = "keep"
_NAME = "retention"


class _EndedJob(NamedTuple):
    """Columns of a job that a plan is made from."""

    id: str
    owner: str
    name: str
    finished_at: datetime
    size: int | None
    """Bytes of its files, as last measured; None where that is due, or has never been necessary."""
    has_files: bool


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
        if policy == RetentionPolicy():
            return RetentionPlan(removals=[], freed_bytes=0)
        ended = self._ended_jobs()
        expired = _expired(ended, policy, self._clock())
        reason = _job_reason(policy)
        removals = [_removal("job", job, self._size(job), reason) for job in expired]
        expired_ids = {job.id for job in expired}
        kept = [job for job in ended if job.id not in expired_ids and job.has_files]
        removals += self._old_workspaces(policy, kept)
        removals += self._free_space_removals(policy, kept, removals)
        freed = sum(removal.size for removal in removals)
        return RetentionPlan(removals=removals, num_removals=len(removals), freed_bytes=freed)

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
                converted = self._jobs.delete(removal.id, keep_label=KEEP_LABEL)
                self._storage.delete_job(removal.id, converted)
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

    def _ended_jobs(self) -> list[_EndedJob]:
        """Ended jobs without the label `keep`, oldest first."""
        is_kept = sa.exists().where(col(JobLabel.job_number) == col(Job.number), col(JobLabel.key) == KEEP_LABEL)
        columns = (col(Job.number), col(Job.id), col(Job.owner), col(Job.name), col(Job.finished_at))
        query = sa.select(*columns).where(col(Job.status).in_(TERMINAL_STATUSES), ~is_kept).order_by(col(Job.number))
        stored = sa.select(
            col(StoredFileRow.job_number),
            sa.func.sum(col(StoredFileRow.bytes)),
            sa.func.max(sa.case((IS_DUE, 1), else_=0)),
        ).group_by(col(StoredFileRow.job_number))
        with_files = {path.name for path in self._storage.entries("jobs")}
        with read_session(self._jobs.engine) as session:
            sizes: dict[int | None, int | None] = {
                number: None if is_due else int(size) for number, size, is_due in session.connection().execute(stored)
            }
            return [
                _EndedJob(an_id, owner, name, finished_at, sizes.get(number), an_id in with_files)
                for number, an_id, owner, name, finished_at in session.connection().execute(query)
                if finished_at is not None  # as all that have ended
            ]

    def _size(self, job: _EndedJob, *folders: Path) -> int:
        """Bytes that the deletion of folders (none: of all) of a job frees: as last measured, or measured now."""
        if job.size is not None or not job.has_files:
            return job.size or 0
        return size_of(*(folders or (self._storage.job_home(job.id),)))

    def _old_workspaces(self, policy: RetentionPolicy, jobs: Sequence[_EndedJob]) -> Iterator[Removal]:
        """Workspaces of jobs that ended more than `workspace_days` ago."""
        if policy.workspace_days is None:
            return
        oldest = self._clock() - timedelta(days=policy.workspace_days)
        why = f"ended more than {policy.workspace_days:g} days ago"
        for job in jobs:
            if job.finished_at < oldest and (folders := self._workspace_folders(job.id)):
                yield _removal("workspace", job, self._size(job, *folders), why)

    def _free_space_removals(
        self, policy: RetentionPolicy, jobs: Sequence[_EndedJob], planned: Sequence[Removal]
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
            if job.id not in done and (folders := self._workspace_folders(job.id)):
                removal = _removal("workspace", job, self._size(job, *folders), why)
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
        query = sa.select(col(Job.dataset_id)).where(col(Job.status).in_(UNFINISHED)).distinct()
        return set(session.connection().execute(query).scalars())

    def _workspace_folders(self, job_id: str) -> list[Path]:
        """Existing folders that `Storage.delete_workspace` deletes."""
        folders = (self._storage.workspace(job_id), *self._storage.checkpoint_folders(job_id).values())
        return [folder for folder in folders if folder.is_dir()]


def _removal(kind: Literal["job", "workspace"], job: _EndedJob, size: int, why: str) -> Removal:
    return Removal(kind=kind, id=job.id, name=job.name, size=size, why=why)


def _expired(ended: Sequence[_EndedJob], policy: RetentionPolicy, now: datetime) -> list[_EndedJob]:
    """Ended jobs, oldest first, that neither `keep_days` nor `keep_last` keeps; none if the policy sets neither."""
    if policy.keep_days is None and policy.keep_last is None:
        return []
    expired: list[_EndedJob] = []
    num_newer = Counter[str]()
    for job in reversed(ended):
        is_young = policy.keep_days is not None and job.finished_at >= now - timedelta(days=policy.keep_days)
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
