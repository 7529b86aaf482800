"""Several jobs at once on one device: each with an engine, a lease and a share of its own."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.child_processes import engine_environment
from rvc_engine.environment.processes import process_identity
from rvc_train.schemas.workers import num_sharing, share_name
from server.admin.doctor import MIN_SHARE_BYTES, _shares
from server.database.engine import read_session
from server.database.tables import Worker
from tests.programs import run_program
from worker import places
from worker.conversions.placement import Trainings, TrainingState, choose_device
from worker.gateway.errors import SettingsRefused
from worker.hardware.calibration import Calibrator
from worker.limits import ExitCode, Limits
from worker.places import GIB, has_mps, run_together, share_of_memory
from worker.settings import WorkerSettings


def meet(shop: Any, folder: Path, *then: list[object]) -> list[str]:
    """Two jobs, each of which ends only once the other one runs: one after the other they would wait forever."""
    return [shop.submit([["train", 1, 0.01, 1], ["meet", str(folder), 2], *then, *shop.MAKE_VOICE]) for _ in range(2)]


def test_two_jobs_run_at_once_each_with_an_engine_a_lease_and_its_share(shop: Any, tmp_path: Path) -> None:
    jobs = meet(shop, tmp_path / "meeting", ["report_environment"])
    with shop.worker(device="cpu", jobs_per_device=2, worker_name="pair"):
        ended = [shop.wait_for(job, "succeeded", "failed", seconds=60) for job in jobs]
    assert [job.status for job in ended] == ["succeeded", "succeeded"]
    first, second = (shop.attempts(job)[0] for job in jobs)
    assert max(first.started_at, second.started_at) < min(first.ended_at, second.ended_at), "at the same time"
    for job in jobs:
        reported = json.loads(shop.log(job).split("environment: ")[1].splitlines()[0])
        assert reported["jobs_per_device"] == 2
        assert reported["threads"] == max(1, (os.cpu_count() or 1) // 2)
        assert reported["environment"]["OMP_NUM_THREADS"] == str(reported["threads"])
    with read_session(shop.engine) as session:
        workers = list(session.scalars(sa.select(Worker).order_by(sa.column("name"))))
    assert {worker.id for worker in workers} == {first.worker_id, second.worker_id}
    assert [(worker.name, worker.serves_conversions) for worker in workers] == [("pair-1", True), ("pair-2", False)]
    assert {num_sharing(worker.device_name) for worker in workers} == {num_sharing(first.device_name)} == {2}
    assert all(worker.stopped_at is not None for worker in workers)
    assert not list((shop.folder / "workers").glob("*.json")), "no record of a worker is left"


def test_an_engine_that_dies_leaves_the_other_one_running(shop: Any, tmp_path: Path) -> None:
    go_on, meeting = tmp_path / "go on", tmp_path / "meeting"
    jobs = meet(shop, meeting, ["wait_for_file", str(go_on)])
    with shop.worker(device="cpu", jobs_per_device=2, conversions=False):
        shop.wait_until(lambda: meeting.is_dir() and len(list(meeting.iterdir())) == 2, "both engines", 60)
        killed, other = map(shop.engine_pid, jobs)
        os.kill(killed, signal.SIGKILL)
        shop.wait_until(lambda: len(shop.attempts(jobs[0])) == 2, "another attempt", 60)
        os.kill(other, 0)
        go_on.touch()
        assert [shop.wait_for(job, "succeeded", "failed", seconds=60).status for job in jobs] == [
            "succeeded",
            "succeeded",
        ]
    assert [len(shop.attempts(job)) for job in jobs] == [2, 1]


def test_a_stopped_worker_hands_all_its_jobs_back_and_the_next_one_continues_them(shop: Any, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    jobs = meet(shop, meeting, ["sleep", 30])
    with shop.worker(device="cpu", jobs_per_device=2, conversions=False):
        shop.wait_until(lambda: meeting.is_dir() and len(list(meeting.iterdir())) == 2, "both engines", 60)
    assert [shop.job(job).status for job in jobs] == ["queued", "queued"]


def test_a_killed_workers_engines_are_all_ended_by_the_next_one(shop: Any, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    jobs = meet(shop, meeting, ["ignore_stop"], ["wait_for_file", str(tmp_path / "go on")])
    with shop.worker_process(device="cpu", jobs_per_device=2, conversions=False):
        shop.wait_until(lambda: meeting.is_dir() and len(list(meeting.iterdir())) == 2, "both engines", 60)
        pids = [shop.engine_pid(job) for job in jobs]
    (tmp_path / "go on").touch()
    with shop.worker(device="cpu", jobs_per_device=2, conversions=False):
        assert [shop.wait_for(job, "succeeded", "failed", seconds=60).status for job in jobs] == [
            "succeeded",
            "succeeded",
        ]
    assert [process_identity(pid) for pid in pids] == [None, None]
    assert [len(shop.attempts(job)) for job in jobs] == [2, 2]


def test_limits_are_those_of_the_worker_and_not_of_each_place(shop: Any, tmp_path: Path) -> None:
    jobs = [*meet(shop, tmp_path / "meeting"), shop.submit(shop.MAKE_VOICE)]
    settings = {"device": "cpu", "jobs_per_device": 2, "conversions": False}
    shop.submit([["meet", str(tmp_path / "meeting"), 2], *shop.MAKE_VOICE])
    assert shop.work(threading.Event(), worker_max_jobs=3, **settings) is ExitCode.DONE
    assert [shop.job(job).status for job in jobs] == ["succeeded"] * 3
    assert shop.work(threading.Event(), exit_when_idle_seconds=0.3, **settings) is ExitCode.DONE
    assert shop.work(threading.Event(), exit_when_idle_seconds=0.1, **settings) is ExitCode.NOTHING_RUN


@pytest.mark.parametrize(("most", "shares"), [(None, [None] * 4), (1, [1]), (6, [2, 2, 1, 1])])
def test_a_number_of_jobs_is_divided_among_the_places(most: int | None, shares: list[int | None]) -> None:
    settings = WorkerSettings(jobs_per_device=4, worker_max_jobs=most)
    assert [limits.max_jobs for limits in Limits.of(settings)] == shares


def test_a_worker_for_a_certain_job_takes_one_share_and_leaves_the_others_to_whoever_started_it() -> None:
    settings = WorkerSettings(jobs_per_device=4, worker_job="job_1", engines_per_machine=1)
    assert (settings.num_places, settings.num_threads) == (1, max(1, (os.cpu_count() or 1) // 4))


def test_no_place_is_idle_while_another_one_works() -> None:
    first, second = Limits.of(WorkerSettings(jobs_per_device=2, exit_when_idle_seconds=0))
    with first.running():
        assert not second.has_idled
    assert second.has_idled


@pytest.mark.parametrize("wrong", ["0", "17", "two"])
def test_a_number_of_jobs_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, wrong: str) -> None:
    environment = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(tmp_path), "RVC_TRAIN_JOBS_PER_DEVICE": wrong}
    done = run_program("worker", environment=environment)
    assert done.returncode == 2
    assert "jobs_per_device" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_job_has_a_share_of_the_memory_and_too_many_are_refused() -> None:
    assert share_of_memory(24 * GIB, 1) == 24 * GIB
    assert share_of_memory(24 * GIB, 4) == 6 * GIB
    assert share_of_memory(None, 4) is None
    with pytest.raises(SettingsRefused, match=r"leaves each job 1\.5 GiB of the GPU's 24\.0 GiB.*set it to 12 or less"):
        share_of_memory(24 * GIB, 16)


def test_a_gpu_without_memory_for_so_many_jobs_ends_the_worker_before_it_takes_one(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "programs" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text('#!/bin/sh\ncase "$1" in *memory*) echo 8192;; *) echo "NVIDIA L4";; esac\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent))
    job = shop.submit(shop.MAKE_VOICE)
    with pytest.raises(SettingsRefused, match=r"a job needs 2 GiB; set it to 4 or less"):
        shop.work(threading.Event(), device="cuda:0", jobs_per_device=5)
    assert shop.job(job).status == "queued"
    with shop.worker(device="cuda:0", jobs_per_device=4, conversions=False, calibrate=False):
        shop.wait_for(job, "succeeded", seconds=60)
    with read_session(shop.engine) as session:
        found = session.execute(sa.select(Worker.device_name, Worker.num_gpus, Worker.gpu_memory_bytes)).all()
    assert set(found) == {("NVIDIA L4 (1/4)", 1, 2 * GIB)}


def test_conversions_wait_for_the_gpu_while_any_job_measures_it_and_have_the_workers_cores(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    settings = shop.settings(device="cuda:0", jobs_per_device=4)
    one, other = TrainingState(), TrainingState()
    both = Trainings([one, other])
    assert choose_device(settings, both, {"0": 100 * GIB}.get, {}, {}).threads == 16
    one.begin()
    other.begin()
    one.has_stepped = True
    placed = choose_device(settings, both, {"0": 100 * GIB}.get, {}, {})
    assert (placed.device, placed.threads) == ("cpu", 4)
    other.has_stepped = True
    assert choose_device(settings, both, {"0": 100 * GIB}.get, {}, {}).device == "cuda:0"


def test_a_shared_device_is_measured_only_while_no_place_has_a_job(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []

    def command(*arguments: str) -> list[str]:
        commands.append(arguments)
        return ["/bin/sleep", "60"]

    monkeypatch.setattr("worker.hardware.calibration.python_command", command)
    other = TrainingState()
    settings = shop.settings(device="cpu", jobs_per_device=2, calibration_idle_seconds=0)
    settings = settings.model_copy(update={"engine_command": WorkerSettings().engine_command})
    calibrator = Calibrator(settings, shop.gateway(), lambda: other.is_running)
    other.begin()
    calibrator.on_idle()
    assert commands == []
    other.end()
    calibrator.on_idle()
    calibrator.stop()
    assert "--jobs-per-device=2" in commands[0]
    assert num_sharing(calibrator._device_name) == 2


def test_an_error_of_one_place_stops_the_others_and_is_raised() -> None:
    stop = threading.Event()

    def fail() -> None:
        raise RuntimeError("broken")

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="broken"):
        run_together([lambda: assert_true(stop.wait(20)), fail], stop)
    assert time.monotonic() - began < 10


def assert_true(value: bool) -> None:
    assert value


def test_a_share_is_read_from_a_devices_name() -> None:
    assert share_name("NVIDIA L4", 1) == "NVIDIA L4"
    assert share_name("a CPU (2 cores)", 4) == "a CPU (2 cores) (1/4)"
    assert [num_sharing(name) for name in ("a CPU (2 cores) (1/4)", "NVIDIA L4", None)] == [4, 1, 1]


def test_a_multi_process_service_that_runs_is_found_and_its_folder_is_given_to_engines(tmp_path: Path) -> None:
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    assert not has_mps(environment)
    (tmp_path / "control").touch()
    assert has_mps(environment)
    assert engine_environment(environment)["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path)


def test_the_doctor_names_the_memory_of_each_of_several_jobs() -> None:
    assert list(_shares("cuda:0", 24 * GIB, "1")) == list(_shares("cuda:0", 24 * GIB, "")) == []
    [fine], [short] = _shares("cuda:0", 24 * GIB, "4"), _shares("cuda:0", 24 * GIB, "16")
    assert (fine.state, short.state) == ("ok", "fault")
    assert "leaves each job 1.5 GiB, and a job needs 2 GiB" in short.text
    assert MIN_SHARE_BYTES == places.MIN_SHARE_BYTES
