"""A real calibration of this machine, as short as it can be."""

import torch

from rvc_engine.calibration.measurement import calibrate
from rvc_engine.machine import Machine


def test_a_calibration_measures_the_stages_and_at_least_one_step_and_begins_no_step_after_its_limit() -> None:
    found = calibrate(Machine(device="cpu", num_threads=1), limit_seconds=0)
    assert (found.device, found.num_threads, found.torch) == ("cpu", 1, torch.__version__)
    assert [(step.width, step.batch_size) for step in found.steps] == [(24, 1)]
    assert found.steps[0].seconds > 0
    assert 0 < found.slice_seconds < 1
    assert 0 < found.pitch_seconds < 1
    assert 0 < found.content_seconds < 1
    assert found.start_seconds > 0
    assert found.took_seconds > found.steps[0].seconds
