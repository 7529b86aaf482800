"""Heartbeats: through every error, only while the main loop turns, and no work without them."""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from server.jobs.reaper import Reaper
from tests.systems import named_pipes
from worker.loop import HeartbeatDied
from worker.reporting.heartbeat import Heartbeat


def heartbeat_of(shop: Any, job_id: str) -> int:
    return shop.job(job_id).heartbeat


def grows(read: Callable[[], int], seconds: float) -> bool:
    """Whether a number grows within that time."""
    before, deadline = read(), time.monotonic() + seconds
    while read() == before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_thread_survives_errors_that_nobody_foresaw(shop: Any) -> None:
    job_id = shop.submit([])
    worker = shop.register(heartbeat_seconds=0.02)
    heartbeat = Heartbeat(worker, 0.02, 0.02)
    heartbeat.start()
    heartbeat.attach(worker.claim(is_repeated=False, job_id=None))
    other = sa.create_engine(shop.url)
    with other.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE workers RENAME TO gone")
    time.sleep(0.2)
    with other.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO workers")
    assert grows(lambda: heartbeat_of(shop, job_id), 20)
    assert heartbeat.is_alive
    heartbeat.stop()


def test_no_heartbeat_is_sent_while_the_main_loop_does_not_turn(shop: Any, tmp_path: Any) -> None:
    job_id = shop.submit([])
    worker = shop.register()
    heartbeat = Heartbeat(worker, 0.05, 0.05, tmp_path / "accepted", max_turn_seconds=1)
    heartbeat.start()
    heartbeat.attach(worker.claim(is_repeated=False, job_id=None))
    assert grows(lambda: heartbeat_of(shop, job_id), 20)
    shop.wait_until(lambda: not grows(lambda: heartbeat_of(shop, job_id), 0.5), "the end of the heartbeats")
    os.utime(tmp_path / "accepted", (0, 0))
    assert not grows(lambda: heartbeat_of(shop, job_id), 0.5)
    assert (tmp_path / "accepted").stat().st_mtime == 0
    heartbeat.turn()
    assert grows(lambda: heartbeat_of(shop, job_id), 20)
    heartbeat.stop()


@named_pipes
def test_a_worker_that_hangs_in_a_call_to_a_disk_loses_its_job_and_when_it_wakes_stops_its_engine(shop: Any) -> None:
    """Its main loop copies an artifact that is a named pipe, and so waits for somebody to write into it."""
    job_id = shop.submit([["pipe_artifact", "voice"], ["hang"]])
    reaper = Reaper(shop.jobs, 1.0)

    def is_lost() -> bool:
        reaper.sweep()
        return shop.job(job_id).recoveries == 1

    with shop.worker(max_turn_seconds=0.5, stop_seconds=0.2) as stop:
        pipe = shop.storage.workspace(job_id) / "pipe"
        shop.wait_until(pipe.exists, "the engine", 60)
        try:
            shop.wait_until(is_lost, "the lease to be lost", 60)
            assert shop.job(job_id).status == "queued"
            shop.jobs.pause(job_id)  # so that this worker does not claim it again
        finally:
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        shop.wait_until(lambda: shop.attempts(job_id)[0].stale_writes > 0, "its refused write")
        shop.wait_for(shop.submit(list(shop.MAKE_VOICE)), "succeeded")
        stop.set()
    assert (shop.job(job_id).status, shop.artifacts(job_id)) == ("paused", [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_whose_heartbeats_have_died_hands_its_job_back_and_ends(shop: Any) -> None:
    job_id = shop.submit([["train", 1000, 0.05, 1000]])
    with ThreadPoolExecutor() as pool:
        done = pool.submit(shop.work, threading.Event())
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        (thread,) = [each for each in threading.enumerate() if each.name == "heartbeat"]
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        with pytest.raises(HeartbeatDied, match="start the worker again"):
            done.result(60)
    job = shop.job(job_id)
    assert (job.status, job.claims, job.failures) == ("queued", 1, 0)
