"""Conversions by a worker with a real engine, beside a job that trains."""

import contextlib
import hashlib
import time

import psutil
import soundfile

from rvc_engine.environment.processes import process_identity
from tests.systems import IS_WINDOWS, orphans
from worker.engine.slots import SlotRecord

REAL = {"stop_seconds": 5, "silence_seconds": 120, "device": "cpu"}


def conversion_engines(shop):
    """Pids of the engines recorded in the slots that serve conversions."""
    records = [SlotRecord.model_validate_json(path.read_bytes()) for path in (shop.folder / "workers").glob("*.json")]
    return [engine.pid for record in records for engine in record.engines if engine.job_id is None]


def test_a_batch_is_converted_beside_a_training_that_goes_on(studio, shop, recording):
    conversion_id = studio.convert(recording(1.0), b"not sound", recording(0.2), pitch_shift="auto", format="flac")
    with shop.worker(**REAL):
        done = studio.wait_for(conversion_id, "succeeded", "failed")
        assert (done.status, shop.job(studio.job_id).status) == ("succeeded", "running")
        steps = len(shop.steps(studio.job_id))
        shop.wait_until(lambda: len(shop.steps(studio.job_id)) > steps, "the training's next step")
        [pid] = conversion_engines(shop)
        if not IS_WINDOWS:  # whose priorities are limits of a job object
            assert psutil.Process(pid).nice() == min(19, psutil.Process().nice() + 10)
        second = studio.convert(recording(1.0))
        studio.wait_for(second, "succeeded")
        assert conversion_engines(shop) == [pid], "the engine, with its voice, is kept"
    assert process_identity(pid) is None, "the engine ends with its worker"
    errors = [each["error"] for each in done.results]
    assert errors[0] is errors[2] is None
    assert "the recording cannot be read" in errors[1]
    assert done.results[0]["pitch_shift"] == -12.0
    assert "could not be converted" in done.events[-1]["message"]
    path = studio.result(conversion_id)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == done.results[0]["sha256"]
    assert (soundfile.info(path).format, soundfile.info(path).duration) == ("FLAC", 1.0)
    assert done.device == "cpu"
    assert done.device_reason.startswith("this worker has no GPU; ")
    assert done.device_reason.endswith("CPU cores at a low priority")
    assert studio.left_over(conversion_id) == []


@orphans
def test_a_killed_workers_conversion_is_served_by_the_next_one_and_its_engine_ended(studio, shop, recording):
    conversion_id = studio.convert(recording(10.0))
    with shop.worker_process(**REAL) as worker:
        shop.wait_until(lambda: studio.get(conversion_id).progress > 0.04, "the conversion", 120)
        [pid] = conversion_engines(shop)
        engine = psutil.Process(pid)
        engine.suspend()  # busy, as it were: it does not notice that its input has ended
        worker.kill()
        worker.wait()
    try:
        assert process_identity(pid) is not None
        with shop.worker(**REAL):
            done = studio.wait_for(conversion_id, "succeeded", "failed", seconds=200)
        assert process_identity(pid) is None
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.kill()
    assert (done.status, done.recoveries) == ("succeeded", 1)
    assert [event["type"] for event in done.events] == ["started", "requeued", "started", "succeeded"]
    assert studio.left_over(conversion_id) == []


def test_a_cancelled_conversion_ends_at_once_and_the_engine_serves_the_next(studio, shop, recording):
    long, short = studio.convert(recording(59.0)), studio.convert(recording(0.5))
    with shop.worker(**REAL):
        studio.wait_for(long, "running")
        started = time.monotonic()
        studio.cancel(long)
        assert studio.wait_for(short, "succeeded", "failed").status == "succeeded"
        assert time.monotonic() - started < 60
    assert studio.get(long).status == "cancelled"
    assert not list((shop.storage.conversion_home(long) / "out").rglob("*.*"))


def test_a_worker_that_stops_gives_its_conversion_back(studio, shop, recording):
    conversion_id = studio.convert(recording(59.0))
    with shop.worker(**REAL) as stop:
        studio.wait_for(conversion_id, "running")
        stop.set()
        given_back = studio.wait_for(conversion_id, "waiting")
    assert (given_back.recoveries, given_back.worker_id) == (0, None)


def test_a_worker_may_leave_conversions_to_others(studio, shop, recording):
    conversion_id = studio.convert(recording(0.5))
    with shop.worker(conversions=False, **REAL):
        shop.wait_for(studio.job_id, "running")
        time.sleep(1)
        assert studio.get(conversion_id).status == "waiting"


def test_options_that_do_not_fit_the_voice_and_missing_files_fail_the_conversion_with_a_sentence(
    studio, shop, recording
):
    speaker = studio.convert(recording(0.5), speaker="bob")
    with shop.worker(**REAL):
        wrong = studio.wait_for(speaker, "failed", "succeeded")
        studio.voice.unlink()
        gone = studio.wait_for(studio.convert(recording(0.5)), "failed", "succeeded")
    assert (wrong.error_code, "no speaker 'bob'" in wrong.error_message) == ("invalid_options", True)
    assert (gone.error_code, "the save best of this voice" in gone.error_message) == ("voice_missing", True)
