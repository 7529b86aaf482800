"""A commit that succeeds although its answer is lost counts once: the worker's second try changes nothing."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.errors import FailureCode
from rvc_engine.events import ArtifactReady, CheckpointSaved, Event, Warned
from server.database.engine import read_session
from server.database.tables import Attempt
from server.errors import LeaseLost
from worker.gateway.errors import Unavailable
from worker.gateway.types import Failure, Outcome, Released, Success
from worker.reporting.event_reporter import EventReporter


@pytest.fixture
def lose_next_answer(shop: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the next commit succeed, and its answer never come. `of`: the one of a transaction with this statement."""

    def lose(of: str = "") -> None:
        commit = shop.engine.dialect.do_commit
        found: list[Any] = []

        def note(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
            if of in statement and not found:
                found.append(connection.connection.dbapi_connection)

        def commit_and_break(connection: Any) -> None:
            commit(connection)
            if found and connection.dbapi_connection is found[0]:
                sa.event.remove(shop.engine, "before_cursor_execute", note)
                monkeypatch.setattr(shop.engine.dialect, "do_commit", commit)
                raise shop.engine.dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

        sa.event.listen(shop.engine, "before_cursor_execute", note)
        monkeypatch.setattr(shop.engine.dialect, "do_commit", commit_and_break)

    return lose


@pytest.fixture
def claimed(shop: Any) -> Any:
    shop.submit([])
    return shop.claim()


@pytest.fixture
def reporter(shop: Any, claimed: Any) -> EventReporter:
    return EventReporter(claimed, shop.folder, shop.folder / "spool")


def artifact(shop: Any) -> ArtifactReady:
    path = shop.folder / "anna.pth"
    path.write_bytes(b"voice")
    return ArtifactReady(
        kind="voice", name="anna.pth", path=str(path), size=5, sha256=hashlib.sha256(b"voice").hexdigest()
    )


def test_events_count_once_and_those_that_came_meanwhile_are_added(
    shop: Any, claimed: Any, reporter: EventReporter, lose_next_answer: Callable[..., None]
) -> None:
    reporter.add([Warned(message="one", stage="train"), CheckpointSaved(step=1, epoch=1, path="x")])
    lose_next_answer()
    reporter.try_flush()
    reporter.add([Warned(message="two", stage="train")])
    reporter.try_flush()
    events = shop.events(claimed.job_id)
    assert [event.message for event in events[-3:]] == ["one", "checkpoint at step 1", "two"]
    assert Counter(event.type for event in events)["warning"] == shop.job(claimed.job_id).num_warnings == 2


def test_an_artifact_is_published_once_and_what_follows_it_is_recorded(
    shop: Any, claimed: Any, reporter: EventReporter, lose_next_answer: Callable[..., None]
) -> None:
    following: list[Event] = [Warned(message="after", stage="train")]
    reporter.add([artifact(shop), *following])
    lose_next_answer()
    for _ in range(2):
        reporter.try_flush()
    types = [event.type for event in shop.events(claimed.job_id)]
    assert types[-2:] == ["artifact_published", "warning"]
    assert types.count("artifact_published") == 1
    assert reporter.published == {"voice"}
    assert len(shop.artifacts(claimed.job_id)) == 1


@pytest.mark.parametrize(
    "end", [Success(), Failure(FailureCode.ENGINE_CRASHED, "it crashed"), Released("draining")], ids=repr
)
def test_an_end_whose_answer_was_lost_is_not_done_again(
    shop: Any, claimed: Any, reporter: EventReporter, lose_next_answer: Callable[..., None], end: Outcome
) -> None:
    reporter.add([artifact(shop)])
    reporter.flush()
    lose_next_answer()
    with pytest.raises(Unavailable):
        claimed.finish(end)
    before = shop.job(claimed.job_id).model_dump()
    with pytest.raises(LeaseLost):
        claimed.finish(end)
    assert shop.job(claimed.job_id).model_dump() == before


def test_a_claim_whose_answer_was_lost_gives_the_same_job_again_and_counts_no_recovery(
    shop: Any, lose_next_answer: Callable[..., None]
) -> None:
    first, second = shop.submit([]), shop.submit([])
    worker = shop.register()
    lose_next_answer()
    with pytest.raises(Unavailable):
        worker.claim(is_repeated=False, job_id=None)
    lease = worker.claim(is_repeated=True, job_id=None)
    assert (lease.job_id, lease.attempt) == (first, 1)
    lease.record([Warned(message="one", stage="train")], 1)
    assert worker.claim(is_repeated=True, job_id=None).job_id == second, "a job that is worked on is not given again"
    with read_session(shop.engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Attempt)) == 2


def test_a_worker_goes_on_with_a_job_that_it_claimed_without_an_answer(
    shop: Any, lose_next_answer: Callable[..., None]
) -> None:
    job_id = shop.submit([*shop.MAKE_VOICE])
    lose_next_answer(of="claims=")
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded")
    assert (job.claims, job.recoveries) == (1, 0)
