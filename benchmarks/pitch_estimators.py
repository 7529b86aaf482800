"""Comparison of pitch estimators: cost, accuracy, agreement and lag, as JSON lines.

    python -m benchmarks.pitch_estimators [FOLDER_OF_RECORDINGS]      default: samples/

Two kinds of lines. `made_up`: a synthetic voice of known pitch, clean and in noise, with the share of correct frames.
`recordings`: real ones of unknown pitch, with the agreement of each pair of estimators. Within 50 cents counts as
correct, or as agreement; `lag_ms` is the shift of one curve at which it is nearest to the other.

Estimators whose weights or packages are not installed are left out, with a line; `crepe` too unless it is given with
`--only`, as it takes minutes per minute of sound on a CPU. If RMVPE's weights are missing, its cost is measured with
random ones: it is the same.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.reading import UnreadableAudio, read_mono
from rvc_engine.audio.recordings import list_recordings
from rvc_engine.audio.slicing import high_pass, normalize_level
from rvc_engine.compute.device import open_device
from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.errors import EngineError
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.pitch.curve import HOP_LENGTH
from rvc_engine.pitch.estimators import PitchEstimator, create_estimator
from rvc_engine.pitch.neural.rmvpe import RmvpeEstimator
from rvc_engine.pitch.neural.rmvpe_model import Rmvpe

RIGHT_CENTS = 50
MAX_SECONDS = 60.0
"""Length of sound read from a folder: Harvest takes 13 s for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("samples"), help="folder of recordings of a voice")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, help="seconds of sound to read from the folder")
    parser.add_argument("--only", nargs="+", choices=get_args(EstimatorName), help="only these estimators")
    parser.add_argument("--weights", type=Path, default=default_weights_folder(), help="folder of published weights")
    parser.add_argument("--real-only", action="store_true", help="leave out the synthetic voice")
    options = parser.parse_args()
    machine = Machine("cpu", 1, options.weights)
    names = options.only or [name for name in get_args(EstimatorName) if name != "crepe"]
    estimators = create_installed(names, machine)
    for noise_db in () if options.real_only else (None, -20.0, -10.0):
        compare_with_truth(estimators, noise_db)
    waves = read_waves(options.folder, options.seconds)
    compare_with_each_other(estimators, options.folder.name, waves)
    if "rmvpe" not in [estimator.name for estimator in estimators]:
        seconds, _ = timed(RmvpeEstimator(Rmvpe(), open_device(machine)), waves)
        print(json.dumps({"estimator": "rmvpe", "weights": "random", "seconds_per_minute": per_minute(seconds, waves)}))


def create_installed(names: Sequence[EstimatorName], machine: Machine) -> list[PitchEstimator]:
    """Create the estimators that are installed; prints a line for each of the others."""
    estimators = []
    for name in names:
        try:
            estimators.append(create_estimator(name, machine))
        except EngineError as error:
            print(json.dumps({"estimator": name, "left_out": str(error)}), flush=True)
    return estimators


def compare_with_truth(estimators: Sequence[PitchEstimator], noise_db: float | None) -> None:
    """Print a line per estimator on a synthetic voice; `noise_db` is the noise's level relative to the voice's."""
    wave, truth = made_up_voice(noise_db)
    for estimator in estimators:
        seconds, (curve,) = timed(estimator, [wave])
        both = (curve > 0) & (truth > 0)
        line = {
            "made_up": {"noise_db": noise_db},
            "estimator": estimator.name,
            "found": share(curve[truth > 0] > 0),
            "false_alarms": share(curve[truth == 0] > 0),
            "right": share(np.abs(cents(curve[both], truth[both])) < RIGHT_CENTS),
            "lag_ms": lag_ms(curve, truth),
            "seconds_per_minute": per_minute(seconds, [wave]),
        }
        print(json.dumps(line), flush=True)


def compare_with_each_other(
    estimators: Sequence[PitchEstimator], folder: str, waves: Sequence[NDArray[np.float32]]
) -> None:
    """Print a line per estimator (cost, voiced share) and one per pair (agreement, lag)."""
    minutes = round(sum(map(len, waves)) / ANALYSIS_SAMPLE_RATE / 60, 2)
    curves = {}
    for estimator in estimators:
        seconds, found = timed(estimator, waves)
        curves[estimator.name] = np.concatenate(found)
        line = {"voiced": share(curves[estimator.name] > 0), "seconds_per_minute": per_minute(seconds, waves)}
        print(json.dumps({"recordings": folder, "minutes": minutes, "estimator": estimator.name, **line}), flush=True)
    for one, other in itertools.combinations(curves, 2):
        both = (curves[one] > 0) & (curves[other] > 0)
        difference = np.abs(cents(curves[one][both], curves[other][both]))
        line = {
            "agree_on_voiced": share((curves[one] > 0) == (curves[other] > 0)),
            "agree_on_pitch": share(difference < RIGHT_CENTS),
            "median_cents": round(float(np.median(difference)), 1),
            "lag_ms": lag_ms(curves[one], curves[other]),
        }
        print(json.dumps({"recordings": folder, "pair": [one, other], **line}))


def timed(estimator: PitchEstimator, waves: Sequence[NDArray[np.float32]]) -> tuple[float, list[NDArray[np.float64]]]:
    """Seconds of an estimator, warmed up, and its curves; in batches as in the pitch stage."""
    estimator.estimate([waves[0][:ANALYSIS_SAMPLE_RATE]])
    start = time.perf_counter()
    curves = []
    for first in range(0, len(waves), estimator.batch_size):
        curves += estimator.estimate(waves[first : first + estimator.batch_size])
    return time.perf_counter() - start, curves


def per_minute(seconds: float, waves: Sequence[NDArray[np.float32]]) -> float:
    """Seconds per minute of sound."""
    return round(seconds / (sum(map(len, waves)) / ANALYSIS_SAMPLE_RATE / 60), 2)


def made_up_voice(noise_db: float | None) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Phrases between 70 and 900 Hz with glides, vibrato and pauses: sound at 16 kHz, and its pitch every 10 ms."""
    random = np.random.default_rng(0)
    seconds, pause = 1.5, 0.5
    times = np.arange(int(seconds * ANALYSIS_SAMPLE_RATE)) / ANALYSIS_SAMPLE_RATE
    sounds, pitches = [], []
    for low in np.geomspace(70, 450, 12):
        hz = low * 2 ** (times / seconds) * 2 ** (0.3 / 12 * np.sin(2 * np.pi * 5.5 * times))
        phase = 2 * np.pi * np.cumsum(hz) / ANALYSIS_SAMPLE_RATE
        voice = np.zeros_like(times)
        for harmonic in range(1, 40):
            frequency = harmonic * hz
            formants = sum(np.exp(-(((frequency - centre) / 180) ** 2)) for centre in (500, 1500, 2500))
            voice += (frequency < 7000) * (0.1 + formants) / harmonic * np.sin(harmonic * phase)
        envelope = np.minimum(1, np.minimum(times, seconds - times) / 0.05)
        sounds += [0.2 * voice * envelope, np.zeros(int(pause * ANALYSIS_SAMPLE_RATE))]
        pitches += [np.where(envelope > 0.3, hz, 0.0), np.zeros(int(pause * ANALYSIS_SAMPLE_RATE))]
    sound, pitch = np.concatenate(sounds), np.concatenate(pitches)
    level = np.sqrt(np.mean(sound**2)) * 10 ** ((noise_db if noise_db is not None else -80) / 20)
    sound = sound + level * random.standard_normal(len(sound))
    return sound.astype(np.float32), pitch[::HOP_LENGTH][: len(sound) // HOP_LENGTH]


def read_waves(folder: Path, max_seconds: float) -> list[NDArray[np.float32]]:
    """Recordings of a folder at 16 kHz up to `max_seconds`, high-passed and normalized as for the pitch stage."""
    waves: list[NDArray[np.float32]] = []
    for recording in list_recordings(folder):
        if sum(map(len, waves)) >= max_seconds * ANALYSIS_SAMPLE_RATE:
            break
        try:
            (wave,) = high_pass([read_mono(recording.path, ANALYSIS_SAMPLE_RATE)], ANALYSIS_SAMPLE_RATE)
        except UnreadableAudio:
            continue
        level = normalize_level(wave.astype(np.float32))
        if level is not None:
            waves.append(level)
    return waves


def cents(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interval between two pitches in hundredths of a semitone."""
    return 1200 * np.log2(one / other)


def share(condition: NDArray[np.bool_]) -> float:
    """Share of true values, 0..1."""
    return round(float(np.mean(condition)), 3)


def lag_ms(curve: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Lag of a curve behind the other: the shift, in steps of 1 ms, of the least mean difference."""
    frames = np.arange(4, len(curve) - 4)
    differences = []
    shifts = np.arange(-30, 31) / 10  # frames of 10 ms
    for shift in shifts:
        whole, part = int(np.floor(shift)), shift - np.floor(shift)
        near, far = curve[frames + whole], curve[frames + whole + (part > 0)]
        is_voiced = (near > 0) & (far > 0) & (other[frames] > 0)
        moved = np.exp2((1 - part) * np.log2(near[is_voiced]) + part * np.log2(far[is_voiced]))
        differences.append(np.mean(np.minimum(np.abs(cents(moved, other[frames][is_voiced])), 100)))
    return float(10 * shifts[int(np.argmin(differences))])


if __name__ == "__main__":
    main()
