"""Readings of a worker's GPUs are shown while it is alive."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from rvc_train.schemas.workers import GpuPublic
from server.database.engine import read_session
from server.job_store.liveness import WorkerLiveness
from server.jobs.serializers import workers_public
from server.storage.local import Storage
from server.workers.gpu_telemetry import RETENTION, delete_gpu_telemetry, with_gpus, write_gpu_telemetry
from worker.hardware import gpus
from worker.hardware.gpus import GpuMonitor, read_gpu

GIB = 2**30


class Driver:
    """The used part of NVIDIA's library, with two GPUs and a MIG partition."""

    NVMLError = pynvml.NVMLError

    def __init__(self) -> None:
        self.is_open = False

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name, as all that follow
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index > 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"GPU-{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return f"Card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=20 * GIB, total=80 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        if handle.startswith("MIG"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=75, memory=30)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    fake = Driver()
    for name in (name for name in dir(Driver) if name.startswith("nvml")):
        assert callable(getattr(pynvml, name)), f"the real library has no {name}"
    monkeypatch.setattr(gpus, "pynvml", fake)
    yield fake
    assert not fake.is_open


def test_use_and_memory_of_a_gpu_are_read_by_index_or_uuid(driver: Driver) -> None:
    assert read_gpu("1") == GpuPublic(
        name="Card GPU-1", use=0.75, memory_used_bytes=20 * GIB, memory_total_bytes=80 * GIB
    )
    assert read_gpu("GPU-aaaa").name == "Card GPU-aaaa"


def test_of_a_mig_partition_only_the_memory_is_read(driver: Driver) -> None:
    assert (read_gpu("MIG-1").use, read_gpu("MIG-1").memory_total_bytes) == (None, 80 * GIB)


def _workers(shop: Any, lease_seconds: float = 60) -> list[Any]:
    with read_session(shop.engine) as session:
        workers = workers_public(session, datetime.now(UTC), WorkerLiveness(lease_seconds))
        return with_gpus(workers, shop.storage, lease_seconds)


def test_the_gpus_of_a_worker_are_shown_until_it_ends(shop: Any, driver: Driver) -> None:
    with shop.worker(device="cuda:0+cuda:1"):
        shop.wait_until(lambda: any(worker.gpus for worker in _workers(shop)), "a reading")
        (worker,) = _workers(shop)
        assert [(gpu.name, gpu.use) for gpu in worker.gpus] == [("Card GPU-0", 0.75), ("Card GPU-1", 0.75)]
    assert [worker.gpus for worker in _workers(shop)] == [[]]
    assert shop.storage.gpu_telemetry_files() == []


def test_a_worker_on_a_cpu_has_no_gpus(shop: Any, driver: Driver) -> None:
    with shop.worker(device="cpu"):
        shop.wait_until(lambda: bool(_workers(shop)), "the worker")
        assert _workers(shop)[0].gpus == []


def test_a_machine_without_the_driver_has_workers_all_the_same(shop: Any) -> None:
    with shop.worker(device="auto"):
        shop.wait_until(lambda: bool(_workers(shop)), "the worker")
        assert _workers(shop)[0].status == "idle"


def test_a_gpu_that_the_driver_lost_leaves_the_watch_going(shop: Any, driver: Driver) -> None:
    watch = GpuMonitor(shop.register(), ["7"], 0.01)
    watch.start()
    shop.wait_until(lambda: driver.is_open, "the first look")
    assert shop.storage.gpu_telemetry_files() == []
    watch.stop()


def test_readings_of_long_ago_are_not_shown_and_go(shop: Any) -> None:
    worker_id = shop.jobs.register_worker("one", 1, "here", "cuda:0")
    now = datetime.now(UTC)
    gpu = GpuPublic(name="Card", memory_used_bytes=1, memory_total_bytes=2)
    write_gpu_telemetry(shop.storage, worker_id, [gpu], now - timedelta(seconds=90))
    assert _workers(shop)[0].gpus == []
    assert _workers(shop, lease_seconds=100)[0].gpus == [gpu]
    shop.storage.gpu_telemetry_file(worker_id).write_text("{half")
    assert _workers(shop, lease_seconds=100)[0].gpus == []
    delete_gpu_telemetry(shop.storage, now + RETENTION + timedelta(minutes=1))
    assert shop.storage.gpu_telemetry_files() == []


def test_no_reading_lies_where_an_id_is_none_of_ours(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="not a valid id"):
        write_gpu_telemetry(Storage(tmp_path), "../../etc", [], datetime.now(UTC))
