"""Estimators of F0 for the choice of the default: errors where F0 is given, in noise, and in voices trained with each.

    python -m benchmarks.pitch_choice FOLDER... --weights FOLDER

Each folder is one speaker; without folders only voices are made. Three kinds of lines, and a line with the mean over
the folders or seeds for each:

- `synthetic`: real speech taken apart by WORLD and synthesized again with its F0 times 0.8 and 1.25, so that the F0 is
  known at every frame. Voiced frames more than 40 dB below the loudest are left out: they are hardly audible.
- `noise`: real speech with pink noise; the truth is the estimator's own curve without noise, which also favours one
  that is wrong in the same way both times.
- `voices`: small nets from scratch, trained with the curves of each estimator and scored on recordings put aside, with
  that estimator's curves as input: the log-mel distance, and F0 and voicing by Harvest, which is no candidate.

`accuracy` is the share of frames that are voiced in both and within 50 cents, or unvoiced in both; `found` and
`false_alarms` are shares of the voiced and of the unvoiced frames that the estimator calls voiced; `cents` is the mean
distance where it is within 50. `as_used` is the share of the voiced frames within 50 cents after gaps are interpolated,
as training and conversion do.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pyworld
import torch
from numpy.typing import NDArray

from benchmarks.lines import cpu_name
from benchmarks.pitch_estimators import RIGHT_CENTS, cents, create_installed, read_waves
from benchmarks.put_aside import SAMPLES, TRAINED, divide, read_generator, scorer
from rvc_engine.config import PitchEstimator as EstimatorName
from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE, Hyperparameters
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pitch.curve import HOP_LENGTH, MAX_HZ, MIN_HZ, fit_length, interpolate_unvoiced, num_frames
from rvc_engine.pitch.estimators import PitchEstimator
from rvc_engine.pitch.world import HarvestEstimator
from rvc_engine.workspace.layout import Workspace

FACTORS = (0.8, 1.25)
SNRS_DB = (20, 10, 0)
WORLD_MILLISECONDS = 5.0
"""WORLD's usual distance of frames: half of ours."""
QUIET = 10 ** (-40 / 20)
Curve = NDArray[np.float64]
Wave = NDArray[np.float32]
Line = dict[str, object]


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, help="folders of recordings, one a speaker; none: voices alone"
    )
    parser.add_argument("--estimators", nargs="+", default=["swift", "fcpe", "crepe-tiny"],
                        choices=get_args(EstimatorName))  # fmt: skip
    parser.add_argument("--weights", type=Path, default=default_weights_folder(), help="folder of published weights")
    parser.add_argument("--seconds", type=float, default=30, help="length of the recordings of each speaker")
    parser.add_argument("--voices", type=Path, default=SAMPLES, help="recordings of the speaker whose voices are made")
    parser.add_argument("--voice-seconds", type=float, default=60, help="length of these recordings")
    parser.add_argument("--seeds", type=int, default=3, help="voices for each estimator; 0: none")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="short trainings need a high one")
    options = parser.parse_args()
    machine = Machine("cpu", 1, options.weights)
    estimators = create_installed(options.estimators, machine)
    means = Means()
    for folder in options.folders:
        waves = read_waves(folder, options.seconds)
        for estimator in estimators:
            means.add(folder.name, "synthetic", estimator.name, compare_with_known(estimator, waves))
            clean = curves_of(estimator, waves)
            for snr in SNRS_DB:
                noisy = [with_noise(wave, snr) for wave in waves]
                counts = zip(curves_of(estimator, noisy), clean, map(np.ones_like, clean), strict=True)
                means.add(folder.name, f"noise, {snr} dB SNR", estimator.name, errors([*counts]))
    if options.seeds:
        with tempfile.TemporaryDirectory(prefix="rvc-bench-") as name:
            train_voices(Path(name), [each.name for each in estimators], options, means)
    means.print()


class Means:
    """Prints each line, and in the end the mean of the lines of each choice, with their standard deviation."""

    def __init__(self, kind: str = "estimator") -> None:
        """Label lines with `kind`."""
        self._kind = kind
        self._values: dict[tuple[str, str], list[Mapping[str, float]]] = defaultdict(list)

    def add(self, source: str, part: str, choice: str, values: Mapping[str, float]) -> None:
        """Print a line of a speaker or a seed."""
        self._values[part, choice].append(values)
        rounded = {key: round(value, 4) for key, value in values.items()}
        print(json.dumps({"part": part, self._kind: choice, "source": source, **rounded}), flush=True)

    def print(self) -> None:
        """Print the means."""
        for (part, choice), found in self._values.items():
            keys = [key for key in found[0] if all(key in values for values in found)]
            line: Line = {"part": part, self._kind: choice, "of": len(found), "device": cpu_name()}
            line["mean"] = {key: round(statistics.fmean(values[key] for values in found), 4) for key in keys}
            if len(found) > 1:
                line["spread"] = {key: round(statistics.stdev(values[key] for values in found), 4) for key in keys}
            print(json.dumps(line), flush=True)


def compare_with_known(estimator: PitchEstimator, waves: Sequence[Wave]) -> dict[str, float]:
    """Errors of an estimator on speech synthesized with known F0."""
    made = [synthesize(wave, factor) for wave in waves for factor in FACTORS]
    curves = curves_of(estimator, [wave for wave, _, _ in made])
    return errors([(curve, truth, is_scored) for curve, (_, truth, is_scored) in zip(curves, made, strict=True)])


def curves_of(estimator: PitchEstimator, waves: Sequence[Wave]) -> list[Curve]:
    """Curves of all waves, one by one: an estimator may see only clips of equal length at once."""
    return [curve for wave in waves for curve in estimator.estimate([wave])]


def synthesize(wave: Wave, factor: float) -> tuple[Wave, Curve, NDArray[np.bool_]]:
    """Speech made again with its F0 times a factor; the F0 of every frame (0: unvoiced), and which frames count."""
    samples, rate = wave.astype(np.float64), ANALYSIS_SAMPLE_RATE
    found, times = pyworld.harvest(samples, rate, f0_floor=MIN_HZ, f0_ceil=MAX_HZ, frame_period=WORLD_MILLISECONDS)
    voiced_by_dio, _ = pyworld.dio(samples, rate, f0_floor=MIN_HZ, f0_ceil=MAX_HZ, frame_period=WORLD_MILLISECONDS)
    # Harvest calls most pauses voiced, DIO few; a frame that both call voiced has the pitch of Harvest.
    f0 = np.where(voiced_by_dio > 0, found, 0.0)
    envelope = pyworld.cheaptrick(samples, f0, times, rate)
    # Without D4C's threshold a frame with F0 would be made of noise where D4C doubts it.
    aperiodicity = pyworld.d4c(samples, f0, times, rate, threshold=0.0)
    made = pyworld.synthesize(f0 * factor, envelope, aperiodicity, rate, WORLD_MILLISECONDS)
    count = num_frames(len(wave))
    made = np.pad(made, (0, max(0, len(wave) - len(made))))[: len(wave)].astype(np.float32)
    step = round(1000 * HOP_LENGTH / rate / WORLD_MILLISECONDS)
    truth = fit_length((f0 * factor)[::step], count)
    level = np.sqrt(np.mean(made[: count * HOP_LENGTH].reshape(count, HOP_LENGTH) ** 2, axis=1))
    return made, truth, (truth == 0) | (level > QUIET * level.max())


def with_noise(wave: Wave, snr_db: float) -> Wave:
    """The wave with pink noise, its level relative to that of the whole wave."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(len(wave)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(wave))
    level = np.sqrt(np.mean(wave.astype(np.float64) ** 2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (wave + level * noise).astype(np.float32)


def errors(curves: Iterable[tuple[Curve, Curve, NDArray[np.generic]]]) -> dict[str, float]:
    """Scores of curves beside the true ones, over the frames that count."""
    counted = [(each, interpolate_unvoiced(each), truth, where.astype(bool)) for each, truth, where in curves]
    curve, used, truth = (np.concatenate([one[n][one[3]] for one in counted]) for n in range(3))
    is_voiced, both = truth > 0, (truth > 0) & (curve > 0)
    distance = np.abs(cents(curve[both], truth[both]))
    is_right = distance < RIGHT_CENTS
    has_used = is_voiced & (used > 0)
    as_used = np.abs(cents(used[has_used], truth[has_used])) < RIGHT_CENTS
    return {
        "accuracy": (is_right.sum() + (~is_voiced & (curve == 0)).sum()) / len(truth),
        "found": both.sum() / is_voiced.sum(),
        "false_alarms": float((curve[~is_voiced] > 0).mean()),
        "gross": float((~is_right).mean()),
        "cents": float(distance[is_right].mean()),
        "as_used": as_used.sum() / is_voiced.sum(),
    }


def train_voices(root: Path, names: Sequence[str], options: argparse.Namespace, means: Means) -> None:
    """Train and score voices with the curves of each estimator."""
    divide(options.voices, options.voice_seconds, root)
    machine = Machine("cpu", torch.get_num_threads(), options.weights, root / "cache")
    config = TrainingConfig(
        width=options.width,
        content="whisper-tiny",
        pretrained="none",
        sample_rate="32k",
        precision="fp32",
        learning_rate=options.learning_rate,
        total_epochs=options.epochs,
        save_every_epochs=options.epochs,
        evaluate="never",
    )
    hparams, selection = Hyperparameters.from_config(config), StageSelection(index=False)
    for name in names:
        config = config.model_copy(update={"pitch": name})
        (root / name).mkdir()
        evaluator = scorer(root, config, machine, HarvestEstimator(), root / name / "scored")
        for seed in range(1, options.seeds + 1):
            workspace = Workspace(root / name / str(seed), "voice")
            seeded = config.model_copy(update={"seed": seed})
            make_voice(root / TRAINED, workspace, seeded, machine, lambda _: None, selection=selection)
            model = read_generator(workspace.root, hparams)[0]
            means.add(f"seed {seed}", "voices", name, evaluator.evaluate(model).values)


if __name__ == "__main__":
    main()
