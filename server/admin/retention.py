"""What is kept how long: a policy, the plan that follows from it, and carrying it out.

A plan can be looked at before anything is deleted. Jobs that have not ended, and those with the label `keep`, are never
touched.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import col, select

from rvc_train.schemas.administration import Removal, RetentionPlan, RetentionPolicy
from rvc_train.schemas.jobs import TERMINAL_STATUSES
from server.auth.audit import record
from server.database.clock import utc_now
from server.database.engine import read_session, write_session
from server.database.tables import Job, Policy
from server.errors import Conflict, NotFound
from server.jobs.service import JobService
from server.storage.local import Storage
from server.storage.sizes import JobSizes, size_of

logger = structlog.get_logger(__name__)

KEEP_LABEL = "keep"
_NAME = "retention"


class Retention:
    """The policy of one server."""

    def __init__(self, job_service: JobService, storage: Storage, clock: Callable[[], datetime] = utc_now) -> None:
        self._jobs = job_service
        self._storage = storage
        self._clock = clock
        self._sizes = JobSizes(job_service.engine, storage, clock)

    def policy(self) -> RetentionPolicy:
        """The present policy; by default everything is kept."""
        with read_session(self._jobs.engine) as session:
            row = session.get(Policy, _NAME)
        return RetentionPolicy() if row is None else RetentionPolicy.model_validate(row.value)

    def set_policy(self, policy: RetentionPolicy) -> None:
        """Replace the policy. It is carried out within the hour, or by `apply`."""
        with write_session(self._jobs.engine) as session:
            record(session, "retention.changed", _NAME, **policy.model_dump())
            session.merge(Policy(name=_NAME, value=policy.model_dump(mode="json"), changed_at=self._clock()))

    def plan(self, policy: RetentionPolicy | None = None) -> RetentionPlan:
        """What the policy (None: the present one) would delete now. Deletes nothing."""
        policy = policy or self.policy()
        ended = self._ended_jobs()
        jobs = [job for job in ended if not _is_kept(job, policy, ended, self._clock())]
        removals = [self._removal("job", job, [self._storage.job_home(job.id)], _job_reason(policy)) for job in jobs]
        gone = {job.id for job in jobs}
        left = [job for job in ended if job.id not in gone]
        if policy.workspace_days is not None:
            oldest = self._clock() - timedelta(days=policy.workspace_days)
            why = f"ended more than {policy.workspace_days:g} days ago"
            for job in left:
                if _ended_at(job) < oldest and (folders := self._workspace_folders(job)):
                    removals.append(self._removal("workspace", job, folders, why))
        removals += self._free_space_removals(policy, left, removals)
        return RetentionPlan(removals=removals, freed_bytes=sum(removal.size for removal in removals))

    def apply(self, plan: RetentionPlan | None = None) -> RetentionPlan:
        """Carry a plan out (None: the present policy's). What changed in the meantime is left alone."""
        plan = plan or self.plan()
        for removal in plan.removals:
            try:
                self._remove(removal)
            except (Conflict, NotFound) as error:
                logger.info("retention left something alone", id=removal.id, reason=str(error))
                continue
            logger.info("retention deleted", kind=removal.kind, id=removal.id, why=removal.why, bytes=removal.size)
        return plan

    def _remove(self, removal: Removal) -> None:
        match removal.kind:
            case "job":
                self._jobs.delete(removal.id)
                self._storage.delete_job(removal.id)
            case "workspace":
                if self._jobs.get(removal.id).finished_at is None:
                    raise Conflict("the job is not at its end")
                self._storage.delete_workspace(removal.id)
                self._sizes.invalidate(removal.id)
            case "cache":
                self._storage.delete_cache(removal.id)

    def _ended_jobs(self) -> Sequence[Job]:
        """Oldest first, without those that someone asked to keep."""
        with read_session(self._jobs.engine) as session:
            query = select(Job).where(col(Job.status).in_(TERMINAL_STATUSES)).order_by(col(Job.number))
            return [job for job in session.exec(query).all() if KEEP_LABEL not in job.labels]

    def _free_space_removals(
        self, policy: RetentionPolicy, jobs: Sequence[Job], planned: Sequence[Removal]
    ) -> Iterator[Removal]:
        """Workspaces of ended jobs, then stage caches, oldest first, until the disk has the free space wanted."""
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
        busy = self._datasets_in_use()
        for folder in sorted(self._storage.cache_folders(), key=lambda folder: folder.stat().st_mtime):
            if free >= policy.min_free_bytes:
                return
            if folder.name not in busy:
                size = size_of(folder)
                free += size
                yield Removal(kind="cache", id=folder.name, name="stage results", size=size, why=why)

    def _datasets_in_use(self) -> set[str]:
        with read_session(self._jobs.engine) as session:
            query = sa.select(col(Job.dataset_id)).where(col(Job.status).not_in(TERMINAL_STATUSES))
            return set(session.connection().execute(query).scalars())

    def _workspace_folders(self, job: Job) -> list[Path]:
        """What `Storage.delete_workspace` deletes, as far as it is there."""
        folders = (self._storage.workspace(job.id), self._storage.checkpoints(job.id))
        return [folder for folder in folders if folder.is_dir()]

    @staticmethod
    def _removal(kind: str, job: Job, folders: Sequence[Path], why: str) -> Removal:
        return Removal.model_validate(
            {"kind": kind, "id": job.id, "name": job.name, "size": size_of(*folders), "why": why}
        )


def _ended_at(job: Job) -> datetime:
    assert job.finished_at is not None  # noqa: S101 - a CHECK constraint holds it
    return job.finished_at


def _is_kept(job: Job, policy: RetentionPolicy, ended: Sequence[Job], now: datetime) -> bool:
    """Young enough, or among its owner's last; kept for ever where the policy says neither."""
    if policy.keep_days is None and policy.keep_last is None:
        return True
    if policy.keep_days is not None and _ended_at(job) >= now - timedelta(days=policy.keep_days):
        return True
    if policy.keep_last is None:
        return False
    mine = [each.id for each in ended if each.owner == job.owner]
    return job.id in mine[max(0, len(mine) - policy.keep_last) :]


def _job_reason(policy: RetentionPolicy) -> str:
    reasons = []
    if policy.keep_days is not None:
        reasons.append(f"ended more than {policy.keep_days:g} days ago")
    if policy.keep_last is not None:
        reasons.append(f"not among its owner's last {policy.keep_last}")
    return " and ".join(reasons)
