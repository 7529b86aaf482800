"""Stage `export`: `<voice>.pth` for RVC and Applio, and the check that both files of a voice work.

Loaders of this format ignore unknown names and keep random weights for missing ones, so a wrong file is silent garbage.
Nothing is published here before it was read back strictly, rendered a clip and answered a search.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from rvc_engine.audio.mel import log_mel, spectrogram
from rvc_engine.checkpoints.io import load_file, save_atomically
from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.checkpoints.train_state import TrainProgress, completed_epochs
from rvc_engine.config import TrainingConfig
from rvc_engine.content.names import embedder_of_features
from rvc_engine.data.clips import Clip, list_clips, load_clip, speakers_present
from rvc_engine.data.speakers import Speakers
from rvc_engine.environment.files import unlink
from rvc_engine.errors import ArtifactInvalid, IncompatibleCheckpoint
from rvc_engine.events import ArtifactKind, ArtifactReady
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import PRIOR_NOISE_SCALE, Synthesizer
from rvc_engine.reporting import StageReport
from rvc_engine.voices.median_pitch import MEDIAN_PITCH, median_pitch
from rvc_engine.voices.voice import SPEAKER_NAMES
from rvc_engine.workspace.atomic_files import keep_aside
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.external import clip_paths
from rvc_engine.workspace.index_files import read_index
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file

VERSION = 1

MAX_MEL_DIFFERENCE = 0.01
"""Mean absolute log-mel difference of file and model: float16 rounding gives 0.001, one scrambled block 0.04."""
CHECK_FRAMES = 200
"""Longest clip that the check renders: 2 s."""


@dataclass(frozen=True)
class VoiceDetails:
    """Metadata of a voice file."""

    name: str
    epoch: int
    step: int
    embedder: str
    seconds: float
    """Duration of its recordings without silence."""
    speakers: Mapping[int, str] = field(default_factory=lambda: {0: "0"})
    """Names of its speakers, by id."""
    base_weights: str | None = None
    """Base weights of the user's own, or the earlier voice that it was trained from; none: published ones were missing.
    None in all other cases."""
    median_pitch: Mapping[int, float] = field(default_factory=dict)
    """Median pitch of its speakers in Hz, by id; empty where it is unknown."""
    training_seconds: float = 0.0
    """Training time over all attempts."""

    @classmethod
    def from_checkpoint(cls, workspace: Workspace, config: TrainingConfig, progress: TrainProgress) -> Self:
        """Metadata of a run at this progress. Raises InvalidDataset when the speaker of a slice is unknown."""
        waves = {clip.wave for clip in clip_paths(workspace, config.f0)}
        seconds = sum(soundfile.info(path).duration for path in waves)
        embedder = embedder_of_features(config.content, workspace.made_with("content"))
        speakers = speakers_present(workspace, config)
        choice = BaseWeightsChoice.read(workspace)
        origin = None if choice is None else choice.origin
        if config.pretrained == "none" and choice is not None and choice.pretrained == "none":
            origin = "none"
        epoch = completed_epochs(progress)
        pitch, trained = median_pitch(workspace), progress.seconds
        return cls(workspace.voice, epoch, progress.step, embedder, seconds, speakers, origin, pitch, trained)


def voice_tree(weights: dict[str, Tensor], hparams: Hyperparameters, details: VoiceDetails) -> dict[str, Any]:
    """Contents of a voice file, as plain types and tensors.

    `weights`: state dict of a Synthesizer. Its posterior encoder (`enc_q.`) is left out, the rest becomes float16.
    """
    kept = {name: value.detach().cpu().half() for name, value in weights.items() if not name.startswith("enc_q.")}
    minutes, seconds = divmod(round(details.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    names = {} if set(details.speakers) == {0} else {SPEAKER_NAMES: dict(details.speakers)}
    return {
        "weight": kept,
        "config": hparams.voice_config(),
        "info": f"{details.epoch}epoch",
        "sr": hparams.rate_name,
        "f0": int(hparams.f0),
        "version": hparams.version,
        # shown by Applio, ignored by RVC
        "epoch": details.epoch,
        "step": details.step,
        "creation_date": datetime.now().isoformat(timespec="microseconds"),
        "model_hash": weights_hash(kept),
        "dataset_length": f"{hours:02d}:{minutes:02d}:{seconds:02d}",
        "model_name": details.name,
        "author": "",
        "embedder_model": details.embedder,
        "speakers_id": max(details.speakers) + 1,  # Applio offers the ids below it
        "vocoder": "HiFi-GAN",
        **names,
        **({"base_weights": details.base_weights} if details.base_weights else {}),
        **({MEDIAN_PITCH: dict(details.median_pitch)} if details.median_pitch else {}),
    }


def weights_hash(weights: dict[str, Tensor]) -> str:
    """sha256 over names and values: equal for equal weights, whatever the file's date."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_voice(path: Path, weights: dict[str, Tensor], hparams: Hyperparameters, details: VoiceDetails) -> None:
    """Write a voice file (see `voice_tree`) and read it back strictly.

    Raises ArtifactInvalid, and leaves no file, when that fails; DiskFull.
    """
    write_voice_tree(path, voice_tree(weights, hparams, details))


def write_voice_tree(path: Path, tree: dict[str, Any]) -> None:
    """Write the tree of a voice and read it back strictly, as `write_voice` does."""
    save_atomically(tree, path)
    try:
        read_voice(path)
    except ArtifactInvalid:
        unlink(path)
        raise


def read_voice(path: Path) -> Synthesizer:
    """Model of an exported voice, float32 and without posterior encoder, on the CPU.

    Every name, shape and type must be exactly as published. Raises ArtifactInvalid, IncompatibleCheckpoint.
    """
    tree = load_file(path)
    try:
        weights = tree["weight"]
        speakers = weights["emb_g.weight"].shape[0]
        hparams = Hyperparameters.from_voice_config(tree["config"], tree["version"], bool(tree["f0"]), speakers)
        model = Synthesizer(hparams, with_posterior=False)
        expected = {name: value.shape for name, value in model.state_dict().items()}
        found = {name: value.shape for name, value in weights.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactInvalid(f"{path} is not a voice file: {type(error).__name__} {error}") from error
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ArtifactInvalid(
            f"{path}: {len(wrong)} tensors are missing, unknown or of a wrong shape, first {wrong[0]}"
        )
    for name, value in weights.items():
        if value.dtype != torch.float16 or not bool(value.isfinite().all()):
            raise ArtifactInvalid(f"{path}: {name} ({value.dtype}) is not float16, or contains NaN or infinite values")
    model.load_state_dict(weights)
    return model.eval()


def run(
    workspace: Workspace, config: TrainingConfig, device: torch.device, report: StageReport
) -> tuple[VoiceDetails, list[ArtifactReady]]:
    """Write the voice from the newest checkpoint, check both files and announce them; returns what was announced.

    With total_epochs=auto the voice is the best save, which was checked when it was written.
    Raises ArtifactInvalid, IncompatibleCheckpoint without a checkpoint, InvalidDataset, DiskFull.
    """
    hparams = config_file.hyperparameters(workspace, config)
    weights, progress = load_trained_synthesizer(workspace)
    details = VoiceDetails.from_checkpoint(workspace, config, progress)
    best = _best_voice(workspace, report) if config.total_epochs == "auto" else None
    if best is not None:
        write_voice_tree(workspace.voice_file, best)
        details = replace(details, epoch=best["epoch"], step=best["step"])
    else:
        write_voice(workspace.voice_file, weights, hparams, details)
        report.progress(1, 4)
        clips, _ = list_clips(workspace, hparams, Speakers.from_workspace(workspace, config))
        longest = max(clips, key=lambda clip: clip.frames)
        check_voice(workspace.voice_file, weights, hparams, load_clip(longest), device)
    report.progress(2, 4)
    for path in _index_files(workspace):
        check_index(path, hparams.feature_size)
    report.progress(3, 4)
    return details, announce(workspace, report, is_best=best is not None)


def _best_voice(workspace: Workspace, report: StageReport) -> dict[str, Any] | None:
    """Contents of the best save's voice; None, with a warning, where there is no whole one: the last save is used."""
    try:
        read_voice(workspace.best_file)
        return load_file(workspace.best_file)
    except (ArtifactInvalid, IncompatibleCheckpoint, OSError) as error:
        report.warn(f"the voice is that of the last save, as there is no voice of a best one: {error}")
        return None


def run_index_only(workspace: Workspace, config: TrainingConfig, report: StageReport) -> None:
    """Check and announce the indexes of a run without training. Raises ArtifactInvalid."""
    for path, kind in _index_files(workspace).items():
        check_index(path, config.feature_size)
        report.event(artifact_of(kind, path))
    report.progress(1, 1)


def announce(workspace: Workspace, report: StageReport, *, is_best: bool = False) -> list[ArtifactReady]:
    """Report the files of a voice as artifacts. The best save's voice is optional: a damaged one gives a warning.

    `is_best`: the voice is that of the best save, which is not offered a second time.
    """
    files = [artifact_of("voice", workspace.voice_file)]
    files += [artifact_of(kind, path) for path, kind in _index_files(workspace).items()]
    if workspace.best_file.exists() and not is_best:
        try:
            read_voice(workspace.best_file)
            files.append(artifact_of("best", workspace.best_file))
        except (ArtifactInvalid, IncompatibleCheckpoint) as error:
            report.warn(f"the best save's voice is damaged and not offered: {error}")
    for file in files:
        report.event(file)
    report.progress(1, 1)
    return files


def _index_files(workspace: Workspace) -> dict[Path, ArtifactKind]:
    """Existing indexes, the common one last: RVC takes the newest that fits, also among downloaded ones."""
    common: dict[Path, ArtifactKind] = {workspace.index_file: "index"} if workspace.index_file.exists() else {}
    speakers: dict[Path, ArtifactKind] = dict.fromkeys(workspace.speaker_index_files(), "speaker_index")
    return speakers | common


def artifact_of(kind: ArtifactKind, path: Path) -> ArtifactReady:
    """A file of the workspace as an artifact."""
    return ArtifactReady(kind=kind, name=path.name, path=str(path), size=path.stat().st_size, sha256=sha256_of(path))


def check_voice(
    path: Path, weights: dict[str, Tensor], hparams: Hyperparameters, clip: Clip, device: torch.device
) -> None:
    """Compare a voice file with the weights that it was made from, by a clip rendered with the same noise.

    Raises ArtifactInvalid, and deletes the file, when the mean absolute log-mel difference is MAX_MEL_DIFFERENCE or
    more.
    """
    from_file = read_voice(path).to(device)
    model = Synthesizer(hparams, with_posterior=False)
    model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("enc_q.")})
    difference = mel_difference(from_file, model.to(device).eval(), clip, device)
    if not difference < MAX_MEL_DIFFERENCE:  # also true for NaN
        unlink(path)
        raise ArtifactInvalid(
            f"{path.name} does not sound like the trained model (log-mel difference {difference:.4f}, allowed "
            f"{MAX_MEL_DIFFERENCE}); it was not published. Training further and exporting again may help"
        )


def mel_difference(one: Synthesizer, other: Synthesizer, clip: Clip, device: torch.device) -> float:
    """Mean absolute log-mel difference of two models on the same noise and the first CHECK_FRAMES of a clip."""
    hparams = one.hparams
    frames = min(clip.frames, CHECK_FRAMES)
    rng = torch.Generator().manual_seed(0)
    prior = torch.randn(1, hparams.hidden_channels, frames, generator=rng) * PRIOR_NOISE_SCALE
    source = torch.randn(1, frames * hparams.hop_length, generator=rng) if hparams.f0 else None
    mels = []
    for model in (one, other):
        wave = model.infer(
            clip.features[None, :frames].to(device),
            None if clip.coarse_f0 is None else clip.coarse_f0[None, :frames].to(device),
            None if clip.f0 is None else clip.f0[None, :frames].to(device),
            torch.tensor([frames], device=device),
            torch.tensor([clip.speaker], device=device),
            prior.to(device),
            None if source is None else source.to(device),
        )
        mels.append(
            log_mel(spectrogram(wave[:, 0], hparams.n_fft, hparams.hop_length), hparams.sample_rate, hparams.n_mels)
        )
    return float((mels[0] - mels[1]).abs().mean())


def check_index(path: Path, feature_size: int) -> None:
    """Check an index as its loaders use it: rows (N, feature_size) are readable, and a search for one finds it.

    Raises ArtifactInvalid, and renames an index that is readable but wrong: it may be another program's.
    """
    try:
        index = read_index(path)
        count = index.ntotal
        row = index.reconstruct_n(count // 2, 1)
        distances, _ = index.search(row, 1)
    except (RuntimeError, OSError) as error:
        raise ArtifactInvalid(f"{path.name} cannot be read as an index: {error}") from error
    scale = float(np.square(row).sum()) + 1.0
    if index.d != feature_size or count == 0 or not 0 <= distances[0, 0] < 1e-3 * scale:
        raise ArtifactInvalid(
            f"{path.name} gives a wrong search result ({count} rows of {index.d}, distance {distances[0, 0]:.3g} of a "
            f"row to itself); it was not published, and is named {keep_aside(path).name}. Run the job again"
        )
