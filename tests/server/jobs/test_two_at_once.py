"""Every pair of actions at once on PostgreSQL: one stops between its reads and its writes while the other one runs.

On SQLite there is nothing to test: a transaction that may write has the database for itself from its first statement.
"""

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col, select

from rvc_engine.errors import FailureCode
from rvc_engine.events import Warned
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from rvc_train.schemas.jobs import LEASED_STATUSES, TERMINAL_STATUSES, JobCreate, JobPatch, JobRetry, JobStatus
from rvc_train.schemas.workers import Drain
from server.auth.quotas import Quotas
from server.auth.tokens import TokenService
from server.database.clock import utc_now
from server.database.engine import create_engine, migrate, read_session, write_session
from server.database.result_tables import Artifact
from server.database.tables import Attempt, Dataset, Event, Job, QuotaRow, SpentHours, new_id
from server.datasets.service import DatasetService
from server.errors import ServerError
from server.job_store.idempotency import IdempotentRequest
from server.job_store.leases import ActiveLease, Lease
from server.job_store.transitions import TRANSITIONS
from server.jobs.retry import RetryService
from server.jobs.service import JobService, QueuedJob
from server.settings import ServerSettings
from server.storage.local import Storage

S = JobStatus
OWNER = "anna"
WAIT_SECONDS = 30


class Gate:
    """Stops the action of an engine once: before its statement number `position`, or its commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self.position: int | None = None
        """None: before the first write that follows a read, or the commit where there is none."""
        self.reached, self.may_pass = threading.Event(), threading.Event()
        self.num_statements = 0
        self._is_armed = self._has_read = False
        sa.event.listen(engine, "before_cursor_execute", self._before_statement)
        sa.event.listen(engine, "commit", self._before_commit)

    def arm(self, position: int | None) -> None:
        self.position, self.num_statements, self._is_armed, self._has_read = position, 0, True, False
        self.reached.clear()
        self.may_pass.clear()

    def _before_statement(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.num_statements += 1
        is_read = statement.lstrip().startswith("SELECT")
        if (self._has_read and not is_read) if self.position is None else self.num_statements == self.position:
            self._stop()
        self._has_read |= is_read

    def _before_commit(self, _connection: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._is_armed:
            self._is_armed = False
            self.reached.set()
            assert self.may_pass.wait(WAIT_SECONDS)


class Actor:
    """One of two processes on the database."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.engine = create_engine(url)
        self.gate = Gate(self.engine)
        settings = ServerSettings(data_folder=folder)
        storage = Storage(folder)
        self.quotas = Quotas(self.engine, settings, utc_now)
        self.jobs = JobService(self.engine, retry_delay_seconds=0, quotas=self.quotas)
        self.datasets = DatasetService(self.jobs, storage)
        self.retries = RetryService(self.jobs, storage)
        self.tokens = TokenService(self.engine, utc_now, None, 1)


@dataclass
class World:
    """A dataset with a job in some state, of an owner who may have one more."""

    dataset_id: str
    job_id: str
    lease: Lease | None
    held: ActiveLease | None
    queued: QueuedJob | None
    workers: dict[str, str]
    """Registered workers, one of each actor."""


Action = Callable[[Actor, World], object]


def finish_validation(*, usable: bool) -> Action:
    report = DatasetReport(usable=usable, reason=None if usable else "it is silent")
    return lambda actor, world: actor.datasets.finish_validation(world.dataset_id, report)


def submit(actor: Actor, world: World, key: str | None = None) -> object:
    idempotent = None if key is None else IdempotentRequest(OWNER, key, "the same request")
    return actor.jobs.submit(JobCreate(name="anna", dataset_id=world.dataset_id), owner=OWNER, idempotent=idempotent)


ACTIONS: dict[str, Action] = {
    "submit": submit,
    "submit under a key": lambda actor, world: submit(actor, world, "key"),
    "validate": finish_validation(usable=True),
    "invalidate": finish_validation(usable=False),
    "repair": lambda actor, _: actor.datasets.settle_waiting_jobs(),
    "delete the dataset": lambda actor, world: actor.datasets.delete(world.dataset_id),
    "cancel": lambda actor, world: actor.jobs.cancel(world.job_id),
    "pause": lambda actor, world: actor.jobs.pause(world.job_id),
    "resume": lambda actor, world: actor.jobs.resume(world.job_id),
    "force-fail": lambda actor, world: actor.jobs.force_fail(world.job_id, "by force"),
    "delete the job": lambda actor, world: actor.jobs.delete(world.job_id),
    "retry": lambda actor, world: actor.retries.retry(
        world.job_id, JobRetry.model_validate({"from": "start"}), visible_owner=None
    ),
    "label": lambda actor, world: actor.jobs.update(world.job_id, JobPatch(labels={actor.name: "yes"})),
    "claim": lambda actor, world: actor.jobs.claim(world.workers[actor.name]),
    "time out": lambda actor, world: actor.jobs.fail_queued(world.queued, 1),
    "heartbeat": lambda actor, world: actor.jobs.heartbeat(world.lease),
    "record": lambda actor, world: actor.jobs.record_events(world.lease, [Warned(message="hm", stage="train")]),
    "record again": lambda actor, world: actor.jobs.record_events(
        world.lease, [Warned(message="once", stage="train")], write=1
    ),
    "publish": lambda actor, world: actor.jobs.publish_artifact(world.lease, "voice", "anna.pth", "x", 1, "00"),
    "succeed": lambda actor, world: actor.jobs.succeed(world.lease),
    "fail": lambda actor, world: actor.jobs.fail(world.lease, FailureCode.ENGINE_CRASHED, "it crashed"),
    "release": lambda actor, world: actor.jobs.release(world.lease, "draining"),
    "requeue": lambda actor, world: actor.jobs.requeue_lost(world.held),
}
STATES: dict[JobStatus, list[str]] = {
    S.VALIDATING: ["submit", "validate", "invalidate", "repair", "delete the dataset", "cancel", "force-fail"],
    S.QUEUED: ["submit under a key", "delete the dataset", "cancel", "pause", "claim", "time out", "label"],
    S.RUNNING: [
        "cancel",
        "pause",
        "heartbeat",
        "record",
        "record again",
        "publish",
        "succeed",
        "fail",
        "release",
        "requeue",
        "force-fail",
        "delete the dataset",
    ],
    S.PAUSING: ["cancel", "release", "fail", "requeue"],
    S.PAUSED: ["resume", "cancel", "claim", "delete the dataset", "submit"],
    S.CANCELLED: ["retry", "submit", "delete the job", "delete the dataset", "label"],
}
"""The actions that meet each other while a job is in a state."""
SELDOM = {"record", "heartbeat", "force-fail", "publish", "release", "time out"}
"""Actions of the long form only: others that read and write the same are in the short one."""


def pairs(left_out: set[str]) -> list[Any]:
    return [
        pytest.param(state, first, second, id=f"{state}: {first}, {second}")
        for state, names in STATES.items()
        for first, second in itertools.combinations_with_replacement(names, 2)
        if not {first, second} & left_out
    ]


class Bench:
    """Two actors on one database, and a connection that watches who waits for a lock."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = create_engine(url)
        migrate(self.engine)
        self.actors = [Actor(name, url, folder) for name in ("one", "other")]
        self.jobs = JobService(self.engine)
        self.workers = {actor.name: self.jobs.register_worker(actor.name, 1, "here", "cpu") for actor in self.actors}
        self.threads = ThreadPoolExecutor(2)
        self._watcher = self.engine.execution_options(isolation_level="AUTOCOMMIT").connect()

    def close(self) -> None:
        self.threads.shutdown()
        self._watcher.close()
        for engine in (self.engine, *(actor.engine for actor in self.actors)):
            engine.dispose()

    def world(self, state: JobStatus) -> World:
        """A fresh one; that of the test before is deleted."""
        status = DatasetStatus.VALIDATING if state is S.VALIDATING else DatasetStatus.READY
        dataset = Dataset(
            id=new_id("ds"),
            owner=OWNER,
            name="anna",
            sha256="0",
            size=1,
            num_files=1,
            status=status,
            created_at=utc_now(),
        )
        with write_session(self.engine) as session:
            tables = ("jobs", "datasets", "quotas", "spent_hours", "idempotency_keys")
            session.execute(sa.text(";".join(f"DELETE FROM {table}" for table in tables)))  # noqa: S608 - names above
            session.add(dataset)
            session.add(QuotaRow(owner=OWNER, max_jobs=1 if state is S.CANCELLED else 2))
        request = JobCreate(name="anna", dataset_id=dataset.id, max_attempts=3)
        job_id = self.jobs.submit(request, owner=OWNER).job_id
        queued = self.jobs.get(job_id).queued_at
        lease = held = None
        if state in LEASED_STATUSES:
            lease = self.jobs.claim(self.workers["one"])
            assert lease is not None
            self.jobs.publish_artifact(lease, "voice", "anna.pth", "x", 1, "00")  # so that it can succeed
        if state in {S.PAUSED, S.PAUSING}:
            self.jobs.pause(job_id)
        elif state is S.CANCELLED:
            self.jobs.cancel(job_id)
        if lease is not None:
            (held,) = self.jobs.active_leases()
        at = None if queued is None else QueuedJob(job_id, queued)
        return World(dataset.id, job_id, lease, held, at, self.workers)

    def run(self, world: World, stopped: Action, running: Action, position: int | None = None) -> list[object]:
        """Run both: the first stops at its gate until the second one has ended, or waits for it. Their results."""
        one, other = self.actors
        one.gate.arm(position)
        first = self.threads.submit(self._result, stopped, one, world)
        first.add_done_callback(lambda _: one.gate.reached.set())
        assert one.gate.reached.wait(WAIT_SECONDS)
        second = self.threads.submit(self._result, running, other, world)
        while not futures.wait([second], timeout=0.01).done and not self._is_anyone_waiting():
            pass
        one.gate.may_pass.set()
        return [self._value(first), self._value(second)]

    @staticmethod
    def _result(action: Action, actor: Actor, world: World) -> object:
        try:
            return action(actor, world)
        except ServerError as error:  # an answer such as 409, or a lost lease
            return error

    @staticmethod
    def _value(future: Future[object]) -> object:
        return future.result(WAIT_SECONDS)

    def _is_anyone_waiting(self) -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(self._watcher.scalar(sa.text(query)))


@pytest.fixture(scope="module")
def bench(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(postgres.new_database(), tmp_path_factory.mktemp("data"))
    yield made
    made.close()


STATUS_AFTER = {
    "created": S.VALIDATING,
    "queued": S.QUEUED,
    "resumed": S.QUEUED,
    "retrying": S.QUEUED,
    "started": S.RUNNING,
    "pause_requested": S.PAUSING,
    "paused": S.PAUSED,
    "cancel_requested": S.CANCELLING,
    "cancelled": S.CANCELLED,
    "succeeded": S.SUCCEEDED,
    "failed": S.FAILED,
}


def check(engine: sa.Engine, world: World, actions: tuple[str, str], results: list[object]) -> None:
    """What must be so whatever happened at once."""
    with read_session(engine) as session:
        dataset = session.get_one(Dataset, world.dataset_id)
        jobs = session.exec(select(Job).order_by(col(Job.number))).all()
        events_of, attempts_of = defaultdict(list), defaultdict(list)
        for event in session.exec(select(Event).order_by(col(Event.seq))).all():
            events_of[event.job_number].append(event)
        for attempt in session.exec(select(Attempt)).all():
            attempts_of[attempt.job_number].append(attempt)
        for job in jobs:
            events, attempts = events_of[job.number], attempts_of[job.number]
            if job.status == S.VALIDATING:
                assert dataset.status == DatasetStatus.VALIDATING, "a job waits for a dataset that is validated"
            if job.status not in TERMINAL_STATUSES:
                assert dataset.deleted_at is None, "a job that needs a deleted dataset"
            assert [event.seq for event in events] == list(range(1, job.last_seq + 1))
            statuses = [STATUS_AFTER[event.type] for event in events if event.type in STATUS_AFTER]
            assert statuses[-1] == job.status
            assert all(after in TRANSITIONS[before] for before, after in itertools.pairwise(statuses)), statuses
            warnings = [event.message for event in events if event.type == "warning"]
            assert len(warnings) == job.num_warnings
            assert warnings.count("once") <= 1
            running = [attempt.token for attempt in attempts if attempt.ended_at is None]
            assert running == ([job.token] if job.status in LEASED_STATUSES else [])
            assert job.claims == len(attempts)
            if job.status == S.SUCCEEDED:
                assert session.exec(select(Artifact).where(Artifact.job_number == job.number)).one().kind == "voice"
        num_open = sum(job.status not in TERMINAL_STATUSES for job in jobs)
        assert num_open <= session.get_one(QuotaRow, OWNER).max_jobs, "more jobs than the quota allows"
        labels = next((job.labels for job in jobs if job.id == world.job_id), None)
    for actor, action, result in zip(("one", "other"), actions, results, strict=True):
        if action == "label" and not isinstance(result, ServerError) and labels is not None:
            assert actor in labels, "a label that was set is not there"
    if actions == ("submit under a key",) * 2:
        assert results[0].job_id == results[1].job_id
        assert len(jobs) == 2


@pytest.mark.parametrize(("state", "first", "second"), pairs(SELDOM))
def test_two_at_once_leave_nothing_that_one_after_the_other_could_not(
    bench: Bench, state: JobStatus, first: str, second: str
) -> None:
    # On a leased job every action begins with the job's lock: the long form has the other order too.
    for actions in {(first, second)} if state in LEASED_STATUSES else {(first, second), (second, first)}:
        world = bench.world(state)
        results = bench.run(world, ACTIONS[actions[0]], ACTIONS[actions[1]])
        check(bench.engine, world, actions, results)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("state", "first", "second"), pairs(set()))
def test_two_at_once_wherever_the_first_one_stops(bench: Bench, state: JobStatus, first: str, second: str) -> None:
    for actions in {(first, second), (second, first)}:
        for position in itertools.count(1):
            world = bench.world(state)
            results = bench.run(world, ACTIONS[actions[0]], ACTIONS[actions[1]], position)
            check(bench.engine, world, actions, results)
            if position > bench.actors[0].gate.num_statements:  # it stopped at its commit
                break


# Other rows that a decision stands on


def test_the_hours_of_two_jobs_that_end_at_once_are_both_kept(bench: Bench) -> None:
    world = bench.world(S.RUNNING)
    second = bench.jobs.submit(JobCreate(name="b", dataset_id=world.dataset_id), owner=OWNER).job_id
    bench.jobs.claim(bench.workers["one"])
    now = utc_now()
    began = max(now - timedelta(hours=1), now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    with write_session(bench.engine) as session:
        session.execute(sa.update(Attempt).values(started_at=began))
    bench.run(
        world,
        lambda actor, _: actor.jobs.force_fail(world.job_id, "enough"),
        lambda actor, _: actor.jobs.force_fail(second, "enough"),
    )
    with read_session(bench.engine) as session:
        hours = session.exec(select(SpentHours.hours)).one()
    assert hours == pytest.approx(2 * (now - began).total_seconds() / 3600, abs=0.1)


@pytest.mark.parametrize("stopped", [Drain.FINISH, Drain.HAND_BACK])
def test_a_worker_that_is_to_hand_its_job_back_is_not_let_finish_it(bench: Bench, stopped: Drain) -> None:
    worker_id = bench.jobs.register_worker("drained", 1, "here", "cpu")
    running = next(mode for mode in Drain if mode is not stopped)
    bench.run(
        bench.world(S.QUEUED),
        lambda actor, _: actor.jobs.drain_worker(worker_id, stopped),
        lambda actor, _: actor.jobs.drain_worker(worker_id, running),
    )
    assert bench.jobs.worker_heartbeat(worker_id) is Drain.HAND_BACK
    bench.jobs.deregister_worker(worker_id)


def test_an_owners_quota_is_set_twice_at_once_without_an_error(bench: Bench) -> None:
    quota = bench.actors[0].quotas.of("bert").quota
    both = lambda actor, _: actor.quotas.set("bert", quota)  # noqa: E731
    bench.run(bench.world(S.QUEUED), both, both)


def test_a_repair_queues_and_fails_jobs_whose_dataset_is_not_validated_any_more(bench: Bench) -> None:
    for values, status, reason in (
        ({"status": "ready"}, S.QUEUED, None),
        ({"status": "invalid", "reason": "it is silent"}, S.FAILED, "it is silent"),
        ({"deleted_at": utc_now()}, S.FAILED, "the dataset was deleted"),
    ):
        world = bench.world(S.VALIDATING)
        with write_session(bench.engine) as session:
            session.execute(sa.update(Dataset).values(**values))
        assert bench.actors[0].datasets.settle_waiting_jobs() == 1
        job = bench.jobs.get(world.job_id)
        assert (job.status, job.error_message) == (status, reason)
        assert bench.actors[0].datasets.settle_waiting_jobs() == 0
