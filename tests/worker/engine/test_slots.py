"""Engines and jobs that a killed worker leaves: the next worker ends the ones and goes on with the others."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlmodel import select

from rvc_engine.environment.processes import end_process, kill_group, process_identity
from server.database.engine import read_session
from server.database.tables import Worker
from tests.systems import IS_WINDOWS, orphans
from worker.engine.slots import SlotRecord, Slots

HANG = [["log", "deaf"], ["hang"]]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
LONG = [["log", "begun"], ["train", 1000, 0.05, 1000]]


def is_running(pid: int) -> bool:
    return process_identity(pid) is not None


def wait_for_engine(shop: Any, job_id: str, told: str) -> int:
    """The pid of the job's engine, once it has written `told` to the log."""

    def has_begun() -> bool:
        attempts = shop.attempts(job_id)
        return bool(attempts) and attempts[-1].engine_pid is not None and told in shop.log(job_id)

    shop.wait_until(has_begun, "an engine", 60)
    return shop.attempts(job_id)[-1].engine_pid


def is_stopped(pid: int) -> bool:
    """Whether each of a process's threads is; the signal reaches them one after the other."""
    if IS_WINDOWS:  # which has stopped them all when the call returns
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(") ")[2].startswith("T") for task in tasks)


def num_workers(shop: Any) -> int:
    with read_session(shop.engine) as session:
        return len(session.exec(select(Worker.id)).all())


@contextmanager
def hung_engine_of_a_killed_worker(shop: Any, job_id: str) -> Iterator[int]:
    with shop.worker_process() as worker:
        pid = wait_for_engine(shop, job_id, "deaf")
        worker.kill()
        worker.wait()
    try:
        assert is_running(pid)
        yield pid
    finally:
        if is_running(pid):
            kill_group(pid)


@orphans
def test_a_hung_engine_whose_job_was_cancelled_is_dead_when_the_next_worker_has_started(shop: Any) -> None:
    job_id = shop.submit(HANG)
    with hung_engine_of_a_killed_worker(shop, job_id) as pid:
        shop.jobs.cancel(job_id)
        with shop.worker(stop_seconds=0.2):
            shop.wait_until(lambda: num_workers(shop) == 2, "the next worker")
            assert not is_running(pid)
            assert shop.job(job_id).status == "cancelled"


def test_the_job_of_a_killed_worker_goes_on_at_once_and_not_after_its_lease(shop: Any) -> None:
    """Nothing here ends leases: there is no server."""
    job_id = shop.submit([["train", 8, 0.05, 1], *shop.MAKE_VOICE])
    with shop.worker_process() as worker:
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps", 60)
        worker.kill()
        worker.wait()
    with shop.worker():
        job = shop.wait_for(job_id, "succeeded", "failed")
    assert (job.status, job.claims, job.recoveries, job.failures) == ("succeeded", 2, 1, 0)
    assert sorted(set(shop.steps(job_id))) == list(range(1, 9))
    assert "worker_lost" in shop.event_types(job_id)
    assert not list((shop.folder / "workers").glob("*.json"))


@orphans
def test_only_what_is_recorded_in_the_slot_of_a_dead_worker_is_ended(
    shop: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Beside it: a second worker on the folder, a worker on another folder, and a command that a person started."""
    elsewhere = type(shop)(tmp_path_factory.mktemp("elsewhere"))
    near, far = shop.submit(LONG), elsewhere.submit(LONG)
    with shop.worker(), elsewhere.worker(), persons_command(shop) as command:
        others = [wait_for_engine(shop, near, "begun"), wait_for_engine(elsewhere, far, "begun"), command.pid]
        hung = shop.submit(HANG)
        with hung_engine_of_a_killed_worker(shop, hung) as pid:
            shop.jobs.cancel(hung)
            with shop.worker(stop_seconds=0.2):
                shop.wait_until(lambda: num_workers(shop) == 3, "a third worker")
                assert not is_running(pid)
                shop.wait_for(shop.submit(list(shop.MAKE_VOICE)), "succeeded")
                assert all(is_running(other) for other in others)
                assert [each.claims for each in (shop.job(near), elsewhere.job(far))] == [1, 1]
    elsewhere.engine.dispose()


@contextmanager
def persons_command(shop: Any) -> Iterator[subprocess.Popen[bytes]]:
    """An engine on a folder of the person's own."""
    workspace = shop.folder.parent / "mine"
    script = shop.folder.parent / "mine.json"
    script.write_text('[["sleep", 600]]')
    options = ["workspace", "dataset", "voice", "config", "device", "weights", "cache"]
    command = [
        sys.executable,
        shop.settings().engine_command[1],
        str(script),
        "--threads=1",
        "--lock-wait=0",
        "--events",
    ]
    values = [f"--{option}={workspace if option == 'workspace' else 'x'}" for option in options]
    with subprocess.Popen([*command, *values], stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_worker_that_lives_keeps_its_slot_its_job_and_its_engine_however_long_it_is_silent(shop: Any) -> None:
    job_id = shop.submit(LONG)
    with shop.worker_process() as worker:
        pid = wait_for_engine(shop, job_id, "begun")
        with shop.engine.begin():  # so that it holds no transaction, which would block everyone
            psutil.Process(worker.pid).suspend()
            shop.wait_until(lambda: is_stopped(worker.pid), "the end of its last instruction")
        with shop.worker():
            shop.wait_for(shop.submit(list(shop.MAKE_VOICE)), "succeeded")
            assert is_running(pid)
            assert (shop.job(job_id).status, shop.job(job_id).claims) == ("running", 1)
        psutil.Process(worker.pid).resume()


def test_a_worker_recovers_the_job_of_a_neighbour_that_was_killed_and_not_started_again(shop: Any) -> None:
    job_id = shop.submit(HANG)
    with shop.worker_process() as worker:
        pid = wait_for_engine(shop, job_id, "deaf")
        with shop.worker(stop_seconds=0.2):
            shop.wait_until(lambda: num_workers(shop) == 2, "a neighbour")
            shop.script.write_text("[]")
            worker.kill()
            shop.wait_until(lambda: shop.job(job_id).claims == 2, "its job to be claimed again")
            assert not is_running(pid)


def dead_slot(folder: Path, **changed: object) -> SlotRecord:
    """The record of a worker that was killed, with fields as if it had run elsewhere or earlier."""
    slot = Slots(folder).take()
    slot.register("wrk_1")
    record = SlotRecord.model_validate_json(slot.path.read_bytes()).model_copy(update={"pid": 2**22, **changed})
    slot.path.write_text(record.model_dump_json())
    slot.release()
    return record


@pytest.mark.parametrize(
    "changed",
    [{}, {"host": "an-earlier-container"}, {"boot_id": "before the restart"}],
    ids=["another process", "another container on this machine", "before a restart of this machine"],
)
def test_a_successor_is_known_by_its_slot_and_not_by_process_or_container(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    dead_slot(tmp_path, **changed)
    slot = Slots(tmp_path).take()
    assert (slot.path.name, slot.worker_id) == ("0.json", "wrk_1")
    slot.clear()
    slot.release()
    assert Slots(tmp_path).take().worker_id is None


def test_a_slot_of_another_machine_is_left_alone(tmp_path: Path) -> None:
    """Its worker may live: locks need not hold over a network. Its job waits for the end of the lease."""
    dead_slot(tmp_path, host="far", boot_id="another")
    slots = Slots(tmp_path)
    own = slots.take()
    assert (own.path.name, own.worker_id) == ("1.json", None)
    assert list(slots.abandoned(own)) == []


def test_a_process_that_got_the_same_pid_later_is_not_ended(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as other:
        identity = process_identity(other.pid)
        assert identity is not None
        another = identity[:-1] + ("1" if identity.endswith("0") else "0")  # it ends with the time of the start
        assert not end_process(other.pid, another, 0)
        assert other.poll() is None
        assert end_process(other.pid, identity, 1 if IS_WINDOWS else 20)  # where nothing asks it
        assert abs(other.wait(20)) == 15


def test_an_engine_that_could_not_be_ended_stays_recorded_under_the_next_worker(shop: Any, tmp_path: Path) -> None:
    shop.submit([])
    lease = shop.claim()
    slot = Slots(tmp_path).take()
    slot.register("wrk_1")
    with subprocess.Popen(SLEEP, start_new_session=True) as engine:
        slot.add_engine(engine.pid, lease)
        slot.clear()
        slot.register("wrk_2")
        engines = SlotRecord.model_validate_json(slot.path.read_bytes()).engines
        assert [(each.pid, each.job_id, each.token) for each in engines] == [(engine.pid, lease.job_id, 1)]
        assert [each.pid for each in slot.end_engines(20)] == [engine.pid]
    slot.clear()
    assert not slot.path.exists()
