"""Engines of a worker see the worker's own GPU only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.systems import scripts
from worker.hardware.devices import device_environment, device_name, engine_device


@pytest.mark.parametrize(
    ("device", "visible", "shown", "for_engine"),
    [
        ("cuda", "", "0", "cuda:0"),
        ("cuda:1", "", "1", "cuda:0"),
        ("cuda:1", "4,6", "6", "cuda:0"),
        ("cuda:0+cuda:2", "", "0,2", "cuda:0,cuda:1"),
        ("cuda:0", "GPU-aaaa,GPU-bbbb", "GPU-aaaa", "cuda:0"),
        ("cpu", "0,1", "", "cpu"),
    ],
)
def test_a_device_is_bound_to_what_the_machine_shows(device: str, visible: str, shown: str, for_engine: str) -> None:
    assert device_environment(device, {"CUDA_VISIBLE_DEVICES": visible})["CUDA_VISIBLE_DEVICES"] == shown
    assert engine_device(device) == for_engine


def test_a_worker_that_may_choose_binds_nothing() -> None:
    assert (device_environment("auto", {}), engine_device("auto")) == ({}, "auto")


@scripts
def test_a_gpu_is_called_as_the_driver_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "Card of $3"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert device_name("cuda:3", {}) == "Card of --id=3"
    assert device_name("cuda:0+cuda:1", {}) == "2 x Card of --id=0"
    assert "cores" in device_name("cpu", {})


def test_two_workers_run_two_jobs_each_on_its_own_gpu_and_the_attempts_say_which(shop: Any) -> None:
    script = [["report_environment"], ["sleep", 0.5], *shop.MAKE_VOICE]
    jobs = [shop.submit(script), shop.submit(script)]
    with shop.worker(device="cuda:0"), shop.worker(device="cuda:1"):
        for job_id in jobs:
            shop.wait_for(job_id, "succeeded")
    reported = {}
    for job_id in jobs:
        report = json.loads(shop.log(job_id).split("environment: ")[1].splitlines()[0])
        reported[shop.attempts(job_id)[0].device] = (report["device"], report["environment"]["CUDA_VISIBLE_DEVICES"])
    assert reported == {"cuda:0": ("cuda:0", "0"), "cuda:1": ("cuda:0", "1")}


def test_a_worker_whose_gpu_is_not_there_says_so_in_one_sentence_and_ends(tmp_path: Path) -> None:
    environment = dict(os.environ) | {"RVC_TRAIN_DEVICE": "cuda:99", "RVC_TRAIN_DATA_FOLDER": str(tmp_path / "data")}
    command = [sys.executable, "-P", "-m", "worker"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "RVC_TRAIN_DEVICE=cuda:99 asks for 1 GPU(s), and PyTorch finds 0 of them" in line
    assert not (tmp_path / "data").exists()
