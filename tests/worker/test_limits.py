"""Workers that end by themselves, and the exit codes that say how their jobs went."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rvc_train.cli import exit_codes
from rvc_train.schemas.jobs import Resources
from tests.programs import run_program
from tests.systems import scripts
from worker.hardware.devices import gpu_resources
from worker.limits import ExitCode
from worker.settings import WorkerSettings


def ends_with(shop: Any, stop: threading.Event | None = None, **settings: object) -> ExitCode:
    """Exit code of a worker that ends by itself."""
    settings = {"device": "cpu", "conversions": False, "exit_when_idle_seconds": 20} | settings
    return shop.work(stop or threading.Event(), **settings)


def test_one_job_is_run_and_others_are_left(shop: Any) -> None:
    first, second = shop.submit(shop.MAKE_VOICE), shop.submit(shop.MAKE_VOICE)
    assert ends_with(shop, worker_max_jobs=1) is ExitCode.DONE
    assert [shop.job(each).status for each in (first, second)] == ["succeeded", "queued"]
    assert ends_with(shop, exit_when_idle_seconds=0) is ExitCode.DONE, "idle after the second one"
    assert shop.job(second).status == "succeeded"
    assert ends_with(shop, exit_when_idle_seconds=0.1) is ExitCode.NOTHING_RUN


def test_a_certain_job_is_run_until_its_end_or_not_at_all(shop: Any) -> None:
    other = shop.submit(shop.MAKE_VOICE, priority=9)
    job = shop.submit(shop.MAKE_VOICE)
    assert ends_with(shop, worker_job=job) is ExitCode.DONE
    assert (shop.job(job).status, shop.job(other).status) == ("succeeded", "queued")
    for job_id in (job, "job_unknown"):
        assert ends_with(shop, worker_job=job_id) is ExitCode.NOTHING_RUN
    too_large = shop.submit(shop.MAKE_VOICE, resources=Resources(gpus=1))
    assert ends_with(shop, worker_job=too_large) is ExitCode.NOTHING_RUN
    labelled = shop.submit(shop.MAKE_VOICE, resources=Resources(labels={"pool": "a"}))
    assert ends_with(shop, worker_job=labelled, worker_labels="pool=a,disk=fast") is ExitCode.DONE


def test_the_exit_code_tells_a_job_that_failed_from_one_that_is_tried_again(shop: Any) -> None:
    crash = [["exit", 9]]
    job = shop.submit(crash, max_attempts=2)
    assert ends_with(shop, worker_max_jobs=1) is ExitCode.HANDED_BACK
    assert ends_with(shop, worker_max_jobs=1) is ExitCode.JOB_FAILED
    assert shop.job(job).status == "failed"
    job = shop.submit(crash, max_attempts=2)
    assert ends_with(shop, worker_job=job) is ExitCode.JOB_FAILED, "it goes on with its job"
    assert len(shop.attempts(job)) == 2


def test_a_one_shot_worker_that_is_stopped_hands_its_job_back(shop: Any) -> None:
    job = shop.submit([["sleep", 30], *shop.MAKE_VOICE])
    stop, codes = threading.Event(), list[ExitCode]()
    thread = threading.Thread(target=lambda: codes.append(ends_with(shop, stop, worker_max_jobs=1)))
    thread.start()
    shop.wait_for(job, "running")
    stop.set()
    thread.join(20)
    assert (codes, shop.job(job).status) == ([ExitCode.HANDED_BACK], "queued")


def test_the_command_line_sets_the_limits_and_passes_the_exit_code_on(shop: Any) -> None:
    environment = os.environ | {"RVC_TRAIN_DATA_FOLDER": str(shop.folder), "RVC_TRAIN_DEVICE": "cpu"}
    arguments = ["worker", "--job", "job_unknown", "--label", "pool=a", "--label", "disk=fast"]
    done = run_program("rvc_train", *arguments, environment=environment)
    assert done.returncode == ExitCode.NOTHING_RUN, done.stderr
    assert "there is no job job_unknown" in done.stderr
    both = run_program("rvc_train", "worker", "--once", "--max-jobs", "2", environment=environment)
    assert (both.returncode, "--once is --max-jobs 1" in both.stderr) == (2, True)


def test_exit_codes_are_those_of_the_command_line() -> None:
    ours = (ExitCode.DONE, ExitCode.JOB_FAILED, ExitCode.NOTHING_RUN, ExitCode.HANDED_BACK)
    names = ("DONE", "JOB_FAILED", "WORKER_RAN_NOTHING", "WORKER_HANDED_BACK")
    assert ours == tuple(getattr(exit_codes, name) for name in names)


def test_labels_are_pairs_with_commas_between_them() -> None:
    assert WorkerSettings(worker_labels="pool=a, disk = fast").labels == {"pool": "a", "disk": "fast"}
    assert WorkerSettings().labels == {}
    for wrong in ("pool", "=a", "a b=c"):
        with pytest.raises(ValueError, match="label"):
            WorkerSettings(worker_labels=wrong)


@scripts
def test_a_worker_finds_its_gpus_and_the_memory_of_the_smallest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_resources("cpu", {}) == (0, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_resources("cuda:0+cuda:1", {}) == (2, None), "no driver to ask"
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\n[ "$3" = --id=1 ] && echo 8192 || echo 81920\n')
    smi.chmod(0o755)
    assert gpu_resources("cuda:0", {}) == (1, 80 * 2**30)
    assert gpu_resources("cuda:0+cuda:1", {}) == (2, 8 * 2**30)
