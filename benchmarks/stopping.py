"""`total_epochs=auto` against fixed numbers of epochs: the score of the voice that each ends with, and its steps.

Small nets from scratch, with a learning rate that falls quickly, so that they are done within minutes. For each seed
one training ends by itself and is then continued to the fixed epochs, which gives what a run of that length from the
start would (runs resume exactly). Some recordings are put aside before: they are neither trained on nor used to choose
the best save, and the voices are scored on them, as `eval/mel` is (mean absolute log-mel distance, lower is better).

The recordings are so few that the benchmark holds more clips out than a run does (SHARE), and evaluates more often.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.put_aside import SAMPLES, TRAINED, divide, scorer
from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.config import TrainingConfig
from rvc_engine.data import split
from rvc_engine.evaluation import evaluator, stopping
from rvc_engine.evaluation.evaluator import Evaluator
from rvc_engine.evaluation.history import kept_end
from rvc_engine.events import Evaluated, Event
from rvc_engine.hyperparameters import MEL_WEIGHT
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.pitch.swift import SwiftEstimator
from rvc_engine.voices.export import read_voice
from rvc_engine.workspace.layout import Workspace

SHARE = 0.15
SPACING_STEPS = 5


def main() -> None:
    """Print a JSON line per seed and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=SAMPLES, help="a folder of one speaker")
    parser.add_argument("--seconds", type=float, default=100, help="length of the recordings to use")
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fixed", type=int, nargs="*", default=[40], help="numbers of epochs to compare with")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--lr-decay", type=float, default=0.85, help="per epoch")
    parser.add_argument("--stop-share", type=float, default=TrainingConfig().stop_share)
    options = parser.parse_args()
    split.SHARE, split.MIN_SPEECH_SECONDS, stopping.MIN_SPACING = SHARE, 30, SPACING_STEPS
    evaluator.PREVIEW_FRAMES = evaluator.OTHER_FRAMES
    config = TrainingConfig(
        width=options.width,
        content="whisper-tiny",
        pretrained="none",
        sample_rate="32k",
        precision="fp32",
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_decay=options.lr_decay,
        save_every_epochs=20_000,
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        divide(options.recordings, options.seconds, root)
        machine = Machine(device="cpu", num_threads=torch.get_num_threads(), cache_folder=root / "cache")
        evaluator_of_aside = scorer(root, config, machine, SwiftEstimator(1))
        lengths = ["auto", *sorted(options.fixed)]
        for epochs in lengths:
            for seed in range(1, options.seeds + 1):
                changes = {"seed": seed, "total_epochs": epochs}
                if epochs == "auto":
                    changes["stop_share"] = options.stop_share
                _train(root, config.model_copy(update=changes), machine, evaluator_of_aside)


def _score(voice: Path, scorer: Evaluator) -> float:
    """Score a voice as `eval/mel` does, on the clips of the scorer."""
    model, distances = read_voice(voice), []
    hparams = model.hparams
    with torch.no_grad():
        for window in scorer.windows:
            wave = model.infer(*window.conversion)[:, 0]
            mel = log_mel(spectrogram(wave, hparams.n_fft, hparams.hop_length), hparams.sample_rate, hparams.n_mels)
            distances.append(MEL_WEIGHT * float((mel - window.mel).abs().mean()))
    return float(np.mean(distances))


def _train(root: Path, config: TrainingConfig, machine: Machine, scorer: Evaluator) -> None:
    """Make the seed's voice, or go on with it, and print its score."""
    workspace = Workspace(root / f"seed{config.seed}", "voice")
    end, curve = kept_end(workspace.root), list[tuple[int, float]]()
    line: dict[str, object] = {"seed": config.seed, "epochs": config.total_epochs}
    if end is not None and end.epoch >= config.epoch_limit:
        print(json.dumps(line | {"left_out": f"auto took {end.epoch} epochs"}), flush=True)
        return

    def report(event: Event) -> None:
        if isinstance(event, Evaluated):
            curve.append((event.step, round(event.values["eval/mel"], 2)))

    make_voice(root / TRAINED, workspace, config, machine, report)
    if config.total_epochs == "auto" and (end := kept_end(workspace.root)) is not None:
        line |= end.model_dump(exclude={"type", "time"})
    print(json.dumps(line | {"score": round(_score(workspace.voice_file, scorer), 2), "curve": curve}), flush=True)


if __name__ == "__main__":
    main()
