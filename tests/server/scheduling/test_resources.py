"""A worker takes the jobs whose requirements it meets; the others say what is lacking."""

from typing import Any

import pytest
import sqlalchemy as sa

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import Resources
from server.database.tables import Worker
from server.estimates.resources import least_memory_bytes
from server.scheduling.resources import Needs, fits, lacking, needs_of, parse_needs

GB = 10**9
LABELS = {"pool": "nightly"}


def worker(**columns: Any) -> Worker:
    return Worker(name="w", device=columns.pop("device", "cuda:0"), **columns)


CPU = worker(device="cpu", num_gpus=0, labels={})
SMALL = worker(num_gpus=1, gpu_memory_bytes=8 * GB, labels={})
LARGE = worker(num_gpus=2, gpu_memory_bytes=80 * GB, labels=LABELS)
UNKNOWN = worker(device="xpu:0", num_gpus=1, labels={})
EARLIER = worker(labels={})


@pytest.mark.parametrize(
    ("needs", "takers"),
    [
        (Needs(), [CPU, SMALL, LARGE, UNKNOWN, EARLIER]),
        (Needs(gpus=1), [SMALL, LARGE, UNKNOWN, EARLIER]),
        (Needs(gpus=2), [LARGE]),
        (Needs(gpus=1, gpu_memory_bytes=24 * GB), [LARGE, UNKNOWN, EARLIER]),
        (Needs(gpu_memory_bytes=24 * GB), [CPU, LARGE, UNKNOWN, EARLIER]),
        (Needs(labels=LABELS), [LARGE]),
        (Needs(labels={"pool": "daily"}), []),
    ],
)
def test_a_job_goes_to_workers_that_have_what_it_needs(needs: Needs, takers: list[Worker]) -> None:
    everyone = [CPU, SMALL, LARGE, UNKNOWN, EARLIER]
    assert [each for each in everyone if fits(needs, each)] == takers
    assert parse_needs(needs.text) == needs


def test_what_is_not_given_follows_from_the_config() -> None:
    small, usual = TrainingConfig(width=24, pretrained="none"), TrainingConfig()
    assert least_memory_bytes(small) < least_memory_bytes(usual) < 4 * GB
    assert needs_of(Resources(), 3 * GB) == Needs(0, 3 * GB)
    assert needs_of(Resources(gpu_memory_bytes=24 * GB), 3 * GB) == Needs(1, 24 * GB)
    assert needs_of(Resources(gpus=0, gpu_memory_bytes=24 * GB), 3 * GB) == Needs(0, 24 * GB)
    assert needs_of(Resources(gpu_memory_bytes=0), 3 * GB) == Needs(0, None)
    assert needs_of(Resources(labels=LABELS), 0) == Needs(labels=LABELS)


def test_jobs_say_what_no_worker_has() -> None:
    workers = [CPU, SMALL]
    assert lacking(Needs(gpus=1), workers) == []
    assert lacking(Needs(gpus=2), []) == []
    assert lacking(Needs(gpus=2), workers) == [
        "the job needs 2 GPUs in one worker, and no running worker has more than 1"
    ]
    assert lacking(Needs(gpus=1), [CPU]) == ["the job needs a GPU, and no running worker has one"]
    assert lacking(Needs(1, 24 * GB), [SMALL]) == [
        "the job needs 24.0 GB of GPU memory, and the GPU of no running worker has more than 8.0 GB"
    ]
    assert lacking(Needs(labels=LABELS), workers) == [
        "the job needs a worker with the label pool=nightly, and no running worker has it"
    ]
    apart = [CPU, SMALL, worker(num_gpus=0, device="cpu", labels=LABELS)]
    assert lacking(Needs(1, labels=LABELS), apart) == [
        "each running worker lacks a part of what the job needs: 1 GPU, pool=nightly"
    ]


def test_claims_match_and_a_job_that_no_worker_can_take_holds_nobody_up(bench: Any) -> None:
    labelled = bench.job(resources=Resources(labels=LABELS), priority=5)
    large = bench.job(resources=Resources(gpu_memory_bytes=24 * GB))
    any_one = bench.job()
    cpu = bench.worker()
    assert bench.jobs.claim(cpu, job_id=large.id) is None
    assert bench.jobs.claim(cpu).job_id == any_one.id
    assert bench.jobs.claim(cpu) is None
    gpu = bench.jobs.register_worker("gpu", 1, "here", "cuda:0", num_gpus=1, gpu_memory_bytes=80 * GB, labels=LABELS)
    assert bench.jobs.claim(gpu).job_id == labelled.id
    assert bench.jobs.claim(gpu, job_id=large.id).job_id == large.id
    assert bench.jobs.claim(gpu, job_id=large.id) is None


def test_jobs_of_earlier_versions_go_to_any_worker(bench: Any) -> None:
    job = bench.job(resources=Resources(gpus=4))
    with bench.jobs.engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET needs = '', resources = NULL"))
    assert bench.claim().job_id == job.id
