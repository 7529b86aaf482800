"""Faults that pass: they are waited for, and an error of the worker itself does not end the job."""

import sys
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.environment.processes import process_identity

if sys.platform != "win32":  # whose processes have no such limit
    import resource

LIMIT = 6 * 2**20
"""Size of the largest file that the worker may write, as on a full disk; the voice is larger, the database not."""
VOICE = [["log", "ready"], ["artifact", "voice", 2 * LIMIT], ["artifact", "index", 3200], ["succeed"]]


on_posix = pytest.mark.skipif(sys.platform == "win32", reason="the full disk is a limit of POSIX systems")


@on_posix
@pytest.mark.parametrize("is_freed", [True, False], ids=["space comes", "no space comes"])
def test_a_disk_that_is_full_while_publishing_is_waited_for_and_then_named(shop: Any, is_freed: bool) -> None:
    job_id = shop.submit([["train", 2, 0.01, 1], ["wait_for_file", str(shop.folder / "go")], *VOICE])
    with shop.worker_process(disk_wait_seconds=600 if is_freed else 1) as worker:
        shop.wait_until(lambda: len(shop.steps(job_id)) == 2, "the engine", 60)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        (shop.folder / "go").touch()
        shop.wait_until(lambda: "File too large" in (shop.folder / "worker.log").read_text(), "a full disk")
        if is_freed:
            assert shop.job(job_id).status == "running"
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        job = shop.wait_for(job_id, "succeeded", "failed", seconds=60)
    assert (job.status, job.error_code) == (("succeeded", None) if is_freed else ("failed", "disk_full"))
    assert {each.kind for each in shop.artifacts(job_id)} == ({"voice", "index"} if is_freed else {"index"})


def test_an_artifact_that_is_not_there_is_final_at_once(shop: Any) -> None:
    job_id = shop.submit([["missing_artifact", "voice"], ["artifact", "index", 64], ["succeed"]])
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.error_code) == ("failed", "artifact_invalid")


@on_posix
def test_a_cancel_ends_the_wait_for_a_full_disk(shop: Any) -> None:
    job_id = shop.submit([["train", 2, 0.01, 1], ["wait_for_file", str(shop.folder / "go")], *VOICE])
    with shop.worker_process() as worker:
        shop.wait_until(lambda: len(shop.steps(job_id)) == 2, "the engine", 60)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        (shop.folder / "go").touch()
        shop.wait_until(lambda: "File too large" in (shop.folder / "worker.log").read_text(), "a full disk")
        shop.jobs.cancel(job_id)
        shop.wait_for(job_id, "cancelled")


@pytest.mark.parametrize("is_repaired", [True, False], ids=["repaired", "not repaired"])
def test_an_unforeseen_error_of_the_worker_hands_the_job_back_a_few_times(shop: Any, is_repaired: bool) -> None:
    """There is a folder in place of the job's log."""
    job_id = shop.submit(list(shop.MAKE_VOICE))
    log = shop.storage.job_log(job_id)
    log.mkdir(parents=True)
    with shop.worker(max_recoveries=1000 if is_repaired else 2):
        shop.wait_until(lambda: shop.job(job_id).recoveries >= 2, "two recoveries")
        if is_repaired:
            log.rmdir()
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert job.failures == 0
    if is_repaired:
        assert job.status == "succeeded"
    else:
        assert (job.status, job.error_code, job.recoveries) == ("failed", "internal", 3)
        assert "IsADirectoryError" in job.error_message
        assert shop.event_types(job_id).count("retrying") == 2


def test_a_postgresql_that_refuses_writes_during_a_failover_is_waited_for(shop: Any, postgres: Any) -> None:
    there = type(shop)(shop.folder / "there", postgres.new_database())
    name = there.engine.url.database
    database = sa.create_engine(there.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")

    def change(setting: str) -> None:
        """The worker's connections end too, as when the server is replaced by a standby."""
        with database.connect() as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            connection.exec_driver_sql(f"ALTER DATABASE {name} {setting}")
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    job_id = there.submit([["train", 20, 0.02, 5], ["wait_for_file", str(shop.folder / "go")], *shop.MAKE_VOICE])
    with there.worker():
        there.wait_until(lambda: len(there.steps(job_id)) >= 2, "two steps")
        change("SET default_transaction_read_only = on")
        (shop.folder / "go").touch()
        engine = there.engine_pid(job_id)
        there.wait_until(lambda: process_identity(engine) is None, "the engine's end, without the database")
        change("RESET default_transaction_read_only")
        job = there.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.claims) == ("succeeded", 1)
    there.engine.dispose()
