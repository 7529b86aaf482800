"""Faults inside the server: a full disk, a clock that is set."""

import errno
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.errors import FailureCode
from server.admin.scheduler import Scheduler
from server.database.engine import checkpoint_wal, read_session
from server.jobs.queue_timeout import QueueTimeout
from server.settings import ServerSettings


def test_a_disk_that_fills_up_during_an_upload_is_told_and_what_came_of_a_resumable_one_stays(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.uploads import receive

    written = [0]
    write = receive._write

    def full_after_two_megabytes(file: Any, piece: bytes, digest: Any) -> None:
        if written[0] >= 2 << 20:
            raise OSError(errno.ENOSPC, "no space left")
        written[0] += len(piece)
        write(file, piece, digest)

    with serve(tmp_path) as server, server.client() as http:
        monkeypatch.setattr(receive, "_write", full_after_two_megabytes)
        answer = http.put("/v1/datasets/a/content", content=b"RIFF" + bytes(5 << 20))
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (507, "no_space", True)
        assert not list((tmp_path / "uploads").iterdir())
        written[0] = 0
        tus = {"Tus-Resumable": "1.0.0"}
        address = http.post("/v1/uploads", headers=tus | {"Upload-Length": str(5 << 20)}).headers["location"]
        piece = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        assert http.patch(address, content=bytes(5 << 20), headers=piece).status_code == 507
        monkeypatch.setattr(receive, "_write", write)
        offset = int(http.head(address, headers=tus).headers["upload-offset"])
        assert 0 < offset <= 3 << 20
        rest = http.patch(address, content=bytes((5 << 20) - offset), headers=piece | {"Upload-Offset": str(offset)})
        assert rest.status_code == 204


def test_a_clock_that_goes_back_an_hour_holds_no_job_up(bench: Any) -> None:
    bench.job(max_attempts=3)
    bench.jobs.fail(bench.claim(), FailureCode.ENGINE_CRASHED, "x")
    assert bench.jobs.claim(bench.worker()) is None  # it waits its ten seconds
    bench.clock.advance(-3600)
    assert bench.jobs.claim(bench.worker()) is not None


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_set_fails_no_waiting_job(bench: Any, hours: int) -> None:
    now = [1000.0]
    timeout = QueueTimeout(bench.jobs, 600, lambda: now[0])
    before = bench.job()
    bench.clock.advance(500)
    assert timeout.sweep() == 0
    bench.clock.advance(3600 * hours)
    after = bench.job()
    assert timeout.sweep() == 0
    now[0] += 99
    assert timeout.sweep() == 0
    now[0] += 2  # the first has waited 601 s, 500 of them before the server looked
    assert timeout.sweep() == 1
    assert bench.jobs.get(before.id).error_code == "queue_timeout"
    now[0] += 600
    assert timeout.sweep() == 1
    assert bench.jobs.get(after.id).error_code == "queue_timeout"


@pytest.mark.sqlite
def test_a_long_reader_lets_the_log_be_folded_and_keeps_no_writer_waiting(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.database.engine.LARGE_WAL", 1)
    bench.job()
    with read_session(bench.jobs.engine) as session:
        session.execute(sa.text("SELECT count(*) FROM jobs"))
        bench.job()  # newer than what the reader sees
        began = time.monotonic()
        checkpoint_wal(bench.jobs.engine)
        bench.job()
        assert time.monotonic() - began < 5  # 30 s when the checkpoint waits for the reader
    checkpoint_wal(bench.jobs.engine)
    assert Path(f"{bench.jobs.engine.url.database}-wal").stat().st_size == 0


def test_a_statement_that_fails_shows_no_secret(bench: Any) -> None:
    with pytest.raises(sa.exc.SQLAlchemyError) as failed, bench.jobs.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:secret)"), {"secret": "whsec_of_somebody"})
    assert "whsec_of_somebody" not in str(failed.value)


def test_a_slow_periodic_task_delays_no_other_and_no_stop(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("server.admin.scheduler.STOP_SECONDS", 0.2)
    release, ran = threading.Event(), threading.Event()
    slow, quick = (0.01, lambda: release.wait(30)), (0.01, ran.set)
    nothing = SimpleNamespace(expire=int, delete_old=int, apply=int)
    scheduler = Scheduler(bench.jobs, nothing, nothing, nothing, ServerSettings(), slow, quick)
    scheduler.start()
    time.sleep(0.1)
    ran.clear()
    assert ran.wait(5)
    began = time.monotonic()
    scheduler.stop()
    assert time.monotonic() - began < 5
    release.set()


def test_a_clock_that_is_set_disturbs_no_claim_and_no_numbering(bench: Any) -> None:
    from rvc_engine.events import Log, Progress

    for hours in (1, -2, 1):
        job = bench.job()
        lease = bench.claim()
        bench.clock.advance(hours * 3600)
        bench.jobs.heartbeat(lease)
        bench.jobs.record_events(lease, [Progress(stage="train", stage_progress=0, progress=0), Log(message="x")])
        bench.publish(lease)
        bench.jobs.succeed(lease)
        found = bench.jobs.get(job.id)
        assert found.status == "succeeded"
        assert found.finished_at - found.created_at == timedelta(hours=hours)
