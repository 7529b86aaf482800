"""Transactions of a submission: one to authenticate, one for the job and everything that belongs to it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rvc_train.schemas.jobs import JobCreate
from server.database.tables import AuditEntry, Event, IdempotencyKey, Job
from server.job_store.idempotency import IdempotentRequest


@contextmanager
def transactions_of_requests(engine: sa.Engine) -> Iterator[list[str]]:
    """The threads of the transactions that requests begin; those of periodic tasks run in other threads."""
    begun: list[str] = []

    def note(_connection: sa.Connection) -> None:
        name = threading.current_thread().name
        if name.startswith("AnyIO"):
            begun.append(name)

    sa.event.listen(engine, "begin", note)
    try:
        yield begun
    finally:
        sa.event.remove(engine, "begin", note)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "counted"}], ids=["without a key", "with a key"])
def test_a_submission_takes_one_transaction_for_the_token_and_one_for_the_job(
    guarded: Any, holder: Callable[..., httpx.Client], headers: dict[str, str]
) -> None:
    anna = holder("anna", "submit")
    dataset_id = anna.put("/v1/datasets/mine/content", content=b"RIFFone").json()["id"]
    request = {"name": "anna", "dataset_id": dataset_id}
    for is_replay in (False, True) if headers else (False,):
        with transactions_of_requests(guarded.context.engine) as begun:
            answer = anna.post("/v1/jobs", json=request, headers=headers)
        assert answer.status_code == 202
        assert len(begun) == 2, begun
        assert ("idempotency-replayed" in answer.headers) is is_replay


def test_a_submission_that_fails_at_its_last_write_leaves_no_row(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("server.job_store.idempotency.store", fail)
    request = JobCreate(name="anna", dataset_id=bench.dataset())
    with pytest.raises(OSError, match="disk is full"):
        bench.jobs.submit(request, idempotent=IdempotentRequest("local", "k", "f"))
    with bench.jobs.engine.connect() as connection:
        for table in (Job, Event, AuditEntry, IdempotencyKey):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
