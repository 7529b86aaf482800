"""Training clips: wave, content features and pitch of each slice, trimmed to equal length, and their order."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from rvc_engine.config import TrainingConfig
from rvc_engine.data.speakers import ONE_SPEAKER, Speakers
from rvc_engine.errors import InvalidDataset
from rvc_engine.hyperparameters import MAX_FRAMES, Hyperparameters
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.external import NO_SLICES, clip_paths
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.filelist import ClipPaths, silence_beside, users_filelist, write_own_list

MAX_BATCHES_PER_POOL = 8
"""Clips are shuffled, then sorted by length within pools of this many batches: little padding, varied batches."""
MIN_POOLS = 4
"""With fewer pools the same clips would share a batch in every epoch."""


@dataclass(frozen=True)
class ClipFiles:
    """Files of one clip."""

    wave: Path
    features: Path
    coarse_f0: Path | None
    f0: Path | None
    speaker: int
    frames: int
    """Length after trimming, in frames of 10 ms."""

    def filelist_line(self) -> str:
        """The clip's line in `filelist.txt`."""
        parts = [self.wave, self.features, *(p for p in (self.coarse_f0, self.f0) if p is not None), self.speaker]
        return "|".join(str(part.absolute() if isinstance(part, Path) else part) for part in parts)


@dataclass(frozen=True)
class Clip:
    """One clip in memory."""

    features: Tensor
    """(frames, feature_size), content features at 100 Hz: each row of the 50 Hz features twice."""
    coarse_f0: Tensor | None
    """(frames,), pitch bins."""
    f0: Tensor | None
    """(frames,), Hz."""
    wave: Tensor
    """(samples,): the whole slice, a little longer than `frames`, so that the spectrogram has real sound at the end."""
    frames: int
    speaker: int


def list_clips(
    workspace: Workspace, hparams: Hyperparameters, speakers: Speakers = ONE_SPEAKER
) -> tuple[list[ClipFiles], int]:
    """All clips of the workspace in a stable order, the silent ones last, and the number of slices that are left out.

    Slices are left out when they are too short to train on or lack features or pitch. Raises InvalidDataset when none
    remains, a file is damaged or does not fit the config, or the speaker of a slice is unknown.
    """
    found, listed = clip_paths(workspace, hparams.f0), users_filelist(workspace, hparams.f0)
    if not found:
        raise InvalidDataset((listed and listed.fault) or NO_SLICES.format(folder=workspace.slices))
    clips, num_missing = [], 0
    for paths in found:
        if paths.missing:
            num_missing += 1
        else:
            speaker = speakers.speaker_of_slice(paths.wave.stem, paths.speaker)
            clips.append(_clip_files(paths, speaker, hparams))
    if not clips:
        raise InvalidDataset(
            f"none of the {num_missing} slices in {workspace.slices} has "
            f"{'features and pitch' if hparams.f0 else 'features'}; run the pitch and content stages first"
        )
    kept = [clip for clip in clips if clip.frames >= hparams.segment_frames]
    if not kept:
        raise InvalidDataset(
            f"no slice in {workspace.slices} is as long as a training segment "
            f"({hparams.segment_frames / 100:.2f} s); add longer recordings"
        )
    num_short = len(clips) - len(kept)
    return kept + _silent_clips(workspace, hparams, speakers, kept), num_short + num_missing


def speakers_present(workspace: Workspace, config: TrainingConfig) -> dict[int, str]:
    """Names, by id, of the speakers in the workspace. Raises InvalidDataset when the speaker of a slice is unknown."""
    speakers = Speakers.from_workspace(workspace, config)
    clips = (paths for paths in clip_paths(workspace, config.f0) if not paths.missing)
    return speakers.names_by_id(
        {speakers.speaker_of_slice(paths.wave.stem, paths.speaker) for paths in clips} or {config.speaker_id}
    )


def _silent_clips(
    workspace: Workspace, hparams: Hyperparameters, speakers: Speakers, clips: Sequence[ClipFiles]
) -> list[ClipFiles]:
    """The silent clips that the user's file list names; without such a list two for each speaker, as RVC's page does.

    The run's own silence, which the content stage encodes, replaces one that is not there; without it, RVC's does.
    """
    listed = users_filelist(workspace, hparams.f0)
    named: Sequence[ClipPaths] = ()
    if listed is not None and speakers.choice == "one":
        named = listed.silence
        missing = [speakers.speaker_of_slice("mute", number) for number in listed.missing_silence]
    else:
        missing = [number for number in sorted({clip.speaker for clip in clips}) for _ in range(2)]
    own = _own_silence(workspace, hparams) or silence_beside(workspace, hparams.rate_name, hparams.f0)
    silent = [(paths, speakers.speaker_of_slice("mute", paths.speaker)) for paths in named]
    silent += [] if own is None else [(own, number) for number in missing]
    return [_clip_files(paths, number, hparams) for paths, number in silent]


def _own_silence(workspace: Workspace, hparams: Hyperparameters) -> ClipPaths | None:
    """The silent clip of the workspace, whose wave and pitch are written here; None without its features."""
    features = workspace.mute_features
    if not features.is_file():
        return None
    folder = features.parent
    wave = folder / f"mute{hparams.rate_name}.wav"
    if not wave.is_file():
        sound = io.BytesIO()
        soundfile.write(
            sound, np.zeros(3 * hparams.sample_rate, np.float32), hparams.sample_rate, format="WAV", subtype="FLOAT"
        )
        write_atomically(wave, sound.getvalue())
    coarse = f0 = None
    if hparams.f0:
        coarse, f0 = folder / "mute_coarse.npy", folder / "mute_f0.npy"
        np.save(coarse, np.ones(300, np.int64))
        np.save(f0, np.zeros(300, np.float32))
    return ClipPaths(wave, features, coarse, f0, None)


def _clip_files(paths: ClipPaths, speaker: int, hparams: Hyperparameters) -> ClipFiles:
    wave, features, coarse, f0 = paths.wave, paths.features, paths.coarse_f0, paths.f0
    try:
        info, shape = soundfile.info(wave), np.load(features, mmap_mode="r").shape
        lengths = [len(np.load(path, mmap_mode="r")) for path in (coarse, f0) if path is not None]
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError, EOFError) as error:
        raise InvalidDataset(
            f"the slice {wave}, its features or its pitch cannot be read ({error}); prepare the recordings again"
        ) from error
    if info.samplerate != hparams.sample_rate:
        raise InvalidDataset(
            f"{wave} has {info.samplerate} Hz, but the voice has {hparams.sample_rate} Hz; "
            f"slice the recordings again for {hparams.rate_name}, or choose the other sample rate"
        )
    if len(shape) != 2 or shape[1] != hparams.feature_size:
        raise InvalidDataset(
            f"{features} has the shape {shape}, but a {hparams.version} voice needs rows of {hparams.feature_size} "
            f"numbers; extract the features again for {hparams.version}"
        )
    lengths += [2 * shape[0], info.frames // hparams.hop_length, MAX_FRAMES]
    return ClipFiles(wave, features, coarse, f0, speaker, min(lengths))


def write_filelist(
    workspace: Workspace, clips: Sequence[ClipFiles], seed: int, held_out: Sequence[ClipFiles] = ()
) -> None:
    """Write `filelist.txt` in the format of RVC's trainer: shuffled, the silent clips last; `held_out` is recorded."""
    lines = [clip.filelist_line() for clip in clips]
    voiced = [line for clip, line in zip(clips, lines, strict=True) if clip.wave.parent == workspace.slices]
    random.Random(seed).shuffle(voiced)
    rest = [line for clip, line in zip(clips, lines, strict=True) if clip.wave.parent != workspace.slices]
    write_own_list(workspace, voiced + rest, [clip.filelist_line() for clip in held_out])


def load_clip(files: ClipFiles) -> Clip:
    """Read the files of one clip."""
    wave, _ = soundfile.read(files.wave, dtype="float32")
    frames = files.frames
    content_frames = np.load(files.features)[: (frames + 1) // 2].astype(np.float32)
    return Clip(
        features=torch.from_numpy(content_frames.repeat(2, axis=0)[:frames]),
        coarse_f0=_load_pitch(files.coarse_f0, frames, np.int64),
        f0=_load_pitch(files.f0, frames, np.float32),
        wave=torch.from_numpy(wave),
        frames=frames,
        speaker=files.speaker,
    )


def _load_pitch(path: Path | None, frames: int, dtype: type) -> Tensor | None:
    return None if path is None else torch.from_numpy(np.load(path)[:frames].astype(dtype))


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, *, fills_last: bool = False
) -> list[list[int]]:
    """The clips of each batch of an epoch: every clip exactly once, in an order that depends only on seed and epoch.

    With `fills_last` a smaller last batch is filled up with other clips of the epoch, as in RVC.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    num_batches = -(-len(order) // batch_size)
    pool_size = batch_size * max(1, min(MAX_BATCHES_PER_POOL, num_batches // MIN_POOLS))
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda clip: lengths[clip])
        batches += [pool[n : n + batch_size] for n in range(0, len(pool), batch_size)]
    if fills_last and len(batches) > 1:
        others = [clip for clip in order if clip not in batches[-1]]
        batches[-1] += others[: batch_size - len(batches[-1])]
    rng.shuffle(batches)
    return batches
