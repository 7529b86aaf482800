"""Calibration of a worker's device: made once while it is idle, ended at once when a job comes."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.estimates.calibrations import Calibrations
from server.storage.local import Storage
from tests.server.estimates.test_estimates import CALIBRATION
from worker.hardware import calibration
from worker.hardware.calibration import Calibrator
from worker.settings import WorkerSettings


@pytest.fixture
def calibrator(shop: Any, tmp_path: Path) -> Callable[..., Calibrator]:
    def make(**settings: Any) -> Calibrator:
        fields = {"data_folder": tmp_path, "device": "cpu", "calibration_idle_seconds": 0, **settings}
        return Calibrator(WorkerSettings.model_validate(fields), shop.gateway())

    return make


def printing(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Calibrations run this program in place of the engine."""
    monkeypatch.setattr(calibration, "python_command", lambda *_: [sys.executable, "-c", program])


def turns_until(is_over: Callable[[], bool], calibrator: Calibrator) -> None:
    deadline = time.monotonic() + 30
    while not is_over():
        calibrator.on_idle()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_idle_worker_measures_its_device_and_keeps_the_result(
    calibrator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printing(monkeypatch, f"print({CALIBRATION.model_dump_json()!r})")
    files = tmp_path / "calibrations"
    turns_until(files.exists, calibrator())
    [file] = files.iterdir()
    name = calibration.device_name("cpu", {})
    assert Calibrations(Storage(tmp_path)).of_device(name) == CALIBRATION
    assert file.suffix == ".json"


def test_work_ends_a_calibration_which_begins_again_later(calibrator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    printing(monkeypatch, "import time; time.sleep(60)")
    made = calibrator()
    made.on_idle()
    child = made._child
    began = time.monotonic()
    made.stop()
    assert child.poll() is not None
    assert time.monotonic() - began < 10
    made.on_idle()
    assert made._child.poll() is None
    made.stop()


@pytest.mark.parametrize("program", ["import sys; sys.exit('out of luck')", "print('nonsense')"])
def test_a_failed_calibration_is_not_repeated(calibrator: Any, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    printing(monkeypatch, program)
    made = calibrator()
    turns_until(lambda: made._is_over, made)
    made.on_idle()
    assert made._child is None


def test_a_worker_with_another_engine_or_without_the_setting_measures_nothing(calibrator: Any) -> None:
    for made in (calibrator(engine_command=["engine"]), calibrator(calibrate=False)):
        made.on_idle()
        assert made._child is None


def test_a_job_that_comes_soon_is_waited_for(calibrator: Any) -> None:
    made = calibrator(calibration_idle_seconds=60)
    made.on_idle()
    assert made._child is None
