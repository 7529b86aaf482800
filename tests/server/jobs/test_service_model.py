"""The job service against a model of it: its promises hold for all actions in any order."""

import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import col, select

from rvc_engine.errors import FailureCode
from rvc_engine.events import Progress
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import LEASED_STATUSES, JobCreate, JobStatus
from server.database.engine import create_engine, read_session, write_session
from server.database.tables import Attempt, Dataset, Event, Job, new_id
from server.errors import Conflict, LeaseLost, NothingPublished
from server.job_store.leases import Lease
from server.job_store.transitions import TRANSITIONS
from server.jobs.service import JobService

S = JobStatus
CODES = st.sampled_from([FailureCode.ENGINE_CRASHED, FailureCode.GPU_OUT_OF_MEMORY, FailureCode.DIVERGED])
MAX_RECOVERIES = 2
MAX_JOBS = 2
"""Few, so that a run stays with one job: claimed, lost, claimed again, while its old workers are still alive."""


class JobServiceMachine(RuleBasedStateMachine):
    """Jobs and workers with all actions of users and workers, stale workers included."""

    empty_database: Path
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.empty_database, self.folder / "rvc-train.db")
        self.engine = create_engine(f"sqlite:///{self.folder / 'rvc-train.db'}")
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.service = JobService(self.engine, lambda: self.now, retry_delay_seconds=10, max_recoveries=MAX_RECOVERIES)
        self.seen: dict[str, Any] = {}
        """The last observed row of each job."""
        self.holders: dict[str, Lease] = {}
        """The valid lease on each job."""
        self.published: set[str] = set()
        self.num_stale = 0
        self.losses_while_pausing: Counter[str] = Counter()
        """By job: such a loss is counted, and the job is paused as it was asked to, also beyond the limit."""

    def teardown(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.folder)

    @initialize()
    def two_workers(self) -> None:
        self.workers = [self.service.register_worker(f"worker {n}", n, "here", "cpu") for n in range(2)]

    # What people do

    @precondition(lambda self: len(self.seen) < MAX_JOBS)
    @rule(
        target=jobs,
        is_ready=st.sampled_from([True, True, True, False]),
        priority=st.integers(-2, 2),
        max_attempts=st.integers(1, 3),
    )
    def submit(self, is_ready: bool, priority: int, max_attempts: int) -> str:
        status = DatasetStatus.READY if is_ready else DatasetStatus.VALIDATING
        row = Dataset(
            id=new_id("ds"), name="a", sha256=new_id("x"), size=1, num_files=1, status=status, created_at=self.now
        )
        with write_session(self.engine) as session:
            session.add(row)
        request = JobCreate(name="a", dataset_id=row.id, priority=priority, max_attempts=max_attempts)
        return self.service.submit(request).job_id

    @rule(job_id=jobs, what=st.sampled_from(["pause", "resume", "resume", "cancel", "force_fail"]))
    def ask(self, job_id: str, what: str) -> None:
        before = self.status(job_id)
        try:
            if what == "force_fail":
                self.service.force_fail(job_id, "the administrator said so")
            else:
                getattr(self.service, what)(job_id)
        except Conflict:
            assert self.status(job_id) is before
        if self.status(job_id) not in LEASED_STATUSES:
            self.holders.pop(job_id, None)

    @rule(job_id=jobs, reason=st.sampled_from([None, "there is no speech"]))
    def settle(self, job_id: str, reason: str | None) -> None:
        with write_session(self.engine) as session:
            dataset_id = session.exec(select(Job.dataset_id).where(Job.id == job_id)).one()
            self.service.finish_dataset_validation(session, dataset_id, reason)

    # What workers do

    @rule(target=claims, number=st.integers(0, 1))
    def claim(self, number: int) -> Any:
        waiting = self.waiting()
        lease = self.service.claim(self.workers[number])
        if lease is None:
            assert waiting == []
            return multiple()
        assert lease.job_id == waiting[0]  # by priority, then by order of submission
        assert lease.job_id not in self.holders
        self.holders[lease.job_id] = lease
        return lease

    @rule(lease=claims, step=st.integers(1, 9))
    def report(self, lease: Lease, step: int) -> None:
        event = Progress(stage="train", stage_progress=0.5, progress=0.5, step=step)
        self.attempt(lease, lambda: self.service.record_events(lease, [event]))

    @rule(lease=claims)
    def heartbeat(self, lease: Lease) -> None:
        self.attempt(lease, lambda: self.service.heartbeat(lease))

    @rule(lease=claims)
    def publish(self, lease: Lease) -> None:
        if self.attempt(lease, lambda: self.service.publish_artifact(lease, "voice", "a.pth", "x", 1, "00")):
            self.published.add(lease.job_id)

    @rule(lease=claims)
    def succeed(self, lease: Lease) -> None:
        try:
            ended = self.attempt(lease, lambda: self.service.succeed(lease))
        except NothingPublished:
            assert lease.job_id not in self.published
            return
        if ended:
            assert self.status(lease.job_id) is S.SUCCEEDED
            del self.holders[lease.job_id]

    @rule(lease=claims, code=CODES)
    def fail(self, lease: Lease, code: FailureCode) -> None:
        if self.attempt(lease, lambda: self.service.fail(lease, code, "it failed")):
            del self.holders[lease.job_id]

    @rule(lease=claims)
    def release(self, lease: Lease) -> None:
        if self.attempt(lease, lambda: self.service.release(lease, "draining")):
            del self.holders[lease.job_id]

    @rule(lease=claims)
    def hand_back(self, lease: Lease) -> None:
        if self.attempt(lease, lambda: self.service.hand_back(lease, FailureCode.INTERNAL, "an unknown error")):
            del self.holders[lease.job_id]

    @rule(number=st.integers(0, 1))
    def a_successor_finds_its_process_ended(self, number: int) -> None:
        worker_id = self.workers[number]
        held = {job_id for job_id, lease in self.holders.items() if lease.worker_id == worker_id}
        assert set(self.service.requeue_worker(worker_id)) == held
        self.holders = {job_id: lease for job_id, lease in self.holders.items() if job_id not in held}

    # What the server does

    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        held = self.service.active_leases()
        if held:
            lost = data.draw(st.sampled_from(list(held)))
            assert self.service.requeue_lost(lost) is not None
            assert self.service.requeue_lost(lost) is None  # taken once
            del self.holders[lost.id]

    @rule(seconds=st.sampled_from([30, 1000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # What must be so, always

    @invariant()
    def the_table_is_obeyed_and_ends_are_final(self) -> None:
        with read_session(self.engine) as session:
            rows = session.exec(select(Job)).all()
        for row in rows:
            before = self.seen.get(row.id)
            after = row.model_dump()
            if before is not None:
                assert after["token"] >= before["token"], "a token fell"
                assert after["last_seq"] >= before["last_seq"]
                if S(before["status"]).is_terminal:
                    assert after == before, "a finished job changed"
                elif before["status"] != after["status"]:
                    assert self.reachable(S(before["status"]), S(after["status"]))
                if row.status == S.PAUSED and before["status"] == S.PAUSING:
                    self.losses_while_pausing[row.id] += row.recoveries - before["recoveries"]
            assert row.failures <= row.max_attempts
            assert row.recoveries <= MAX_RECOVERIES + 1 + self.losses_while_pausing[row.id]
            self.seen[row.id] = after

    @invariant()
    def a_job_has_one_owner_or_none(self) -> None:
        with read_session(self.engine) as session:
            held = session.exec(select(Job).where(col(Job.status).in_(LEASED_STATUSES))).all()
            assert {job.id: job.token for job in held} == {key: lease.token for key, lease in self.holders.items()}
            for job in held:
                running = select(Attempt).where(Attempt.job_number == job.number, col(Attempt.ended_at).is_(None))
                assert [attempt.token for attempt in session.exec(running).all()] == [job.token]

    @invariant()
    def events_are_numbered_without_a_gap(self) -> None:
        with read_session(self.engine) as session:
            for job in session.exec(select(Job)).all():
                query = select(Event.seq).where(Event.job_number == job.number).order_by(col(Event.seq))
                assert list(session.exec(query).all()) == list(range(1, job.last_seq + 1))

    @invariant()
    def every_write_that_was_turned_away_is_counted(self) -> None:
        with read_session(self.engine) as session:
            assert sum(session.exec(select(Attempt.stale_writes)).all()) == self.num_stale

    # Helpers

    def attempt(self, lease: Lease, act: Any) -> bool:
        """Perform a worker's write; whether it was accepted, which only a valid lease may be."""
        holds = self.holders.get(lease.job_id) == lease
        before = self.row(lease.job_id)
        try:
            act()
        except LeaseLost:
            assert not holds, "a valid lease was refused"
            assert self.row(lease.job_id) == before, "a stale worker wrote"
            self.num_stale += 1
            return False
        assert holds, "a stale lease was accepted"
        return True

    def waiting(self) -> list[str]:
        with read_session(self.engine) as session:
            query = select(Job.id).where(Job.status == S.QUEUED, col(Job.not_before) <= self.now)
            return list(session.exec(query.order_by(col(Job.priority).desc(), col(Job.number))).all())

    def row(self, job_id: str) -> dict[str, Any]:
        with read_session(self.engine) as session:
            return session.exec(select(Job).where(Job.id == job_id)).one().model_dump()

    def status(self, job_id: str) -> JobStatus:
        return S(self.row(job_id)["status"])

    @staticmethod
    def reachable(before: JobStatus, after: JobStatus) -> bool:
        return after in TRANSITIONS[before]


def test_the_service_keeps_its_promises_whatever_happens(empty_database: Path) -> None:
    class Machine(JobServiceMachine):
        pass

    Machine.empty_database = empty_database
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=checks)
    )


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_service_keeps_its_promises_over_thousands_of_runs(empty_database: Path) -> None:
    class Machine(JobServiceMachine):
        pass

    Machine.empty_database = empty_database
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=1500, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
