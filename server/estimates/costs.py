"""Duration of a job by a calibration of its device: its stages and training steps, each by what was measured there.

What a calibration does not measure is taken relative to what it does, by factors from recorded runs
(`tests/server/estimates/recorded_runs.json`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from rvc_engine.calibration.results import Calibration, StepTime
from rvc_engine.config import TrainingConfig
from rvc_engine.evaluation.stopping import MIN_EVALUATIONS, MIN_STEPS
from server.estimates.resources import net_weights

PIECE_SECONDS = 3.7
"""Slices are cut so long, with an overlap of 0.3 s."""
PHRASE_SECONDS = 8.0
"""Usual time from one pause to the next in a long recording: each phrase ends with a slice that is shorter."""
NUM_SILENT_CLIPS = 2
_HELD_OUT_FROM, _MAX_HELD_OUT, _HELD_OUT_SHARE = 180.0, 8, 0.05
_NUM_TRAINING_CLIPS = 2
"""Clips that are evaluated where none are held out."""
_PITCH = {
    "swift": 1.0,
    "dio": 1.0,
    "pm": 1.0,
    "fcpe": 6.0,
    "crepe-tiny": 15.0,
    "harvest": 25.0,
    "rmvpe": 32.0,
    "crepe": 300.0,
}
"""Duration on a CPU relative to swift's, as in decision 1."""
_GPU_ESTIMATORS = {"rmvpe", "fcpe", "crepe", "crepe-tiny"}
_GPU_GAIN = 30.0
_HUBERT = 12.0
"""Duration of ContentVec, and of others of its size, relative to whisper-tiny's."""
_INDEX = 0.1
"""Index relative to the content stage."""
_STARTS = 3.5
"""All that a job does once, from the start of its engine to the check of its voice, in times of loading the code."""
_FIXED_SHARE = 0.25
"""Share of a step with one clip that more clips do not lengthen, at the published width."""
_GROWTH = 1.15
"""Power of the width by which the time for a clip grows, where only one width was calibrated."""
_SEGMENT_SAMPLES = {
    "v1/32k": 12_800,
    "v1/40k": 12_800,
    "v1/48k": 11_520,
    "v2/32k": 12_800,
    "v2/40k": 12_800,
    "v2/48k": 17_280,
}
_PLAIN_SAMPLES = 12_800
_FLOAT32 = {"cpu": 1.3, "cuda": 1.7}
"""Duration of a step in float32 relative to one in the 16-bit format that precision=auto chose."""
_MIN_TIMED_STEPS = 8
"""`max_train_seconds` does not end training before so many."""
_CHECKPOINTING, _SEVERAL_BATCHES = 1.25, 1.15
_EVALUATED_CLIP = 0.5
"""An evaluated clip relative to a trained one."""
_MAX_EVALUATION_SHARE = 0.1
_BYTES_PER_SECOND = 200e6
"""Pace at which saves are made and written."""
_BYTES_PER_WEIGHT = 12
_AUTO_BATCH = {"cpu": 4}
_MAX_AUTO_BATCH = 32


@dataclass(frozen=True)
class Sound:
    """Measures of a job's recordings that its duration depends on."""

    seconds: float
    kept_seconds: float
    """Without silence and damaged parts."""
    num_recordings: int


@dataclass(frozen=True)
class Prediction:
    """Size and duration of a job."""

    num_clips: float
    steps: float
    seconds: float


def earliest_end(steps_per_epoch: float) -> float:
    """Step before which no training with total_epochs=auto ends by itself."""
    return max(MIN_STEPS, MIN_EVALUATIONS * steps_per_epoch)


def predict(
    calibration: Calibration, config: TrainingConfig, sound: Sound, num_devices: int = 1, *, at_least: bool = False
) -> Prediction:
    """Predict a job on a device, or on several such devices that train together.

    With total_epochs=auto the longest, or with `at_least` the shortest.
    """
    made = _num_clips(config, sound)
    num_evaluated = _num_evaluated(config, sound, made)
    clips = max(1.0, made - (num_evaluated if sound.kept_seconds >= _HELD_OUT_FROM else 0) + NUM_SILENT_CLIPS)
    batch = _micro_batch(calibration, config, clips, num_devices)
    step = _step_seconds(calibration, config, batch)
    together = batch * config.accumulate_steps * num_devices
    # An epoch's last batch is smaller, and the number of clips is not exact: so a mean, and no whole number.
    epoch = max(1.0, clips / together + 0.5 * (together - 1) / together)
    steps = epoch * config.epoch_limit
    if config.total_epochs == "auto" and at_least:
        steps = min(steps, earliest_end(epoch))
    epochs = steps / epoch
    train = steps * step
    if config.max_train_seconds is not None and train > config.max_train_seconds:
        steps = max(config.max_train_seconds / step, min(steps, _MIN_TIMED_STEPS))
        train = max(config.max_train_seconds, steps * step)
    num_saves = math.ceil(epochs / config.save_every_epochs)
    evaluated = num_evaluated * _EVALUATED_CLIP * _clip_seconds(calibration, config)
    num_evaluations = num_saves if config.evaluate_every_epochs is None else epochs / config.evaluate_every_epochs
    evaluation = num_evaluations * evaluated
    if config.evaluate == "auto":
        evaluation = min(evaluation, _MAX_EVALUATION_SHARE * train)
    _, weights = net_weights(config)
    saving = (num_saves + 1) * weights * _BYTES_PER_WEIGHT / _BYTES_PER_SECOND
    around = _STARTS * calibration.start_seconds + calibration.load_seconds
    return Prediction(clips, steps, around + _preparation(calibration, config, sound) + train + evaluation + saving)


def _num_clips(config: TrainingConfig, sound: Sound) -> float:
    """Clips that slicing makes of the recordings."""
    if config.slicing == "none":
        return float(sound.num_recordings)
    if config.slicing == "fixed":
        step = config.slice_seconds - config.slice_overlap_seconds
        return max(1.0, sound.kept_seconds / step)
    num_phrases = max(sound.num_recordings, sound.kept_seconds / PHRASE_SECONDS)
    return max(1.0, sound.kept_seconds / PIECE_SECONDS + 0.5 * num_phrases)


def _num_evaluated(config: TrainingConfig, sound: Sound, num_clips: float) -> float:
    if config.evaluate == "never":
        return 0
    if sound.kept_seconds < _HELD_OUT_FROM:
        return min(num_clips, _NUM_TRAINING_CLIPS)
    return min(_MAX_HELD_OUT, max(1.0, _HELD_OUT_SHARE * num_clips))


def _micro_batch(calibration: Calibration, config: TrainingConfig, clips: float, num_devices: int) -> int:
    if config.batch_size != "auto":
        return config.batch_size
    most = max(1, int(clips // (4 * config.accumulate_steps * num_devices)))  # as in `rvc_engine.training.auto_batch`
    return min(_AUTO_BATCH.get(calibration.device, _MAX_AUTO_BATCH), 1 << int(math.log2(most)))


def _preparation(calibration: Calibration, config: TrainingConfig, sound: Sound) -> float:
    """Seconds of slicing, pitch, content and index."""
    is_on_gpu = calibration.device != "cpu"
    gain = _GPU_GAIN if is_on_gpu and config.pitch in _GPU_ESTIMATORS else 1.0
    pitch = calibration.pitch_seconds * _PITCH[config.pitch] / gain if config.f0 else 0.0
    content = calibration.content_seconds * (1 if config.content == "whisper-tiny" or is_on_gpu else _HUBERT)
    index = _INDEX * calibration.content_seconds
    return calibration.slice_seconds * sound.seconds + (pitch + content + index) * sound.kept_seconds


def _step_seconds(calibration: Calibration, config: TrainingConfig, batch: int) -> float:
    """Duration of a step of micro-batches of `batch` clips."""
    fixed = _interpolated([(width, fixed) for width, fixed, _ in _parts(calibration.steps)], config.width)
    clips = batch * config.accumulate_steps * _clip_seconds(calibration, config)
    return fixed + clips * (_SEVERAL_BATCHES if config.accumulate_steps > 1 else 1.0)


def _clip_seconds(calibration: Calibration, config: TrainingConfig) -> float:
    """Time that one more clip adds to a step."""
    seconds = _interpolated([(width, clip) for width, _, clip in _parts(calibration.steps)], config.width)
    factor = _SEGMENT_SAMPLES[f"{config.version}/{config.sample_rate}"] / _PLAIN_SAMPLES
    if config.precision == "fp32" and calibration.precision != "fp32":
        factor *= _FLOAT32.get(calibration.device, 1.0)
    return seconds * factor * (_CHECKPOINTING if config.gradient_checkpointing else 1.0)


def _parts(steps: Iterable[StepTime]) -> list[tuple[int, float, float]]:
    """For each calibrated width the seconds of a step without clips, and those of each clip."""
    by_width: dict[int, list[StepTime]] = {}
    for step in steps:
        by_width.setdefault(step.width, []).append(step)
    found = []
    for width, times in sorted(by_width.items()):
        first, last = times[0], times[-1]
        if first.batch_size == last.batch_size:
            clip = (1 - _FIXED_SHARE) * first.seconds / first.batch_size
        else:
            slope = (last.seconds - first.seconds) / (last.batch_size - first.batch_size)
            clip = min(max(slope, 0.1 * last.seconds / last.batch_size), last.seconds / last.batch_size)
        found.append((width, max(first.seconds - first.batch_size * clip, 0.05 * first.seconds), clip))
    return found


def _interpolated(points: list[tuple[int, float]], width: int) -> float:
    """Seconds at a width, along the power of the width that goes through the calibrated ones."""
    if len(points) == 1:
        return points[0][1] * math.pow(width / points[0][0], _GROWTH)
    (low, at_low), (high, at_high) = next(
        (pair for pair in pairwise(points) if width <= pair[1][0]), (points[-2], points[-1])
    )
    power = math.log(at_high / at_low) / math.log(high / low)
    return at_low * math.exp(power * math.log(width / low))
