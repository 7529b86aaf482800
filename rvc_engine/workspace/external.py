"""Clips that RVC, Applio or an earlier run left in a workspace, and checks whether a run can use them. No torch.

RVC names slices `0_gt_wavs/<i>_<j>.wav`, Applio `sliced_audios/<speaker>_<i>_<j>.wav` (see `Workspace`). A folder has
neither `filelist.txt` nor `config.json` right after their preprocessing.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from rvc_engine.config import NUM_SPEAKERS, TrainingConfig
from rvc_engine.listing import shorten
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.filelist import ClipPaths, users_filelist

NO_SLICES = (
    "{folder} holds no slices; give the folder of recordings with --dataset, or the name of a run whose recordings "
    "are prepared"
)
COARSE_BINS = 256
"""Rows of the synthesizer's embedding of the coarse pitch."""


def clip_paths(workspace: Workspace, f0: bool) -> list[ClipPaths]:
    """The clips of the run, in a stable order: those of the user's file list, or else all slices of the workspace."""
    listed = users_filelist(workspace, f0)
    if listed is not None:
        return listed.clips
    return [_own_clip(workspace, wave, f0) for wave in _waves(workspace)]


def _waves(workspace: Workspace) -> list[Path]:
    return sorted(workspace.slices.glob("*.wav"), key=lambda path: _natural_key(path.stem))


def _natural_key(stem: str) -> tuple[object, ...]:
    """Key for sorting by numbers, `2_10` after `2_9`."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in stem.split("_"))


def _own_clip(workspace: Workspace, wave: Path, f0: bool) -> ClipPaths:
    return ClipPaths(
        wave,
        workspace.features / f"{wave.stem}.npy",
        workspace.coarse_f0 / f"{wave.name}.npy" if f0 else None,
        workspace.f0_hz / f"{wave.name}.npy" if f0 else None,
        speaker_in(wave.stem),
    )


def speaker_in(stem: str) -> int | None:
    """The speaker in the name of Applio's slices, `<speaker>_<i>_<j>`; None for other names."""
    parts = stem.split("_")
    is_applios = len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)
    return int(parts[0]) if is_applios and int(parts[0]) < NUM_SPEAKERS else None


@dataclass
class WorkspaceCheck:
    """Result of checking a workspace before a run uses its files."""

    faults: list[str] = field(default_factory=list)
    """Reasons why a run cannot use it, a sentence each."""
    remarks: list[str] = field(default_factory=list)
    """Parts that the run leaves out, a sentence each."""


def check_workspace(workspace: Workspace, config: TrainingConfig, *, trains: bool = True) -> WorkspaceCheck:
    """Check everything that training (or else the index stage alone) would read; nothing is written."""
    found = WorkspaceCheck()
    if not trains:
        if not any(workspace.features.glob("*.npy")):
            found.faults.append(_no_features(workspace))
        return found
    listed = users_filelist(workspace, config.f0)
    clips = clip_paths(workspace, config.f0)
    if listed is not None and listed.remark:
        found.remarks.append(listed.remark)
    if not clips:
        found.faults.append((listed and listed.fault) or NO_SLICES.format(folder=workspace.slices))
        return found
    _check_parts(workspace, clips, found)
    _check_contents(workspace, config, clips, found)
    return found


def _no_features(workspace: Workspace) -> str:
    other_version, other_name = ("v2", "3_feature768") if workspace.version == "v1" else ("v1", "3_feature256")
    fault = f"{workspace.features} holds no features"
    if any((workspace.root / other_name).glob("*.npy")):
        return (
            f"{fault}, but {other_name} does: those are for {other_version}; set version={other_version}, "
            f"or extract features for {workspace.version}"
        )
    return f"{fault}; extract them, or give the recordings with --dataset"


def _check_parts(workspace: Workspace, clips: list[ClipPaths], found: WorkspaceCheck) -> None:
    without = {part: [clip.wave.name for clip in clips if part in clip.missing] for part in ("features", "pitch")}
    if len(without["features"]) == len(clips):
        found.faults.append(_no_features(workspace))
    elif without["features"]:
        found.remarks.append(_left_out(without["features"], len(clips), "features"))
    if len(without["pitch"]) == len(clips):
        found.faults.append(
            f"none of the {len(clips)} slices has pitch in {workspace.coarse_f0.name} and {workspace.f0_hz.name}; "
            "extract it, or train a voice without pitch: f0=false"
        )
    elif without["pitch"]:
        found.remarks.append(_left_out(without["pitch"], len(clips), "pitch"))


def _left_out(names: list[str], total: int, part: str) -> str:
    return f"{len(names)} of {total} slices have no {part} and are left out: {_examples(names)}"


def _examples(names: list[str]) -> str:
    return shorten(names, rest=", ...")


def _sample_rate(wave: Path) -> int:
    """The sample rate in Hz. Raises ValueError for a slice of several channels."""
    info = soundfile.info(wave)
    if info.channels != 1:
        raise ValueError(f"{info.channels} channels, but slices must be mono")
    return int(info.samplerate)


def _features_shape(path: Path) -> tuple[int, ...]:
    """The shape of features. Raises ValueError for NaN and infinity, which training would meet hours later."""
    features = np.load(path, mmap_mode="r")
    if not np.isfinite(features).all():
        raise ValueError(f"{path.name} holds NaN or infinite values")
    shape: tuple[int, ...] = features.shape
    return shape


def _check_curve(path: Path, highest: float) -> None:
    """Raise ValueError for a malformed pitch curve."""
    curve = np.load(path)
    if curve.ndim != 1:
        raise ValueError(f"{path.parent.name}/{path.name} has {curve.ndim} dimensions, but a pitch curve has one")
    if not (np.isfinite(curve) & (curve >= 0) & (curve <= highest)).all():
        expected = "0 or above" if math.isinf(highest) else f"0 to {highest:g}"
        raise ValueError(f"{path.parent.name}/{path.name} holds values out of range ({expected})")


def _check_contents(
    workspace: Workspace, config: TrainingConfig, clips: list[ClipPaths], found: WorkspaceCheck
) -> None:
    rates: dict[int, list[str]] = {}
    shapes: dict[tuple[int, ...], list[str]] = {}
    for clip in clips:
        try:
            rates.setdefault(_sample_rate(clip.wave), []).append(clip.wave.name)
            if "features" not in clip.missing:
                shapes.setdefault(_features_shape(clip.features)[1:], []).append(clip.features.name)
            for path, highest in ((clip.coarse_f0, COARSE_BINS - 1), (clip.f0, math.inf)):
                if path is not None and path.is_file():
                    _check_curve(path, highest)
        except (soundfile.LibsndfileError, OSError, ValueError, TypeError, EOFError) as error:
            found.faults.append(
                f"the slice {clip.wave}, its features or its pitch cannot be read ({error}); prepare the "
                "recordings again"
            )
    names = {32_000: "32k", 40_000: "40k", 48_000: "48k"}
    for rate in sorted(set(rates) - {config.sample_rate_hz}):
        choose = f"set sample_rate={names[rate]}, or " if rate in names else ""
        found.faults.append(
            f"{len(rates[rate])} of {len(clips)} slices in {workspace.slices} have {rate} Hz, but the voice has "
            f"{config.sample_rate_hz} Hz ({_examples(rates[rate])}); {choose}slice the recordings again"
        )
    for shape in sorted(set(shapes) - {(config.feature_size,)}):
        found.faults.append(
            f"{len(shapes[shape])} files in {workspace.features} have rows of {'x'.join(map(str, shape)) or '0'} "
            f"numbers, but a {config.version} voice needs rows of {config.feature_size} ({_examples(shapes[shape])}); "
            f"extract the features again for {config.version}"
        )
