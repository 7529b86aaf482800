"""The transition table: every action in every state leads to a status that the table allows, or changes nothing."""

import pytest

from rvc_engine.errors import FailureCode
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobStatus
from server.database.engine import write_session
from server.errors import ServerError
from server.job_store.transitions import TRANSITIONS
from server.jobs.queue_timeout import QueueTimeout

S = JobStatus
RETRYABLE, FATAL = FailureCode.ENGINE_CRASHED, FailureCode.DIVERGED


def settle(reason):
    def act(bench, job, lease):
        with write_session(bench.jobs.engine) as session:
            bench.jobs.finish_dataset_validation(session, job.dataset_id, reason)

    return act


def succeed(bench, job, lease):
    bench.publish(lease)
    bench.jobs.succeed(lease)


def lose(times):
    def act(bench, job, lease):
        for _ in range(times):
            bench.jobs.requeue_lost(bench.jobs.active_leases()[0])
            if times > 1:
                bench.jobs.claim(bench.worker())

    return act


def time_out(bench, job, lease):
    bench.clock.advance(100)
    QueueTimeout(bench.jobs, 50).sweep()


ACTIONS = {
    "report: usable": settle(None),
    "report: not usable": settle("silence"),
    "claim": lambda bench, job, lease: bench.jobs.claim(bench.worker()),
    "cancel": lambda bench, job, lease: bench.jobs.cancel(job.id),
    "pause": lambda bench, job, lease: bench.jobs.pause(job.id),
    "resume": lambda bench, job, lease: bench.jobs.resume(job.id),
    "succeed": succeed,
    "fail, worth a retry": lambda bench, job, lease: bench.jobs.fail(lease, RETRYABLE, "x"),
    "fail for good": lambda bench, job, lease: bench.jobs.fail(lease, FATAL, "x"),
    "hand back": lambda bench, job, lease: bench.jobs.release(lease, "x"),
    "lose the worker": lose(1),
    "wait too long": time_out,
    "force-fail": lambda bench, job, lease: bench.jobs.force_fail(job.id, "x"),
}

EXPECTED = {
    S.VALIDATING: {
        "report: usable": S.QUEUED,
        "report: not usable": S.FAILED,
        "cancel": S.CANCELLED,
        "force-fail": S.FAILED,
    },
    S.QUEUED: {
        "claim": S.RUNNING,
        "cancel": S.CANCELLED,
        "pause": S.PAUSED,
        "wait too long": S.FAILED,
        "force-fail": S.FAILED,
    },
    S.RUNNING: {
        "cancel": S.CANCELLING,
        "pause": S.PAUSING,
        "succeed": S.SUCCEEDED,
        "fail, worth a retry": S.QUEUED,
        "fail for good": S.FAILED,
        "hand back": S.QUEUED,
        "lose the worker": S.QUEUED,
        "force-fail": S.FAILED,
    },
    S.PAUSING: {
        "cancel": S.CANCELLING,
        "succeed": S.SUCCEEDED,
        "fail, worth a retry": S.PAUSED,
        "fail for good": S.FAILED,
        "hand back": S.PAUSED,
        "lose the worker": S.PAUSED,
        "force-fail": S.FAILED,
    },
    S.PAUSED: {"resume": S.QUEUED, "cancel": S.CANCELLED, "force-fail": S.FAILED},
    S.CANCELLING: {
        "succeed": S.SUCCEEDED,
        "fail, worth a retry": S.CANCELLED,
        "fail for good": S.CANCELLED,
        "hand back": S.CANCELLED,
        "lose the worker": S.CANCELLED,
        "force-fail": S.FAILED,
    },
    S.SUCCEEDED: {},
    S.FAILED: {},
    S.CANCELLED: {},
}
"""Status after each action in each status; an action that is missing changes nothing."""


def job_in_status(bench, status):
    """A job in this status, with its present or last lease."""
    if status is S.VALIDATING:
        return bench.job(DatasetStatus.VALIDATING), None
    job = bench.job()
    if status is S.QUEUED:
        return job, None
    lease = bench.claim()
    ways = {
        S.PAUSING: lambda: bench.jobs.pause(job.id),
        S.PAUSED: lambda: (bench.jobs.pause(job.id), bench.jobs.release(lease, "x")),
        S.CANCELLING: lambda: bench.jobs.cancel(job.id),
        S.SUCCEEDED: lambda: succeed(bench, job, lease),
        S.FAILED: lambda: bench.jobs.fail(lease, FATAL, "x"),
        S.CANCELLED: lambda: (bench.jobs.cancel(job.id), bench.jobs.release(lease, "x")),
    }
    ways.get(status, lambda: None)()
    return bench.jobs.get(job.id), lease


@pytest.mark.parametrize("status", list(S))
def test_every_action_in_this_state_leads_where_the_table_says_or_nowhere(bench, status):
    for name, act in ACTIONS.items():
        job, lease = job_in_status(bench, status)
        assert bench.jobs.get(job.id).status == status
        needs_claim = name in {"succeed", "fail, worth a retry", "fail for good", "hand back"}
        needs_holder = name == "lose the worker" and not bench.jobs.active_leases()
        if not (needs_claim and lease is None) and not needs_holder:
            try:
                act(bench, job, lease)
            except ServerError:
                assert name not in EXPECTED[status], name
        assert bench.jobs.get(job.id).status == EXPECTED[status].get(name, status), name
        clear(bench)


def clear(bench):
    """End all jobs that are left, so that the next claim takes the next job."""
    for job in bench.jobs.list(limit=100)[0]:
        if not S(job.status).is_terminal:
            bench.jobs.force_fail(job.id, "done with")


def test_the_table_holds_exactly_the_steps_that_some_action_takes():
    taken = {before: frozenset(after.values()) for before, after in EXPECTED.items()}
    assert taken == TRANSITIONS
