"""The device of conversions, by faked readings of a GPU's memory; the engine leaves it when a training needs it."""

import os
import sys
from pathlib import Path

import pytest

from worker.conversions.engines import ConversionEngines
from worker.conversions.placement import GIB, TrainingState, choose_device
from worker.conversions.service import ConversionService
from worker.engine.slots import Slots
from worker.engine.workspaces import Workspaces

FAKE_ENGINE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
LIMIT, SPARE = 4 * GIB, 1 * GIB


def choose(shop, free, device="cuda:0", training=None, held=None):
    settings = shop.settings(device=device, conversion_memory_bytes=LIMIT, conversion_spare_bytes=SPARE)
    return choose_device(settings, training or TrainingState(), free.get, held or {}, {})


def test_a_gpu_is_used_where_a_gigabyte_stays_free_after_the_conversions_need(shop):
    assert choose(shop, {"0": LIMIT + SPARE}).device == "cuda:0"
    short = choose(shop, {"0": LIMIT + SPARE - 1})
    assert (short.device, short.gpu) == ("cpu", None)
    assert short.reason.startswith("only 5.0 GiB of the GPU's memory are free, and a conversion needs 5.0 GiB")


def test_memory_that_the_engine_holds_already_counts_as_free(shop):
    assert choose(shop, {"0": LIMIT + SPARE - GIB}, held={"0": GIB}).device == "cuda:0"


def test_of_several_gpus_the_one_with_the_most_free_memory_is_used(shop):
    assert choose(shop, {"2": 2 * GIB, "5": 20 * GIB}, device="cuda:2+cuda:5").device == "cuda:1"


@pytest.mark.parametrize(
    ("device", "free", "words"),
    [
        ("cpu", {}, "this worker has no GPU"),
        ("auto", {}, "there is no GPU whose free memory can be measured"),
        ("mps", {}, "the free memory of this GPU cannot be measured"),
    ],
)
def test_without_a_measured_gpu_the_cpu_is_used_which_the_reason_says(shop, device, free, words):
    assert choose(shop, free, device=device).reason.startswith(f"{words}; ")


def test_beside_a_training_a_quarter_of_the_cores_is_used_and_all_of_them_otherwise(shop, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    training = TrainingState()
    assert choose(shop, {}, device="cpu").threads == 16
    training.begin()
    placed = choose(shop, {}, device="cpu", training=training)
    assert (placed.threads, placed.reason) == (4, "this worker has no GPU; 4 of 16 CPU cores at a low priority")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert choose(shop, {}, device="cpu", training=training).threads == 1


def test_a_training_that_measures_the_memory_finds_all_of_it(shop):
    training = TrainingState()
    training.begin()
    assert choose(shop, {"0": 100 * GIB}, training=training).device == "cpu"
    training.has_stepped = True
    assert choose(shop, {"0": 100 * GIB}, training=training).device == "cuda:0"


class Bench:
    """Conversions whose engine and GPU are fakes: the memory that is free is what a test says."""

    def __init__(self, studio, **changed):
        self.studio, self.free, self.training = studio, 100 * GIB, TrainingState()
        shop = studio.shop
        settings = shop.settings(device="cuda:0", conversion_command=FAKE_ENGINE, **changed)
        self.slot = Slots(shop.folder).take()
        worker = shop.register()
        self.slot.register(worker.worker_id)
        self.engines = ConversionEngines(settings, shop.folder, self.slot, self.training, lambda _gpu: self.free)
        workspaces = Workspaces(shop.gateway().folders, None)
        self.service = ConversionService(settings, worker, workspaces, self.engines, lambda: False)

    def __enter__(self):
        self.service.start()
        return self

    def __exit__(self, *_):
        self.service.stop()
        self.slot.release()


def mark(studio, name):
    (studio.voice.parent / name).touch()


def test_a_conversion_runs_on_the_gpu_and_the_answer_says_so(studio, recording):
    with Bench(studio):
        done = studio.wait_for(studio.convert(recording(0.5)), "succeeded", "failed")
    assert (done.device, done.device_reason) == ("cuda:0", "100.0 GiB of the GPU's memory are free")


def test_a_conversion_leaves_the_gpu_when_memory_is_short_and_ends_on_the_cpu(studio, recording):
    mark(studio, "slow")
    conversion_id = studio.convert(recording(0.5))
    with Bench(studio) as bench:
        studio.shop.wait_until(lambda: studio.get(conversion_id).progress > 0.3, "the conversion on the GPU", 60)
        bench.free = SPARE - 1
        done = studio.wait_for(conversion_id, "succeeded", "failed")
    assert (done.status, done.device) == ("succeeded", "cpu")
    assert done.device_reason.startswith("a training needs the GPU's memory; ")


def test_a_job_that_begins_finds_the_gpu_left_by_the_conversions(studio, recording):
    mark(studio, "slow")
    conversion_id = studio.convert(recording(0.5))
    with Bench(studio) as bench:
        studio.shop.wait_until(lambda: studio.get(conversion_id).progress > 0.3, "the conversion on the GPU", 60)
        bench.training.begin()
        bench.engines.make_room()
        on_gpu = bench.engines._engine is not None and bench.engines._engine.placement.gpu is not None
        done = studio.wait_for(conversion_id, "succeeded", "failed")
    assert not on_gpu
    assert (done.status, done.device) == ("succeeded", "cpu")


def test_a_recording_too_large_for_the_gpu_is_converted_on_the_cpu(studio, recording):
    mark(studio, "oom")
    with Bench(studio):
        done = studio.wait_for(studio.convert(recording(0.5)), "succeeded", "failed")
    assert (done.status, done.device) == ("succeeded", "cpu")
    assert done.device_reason.startswith("the GPU's memory did not suffice for this recording; ")


def test_an_engine_that_ends_in_a_recording_is_started_again_and_no_more_than_once(studio, recording):
    mark(studio, "crash once")
    with Bench(studio):
        assert studio.wait_for(studio.convert(recording(0.5)), "succeeded", "failed").status == "succeeded"
        mark(studio, "crash")
        failed = studio.wait_for(studio.convert(recording(0.5)), "succeeded", "failed")
    assert (failed.status, failed.error_code) == ("failed", "engine_crashed")
    assert "ended with exit code 7" in failed.error_message


def test_an_idle_engine_is_ended(studio, recording):
    with Bench(studio, conversion_idle_minutes=1 / 60) as bench:
        studio.wait_for(studio.convert(recording(0.5)), "succeeded")
        assert bench.engines.is_running
        studio.shop.wait_until(lambda: not bench.engines.is_running, "the end of the idle engine", 30)


def test_a_silent_engine_is_ended_and_the_conversion_fails(studio, recording):
    mark(studio, "slow")
    with Bench(studio, silence_seconds=1):
        failed = studio.wait_for(studio.convert(recording(0.5)), "succeeded", "failed")
    assert (failed.error_code, "was silent for 1 s" in failed.error_message) == ("timed_out", True)
