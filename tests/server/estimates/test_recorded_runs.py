"""Estimates compared with recorded runs of different settings; `python -m benchmarks.recorded_runs` records them."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.calibration.results import Calibration, StepTime
from rvc_engine.config import TrainingConfig
from server.estimates.costs import Sound, predict

RECORDED = json.loads(Path(__file__).with_name("recorded_runs.json").read_text(encoding="utf-8"))
CALIBRATION = Calibration.model_validate(RECORDED["calibration"])
LONG = Sound(seconds=1200, kept_seconds=1100, num_recordings=10)


def ratio(run: dict[str, Any]) -> float:
    """Estimated duration of a recorded run relative to its own."""
    dataset = run["dataset"]
    sound = Sound(dataset["seconds"], dataset["kept_seconds"], dataset["num_usable"])
    return predict(CALIBRATION, TrainingConfig.model_validate(run["config"]), sound).seconds / float(run["seconds"])


def test_nine_of_ten_first_jobs_end_within_a_factor_of_two_of_their_estimate() -> None:
    ratios = {run["number"]: ratio(run) for run in RECORDED["runs"]}
    assert len(ratios) >= 10
    near = [number for number, found in ratios.items() if 0.5 <= found <= 2]
    assert len(near) >= 0.9 * len(ratios), ratios


def test_a_finished_job_with_other_settings_brings_the_estimates_nearer() -> None:
    """Each run in turn is the one that has finished."""
    logs = [math.log(ratio(run)) for run in RECORDED["runs"]]
    errors = [abs(log - known) for known in logs for log in logs if log != known]
    assert statistics.quantiles(errors, n=10)[-1] < math.log(2)


def test_the_estimated_steps_are_those_of_the_runs() -> None:
    for run in RECORDED["runs"]:
        dataset = run["dataset"]
        sound = Sound(dataset["seconds"], dataset["kept_seconds"], dataset["num_usable"])
        steps = predict(CALIBRATION, TrainingConfig.model_validate(run["config"]), sound).steps
        assert run["total_steps"] / 2 <= steps <= 2 * run["total_steps"], run["number"]


def seconds(calibration: Calibration = CALIBRATION, num_devices: int = 1, **settings: Any) -> float:
    plain = {"pretrained": "none", "content": "whisper-tiny", "total_epochs": 10}
    return predict(calibration, TrainingConfig.model_validate(plain | settings), LONG, num_devices).seconds


@pytest.mark.parametrize(
    "longer",
    [
        {"total_epochs": 11},
        {"batch_size": 2},
        {"pitch": "harvest"},
        {"content": "contentvec"},
        {"evaluate": "always", "save_every_epochs": 1},
        {"sample_rate": "48k"},
        {"gradient_checkpointing": True},
        {"precision": "fp32"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_takes_longer_is_estimated_longer(longer: dict[str, Any]) -> None:
    assert seconds(**longer) > seconds()


def test_several_devices_and_a_time_limit_make_it_shorter() -> None:
    assert seconds(num_devices=2) < 0.6 * seconds()
    assert 60 < seconds(max_train_seconds=60) < 200
    assert seconds(max_train_seconds=1) == pytest.approx(seconds(max_train_seconds=2)), "eight steps in any case"


def test_each_width_has_an_estimate_however_little_was_calibrated() -> None:
    for count in range(1, len(CALIBRATION.steps) + 1):
        some = CALIBRATION.model_copy(update={"steps": CALIBRATION.steps[:count]})
        times = [seconds(some, width=width) for width in (24, 48, 96, 192)]
        assert times == sorted(times)
        assert times[-1] < 40 * times[0]


def test_a_noisy_calibration_gives_no_negative_times() -> None:
    steps = [StepTime(width=24, batch_size=1, seconds=0.5), StepTime(width=24, batch_size=3, seconds=0.4)]
    assert seconds(CALIBRATION.model_copy(update={"steps": steps}), batch_size=8) > 0
