"""Voices of this engine beside RVC WebUI's after equal steps: the scores of both on recordings put aside.

Both train on the same slices, pitch and features, from the same G and D (`-pg`, `-pd`), with the same learning rate and
epochs. RVC WebUI fills up the last batch of each of its groups of lengths by repeating clips; clips that would leave a
group with part of a batch are left out for both, so that both take the same steps. Its own `train.train` does the
training, on a CPU always in float32. All models are scored by the same code on the same windows, without rounding to
half precision as in a voice file:

- `eval/mel`, `eval/mel_posterior`, `eval/f0_cents`, `eval/voicing`: see `rvc_engine.evaluation.evaluator`;
- `kl`: KL divergence of posterior and prior, per frame, weighted as in training. All are better when lower.

RVC WebUI takes the width of G from config.json, but its discriminators have one size: beside it ours have it too.

A line for each voice, one for the first weights, then one for each program and format with mean and standard deviation
over the seeds, and with the differences from RVC WebUI of the same seed. Without `--reference`, ours alone.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import rvc_webui
from benchmarks.lines import cpu_name
from benchmarks.put_aside import SAMPLES, TRAINED, divide, prepare, read_generator, scorer
from rvc_engine.checkpoints import train_state
from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles
from rvc_engine.evaluation.evaluator import Evaluator, Window, eval_mode
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models import identity
from rvc_engine.models.losses import kl_sum
from rvc_engine.models.synthesizer import Noise, Synthesizer
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pitch.swift import SwiftEstimator
from rvc_engine.workspace.layout import Workspace

REFERENCE = "reference"
KL = "kl"
RVC_GROUP, RVC_LONGEST = 100, 900
"""RVC WebUI groups clips by every 100 units of length, and leaves out those below 100 and above 900."""
Scores = dict[str, float]


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--recordings", type=Path, default=SAMPLES, help="a folder of one speaker")
    parser.add_argument("--seconds", type=float, default=60, help="length of the recordings to use")
    parser.add_argument("--width", type=int, default=48, help="192 is the published size")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300, help="at least; whole epochs are trained")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig().learning_rate)
    parser.add_argument("--precisions", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"], help="of ours")
    options = parser.parse_args()
    config = TrainingConfig(
        width=options.width,
        content="whisper-tiny",
        pretrained="none",
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        evaluate="never",
    )
    with tempfile.TemporaryDirectory(prefix="rvc-bench-") as name:
        root = Path(name)
        divide(options.recordings, options.seconds, root)
        reference = None
        if options.reference is not None:
            reference = rvc_webui.Reference.place(options.reference, options.reference_python, root / "rvc")
            for module in (train_state, identity):  # RVC's discriminators have one size, ours follow the width
                vars(module)["PUBLISHED_WIDTH"] = options.width
        benchmark = Benchmark.prepare(root, config, options.steps)
        scores: dict[str, list[Scores]] = defaultdict(list)
        for seed in options.seeds:
            benchmark.write_first_weights(seed)
            scores["first weights"].append(benchmark.score(benchmark.first, "first weights", seed, 0))
            if reference is not None:
                scores[REFERENCE].append(benchmark.train_reference(reference, seed))
            for precision in options.precisions:
                scores[precision].append(benchmark.train_ours(precision, seed))
    print_summary(scores)


def whole_batches(clips: Iterable[ClipFiles], hop_length: int, batch_size: int) -> list[ClipFiles]:
    """The clips of which RVC WebUI makes whole batches, without repeating any."""
    groups: dict[int, list[ClipFiles]] = defaultdict(list)
    for clip in clips:
        length = clip.wave.stat().st_size // (3 * hop_length)  # RVC's estimate
        if RVC_GROUP < length <= RVC_LONGEST:
            groups[(length - 1) // RVC_GROUP].append(clip)
    return [clip for _, group in sorted(groups.items()) for clip in group[: len(group) // batch_size * batch_size]]


@dataclass(frozen=True)
class Benchmark:
    """Prepared clips and the scorer, shared by all trainings."""

    root: Path
    config: TrainingConfig
    """Config of all trainings, but for seed and precision."""
    clips: Sequence[ClipFiles]
    evaluator: Evaluator
    machine: Machine

    @classmethod
    def prepare(cls, root: Path, config: TrainingConfig, steps: int) -> "Benchmark":
        """Prepare the recordings in `trained` and `aside` of the root for trainings of so many steps."""
        machine = Machine(device="cpu", num_threads=torch.get_num_threads())
        evaluator = scorer(root, config, machine, SwiftEstimator(1))
        clips = prepare(root / TRAINED, Workspace(root / "prepared", "prepared"), config, machine)
        assert isinstance(config.batch_size, int)
        clips = whole_batches(clips, Hyperparameters.from_config(config).hop_length, config.batch_size)
        if not clips:
            sys.exit("too few recordings for a batch of one length: give more --seconds, or a smaller --batch-size")
        epochs = -(-steps * config.batch_size // len(clips))
        config = config.model_copy(update={"total_epochs": epochs, "save_every_epochs": epochs})
        return cls(root, config, clips, evaluator, machine)

    @property
    def hparams(self) -> Hyperparameters:
        """Hyperparameters of all models."""
        return Hyperparameters.from_config(self.config)

    @property
    def first(self) -> Path:
        """Folder of the weights that both programs begin with."""
        return self.root / "first"

    def write_first_weights(self, seed: int) -> None:
        """Write random G and D, as -pg and -pd take them."""
        torch.manual_seed(seed)
        state = GanTrainState.build(self.hparams, torch.device("cpu"), self.config.learning_rate)
        self.first.mkdir(exist_ok=True)
        write_pair(self.first, pair_trees(state, TrainProgress(0, 1, 0, 0.0, 1, 1), self.config.learning_rate, 0))

    def train_reference(self, reference: rvc_webui.Reference, seed: int) -> Scores:
        """Train with RVC WebUI's own program."""
        config = self.config.model_copy(update={"seed": seed})
        folder = self._place(reference.folder / "logs" / REFERENCE, config)
        epochs, first = self.config.total_epochs, self.first
        words: list[object] = ["-e", REFERENCE, "-sr", "40k", "-f0", 1, "-v", "v2", "-bs", config.batch_size]
        words += ["-te", epochs, "-se", epochs, "-pg", first / "G_0.pth", "-pd", first / "D_0.pth"]
        reference.run("train.train", [*words, "-g", "0", "-l", 0, "-c", 0, "-sw", 0])
        return self.score(folder, REFERENCE, seed)

    def train_ours(self, precision: str, seed: int) -> Scores:
        """Train with this engine."""
        config = self.config.model_copy(update={"seed": seed, "precision": precision})
        folder = self._place(self.root / precision, config)
        machine = Machine(
            device="cpu",
            num_threads=self.machine.num_threads,
            pretrained_g=self.first / "G_0.pth",
            pretrained_d=self.first / "D_0.pth",
        )
        selection = StageSelection(index=False)
        make_voice(None, Workspace(folder, precision), config, machine, lambda _: None, selection=selection)
        return self.score(folder, precision, seed)

    def _place(self, folder: Path, config: TrainingConfig) -> Path:
        """An empty run folder with the prepared clips, and the file list and config.json that both programs read."""
        shutil.rmtree(folder, ignore_errors=True)
        prepared = self.clips[0].wave.parents[1]
        parts = {path.parent.name for clip in self.clips for path in _files(clip)}
        for part in parts:
            shutil.copytree(prepared / part, folder / part)
        # A list without silence is the user's own: neither program adds any.
        lines = [clip.filelist_line().replace(str(prepared), str(folder)) for clip in self.clips]
        (folder / "filelist.txt").write_text("\n".join(lines))
        assert isinstance(config.batch_size, int)
        (folder / "config.json").write_text(self.hparams.workspace_config(config, config.batch_size))
        return folder

    def score(self, folder: Path, program: str, seed: int, steps: int | None = None) -> Scores:
        """Score the only G of a run's folder, and print the line; its number must be `steps`, if given."""
        model, saved = read_generator(folder, self.hparams)
        expected = self.steps if steps is None else steps
        if saved != expected:
            sys.exit(f"{program} took {saved} steps instead of {expected}: the voices cannot be compared")
        scores = self.evaluator.evaluate(model).values | {KL: kl_divergence(model, self.evaluator.windows)}
        line = {"program": program, "seed": seed, "steps": saved, "scores": _rounded(scores)}
        print(json.dumps(line | self._setting()), flush=True)
        return scores

    @property
    def steps(self) -> int:
        """Steps of each training."""
        config = self.config
        assert isinstance(config.batch_size, int)
        assert isinstance(config.total_epochs, int)
        return len(self.clips) // config.batch_size * config.total_epochs

    def _setting(self) -> dict[str, object]:
        kept = {"width", "batch_size", "learning_rate", "total_epochs"}
        return self.config.model_dump(include=kept) | {"clips": len(self.clips), "device": cpu_name()}


def _files(clip: ClipFiles) -> list[Path]:
    return [path for path in (clip.wave, clip.features, clip.coarse_f0, clip.f0) if path is not None]


@torch.no_grad()
def kl_divergence(model: Synthesizer, windows: Sequence[Window]) -> float:
    """KL divergence of posterior and prior on the windows, per frame."""
    total, hparams = 0.0, model.hparams
    with eval_mode(model):
        for window in windows:
            conversion, segments = window.conversion, window.segments
            source = segments.noise.source
            noise = Noise(segments.noise.posterior[:1], None if source is None else source[:1])
            inputs = (conversion.features, conversion.coarse_f0, conversion.f0, segments.spec[:1])
            output = model(*inputs, conversion.lengths, conversion.speakers, segments.starts[:1], noise)
            total += float(
                kl_sum(output.latent_prior, output.log_std, output.prior_mean, output.prior_log_std, output.mask)
            )
    return hparams.kl_weight * total / sum(window.frames for window in windows)


def print_summary(scores: Mapping[str, Sequence[Scores]]) -> None:
    """Print mean and standard deviation over the seeds for each program, and its differences from the reference."""
    for program, voices in scores.items():
        line: dict[str, object] = {"program": program, "seeds": len(voices), "mean": _each(voices, statistics.fmean)}
        if len(voices) > 1:
            line["spread"] = _each(voices, statistics.stdev)
        if program not in {REFERENCE, "first weights"} and (theirs := scores.get(REFERENCE)):
            differences = [
                {key: each[key] - other[key] for key in each if key in other}
                for each, other in zip(voices, theirs, strict=True)
            ]
            line["minus_reference"] = _each(differences, statistics.fmean)
            if len(voices) > 1:
                line["minus_reference_spread"] = _each(differences, statistics.stdev)
        print(json.dumps(line), flush=True)


def _each(voices: Sequence[Scores], statistic: Callable[[list[float]], float]) -> Scores:
    """A statistic of each score that all voices have; F0 cannot be compared where a voice has none."""
    keys = [key for key in voices[0] if all(key in voice for voice in voices)]
    return _rounded({key: statistic([voice[key] for voice in voices]) for key in keys})


def _rounded(scores: Mapping[str, float]) -> Scores:
    return {key: round(value, 4) for key, value in scores.items()}


if __name__ == "__main__":
    main()
