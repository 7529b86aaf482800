"""Recordings that are put aside before a training, and the scores of voices on them."""

import shutil
import sys
from pathlib import Path

import soundfile
import torch

from rvc_engine.checkpoints.pair_files import read_pair_file
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles, list_clips
from rvc_engine.data.speakers import Speakers
from rvc_engine.evaluation.evaluator import Evaluator
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pitch.estimators import PitchEstimator
from rvc_engine.workspace.layout import Workspace

SAMPLES = Path(__file__).parents[1] / "samples"
TRAINED, ASIDE = "trained", "aside"
TEST_EVERY = 5
"""Every fifth recording is put aside for the scores."""


def divide(recordings: Path, seconds: float, root: Path) -> None:
    """Copy recordings of that length into the folders `trained` and `aside`."""
    for name in (TRAINED, ASIDE):
        (root / name).mkdir()
    files = sorted(path for path in recordings.rglob("*") if path.suffix in {".flac", ".ogg", ".wav"})
    total = 0.0
    for number, path in enumerate(files):
        if total >= seconds:
            break
        total += soundfile.info(path).duration
        shutil.copy(path, root / (ASIDE if number % TEST_EVERY == TEST_EVERY - 1 else TRAINED))
    if not any((root / ASIDE).iterdir()):
        sys.exit(f"{recordings} gave fewer than {TEST_EVERY} recordings: none could be put aside; use more seconds")


def prepare(dataset: Path, workspace: Workspace, config: TrainingConfig, machine: Machine) -> list[ClipFiles]:
    """Slice a folder and compute pitch and content; returns its clips, without silent ones."""
    make_voice(dataset, workspace, config, machine, lambda _: None, selection=StageSelection(False, False))
    hparams = Hyperparameters.from_config(config)
    clips, _ = list_clips(workspace, hparams, Speakers.from_workspace(workspace, config))
    return [clip for clip in clips if clip.wave.parent == workspace.slices]


def scorer(
    root: Path, config: TrainingConfig, machine: Machine, judge: PitchEstimator, folder: Path | None = None
) -> Evaluator:
    """Evaluator of the recordings put aside, with the F0 of renderings and recordings by `judge`."""
    clips = prepare(root / ASIDE, Workspace(folder or root / "scored", "scored"), config, machine)
    return Evaluator(clips, Hyperparameters.from_config(config), torch.device("cpu"), judge, None)


def read_generator(folder: Path, hparams: Hyperparameters) -> tuple[Synthesizer, int]:
    """The only G of a run's folder, and its number of steps."""
    found = list(folder.glob("G_*.pth"))
    if len(found) != 1:
        sys.exit(f"there are {len(found)} G_ files instead of one in {folder}; see {folder / 'train.log'}")
    model = Synthesizer(hparams)
    model.load_state_dict(read_pair_file(found[0]).weights)
    return model, int(found[0].stem.removeprefix("G_"))
