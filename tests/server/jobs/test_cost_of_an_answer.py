"""What one answer costs, in transactions: the same numbers on every machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.database.engine import read_session
from server.estimates.estimates import Estimator
from server.estimates.queue_places import NUM_EXACT
from server.jobs.serializers import jobs_public


def test_one_job_costs_a_transaction_beside_that_of_the_token_and_a_list_page_too(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    admin = {"Authorization": "Bearer " + "a" * 32}
    with serve(tmp_path, token="a" * 32) as server, server.client() as http:
        made = http.post("/v1/tokens", json={"owner": "bob", "scopes": ["submit"]}, headers=admin).json()
        bob = {"Authorization": f"Bearer {made['secret']}"}
        dataset = http.put("/v1/datasets/a/content", content=b"RIFF", headers=bob).json()
        job = http.post("/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=bob).json()
        begun: list[str] = []

        @sa.event.listens_for(server.context.engine, "begin")
        def count(_connection: sa.Connection) -> None:
            if "AnyIO" in threading.current_thread().name:  # a request's, not a periodic task's
                begun.append(threading.current_thread().name)

        def cost(path: str) -> int:
            http.post("/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=bob).raise_for_status()
            begun.clear()
            http.get(path, headers=bob).raise_for_status()
            return len(begun)

        path = f"/v1/jobs/{job['id']}"
        assert cost(path) <= 3, "token, owner, job"
        assert [cost(path), cost("/v1/jobs"), cost("/v1/jobs?counts=true")] == [2, 2, 2]


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """The statements of the block."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_a_job_that_goes_into_the_queue_at_once_has_its_events_written_at_once(bench: Any, engine: sa.Engine) -> None:
    bench.job()
    with statements(engine) as found:
        bench.job()
    assert len([each for each in found if each.startswith("INSERT INTO events")]) == 1
    assert len([each for each in found if each.startswith("UPDATE jobs")]) == 2, "the number of events, the status"


@pytest.mark.sqlite
def test_an_answer_on_a_job_in_a_long_queue_reads_a_row_of_the_queue(
    bench: Any, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimator, limits = Estimator(), []
    monkeypatch.setattr("server.estimates.queue_places.MIN_SNAPSHOT_SECONDS", 1000)
    job = bench.job()
    copied = [c.name for c in type(job).__table__.columns if c.name not in {"number", "id"}]
    columns = ", ".join(copied)
    with engine.begin() as connection:
        for number in range(NUM_EXACT):
            copy = f"INSERT INTO jobs (id, {columns}) SELECT '{number}', {columns} FROM jobs WHERE id = '{job.id}'"  # noqa: S608
            connection.exec_driver_sql(copy)
    for _ in range(2):
        with statements(engine) as found, read_session(engine) as session:
            assert jobs_public(session, [job], estimator, bench.clock())[0].queue_position == 1
        limits.append([each for each in found if "ORDER BY jobs.priority" in each])
    assert [len(each) for each in limits] == [2, 1], "the head and a snapshot of all; later, whether it is still long"
    assert "jobs.owner" not in limits[1][0]
