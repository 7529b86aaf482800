"""Estimate of the disk space that a run needs, made before any work, so that hours are not spent on a full disk.

Files already in the workspace are subtracted; stage results from the cache are hard links and take no space.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.audio.parts import total_seconds
from rvc_engine.audio.reading import UnreadableAudio, probe
from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.checkpoints.manifest import KEPT_CHECKPOINTS
from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE, Hyperparameters
from rvc_engine.index.build import MAX_ROWS
from rvc_engine.models.identity import ModelIdentity, discriminators_layout, generator_layout
from rvc_engine.workspace.disk import check_free_space, format_bytes, size_on_disk
from rvc_engine.workspace.layout import Workspace

RESERVE_BYTES = 256 * 2**20
"""Kept free beside the estimate, for logs, previews and other programs."""
MAX_PROBED = 200
"""Recordings whose length is read; the bytes per second of these serve as an estimate for the others."""
BYTES_PER_SECOND = 8000
"""Assumed for a recording without a length in its header: that of a compressed one, to overestimate its length."""
SLICE_OVERLAP = 4.0 / 3.7
FLOAT = 4
MIN_SECONDS_PER_SAVE = 60
"""Least interval between saves assumed where `max_train_seconds` ends training, as its epochs are not known ahead."""


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes still to be written, by purpose."""

    prepared: int
    """Slices, pitch and features."""
    checkpoints: int
    """Recovery checkpoints: those kept, and one more while it is written."""
    saves: int
    """G_/D_ pairs and small voices that are kept of the saves."""
    index: int
    export: int

    @property
    def total(self) -> int:
        """Sum of all parts, without the reserve."""
        return self.prepared + self.checkpoints + self.saves + self.index + self.export

    def __str__(self) -> str:
        parts = {
            "slices and features": self.prepared,
            "recovery checkpoints": self.checkpoints,
            "saves": self.saves,
            "the index": self.index,
            "the voice": self.export,
        }
        return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)


def check_space(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    cached_folders: Collection[Path] = (),
    *,
    trains: bool = True,
    indexes: bool = True,
) -> None:
    """Raise DiskFull, with needed and free space and advice, when the run does not fit on the workspace's disk.

    `cached_folders`: folders of the workspace that take no space, because their content is in the cache.
    """
    needed = estimate(dataset, workspace, config, cached_folders, trains=trains, indexes=indexes)
    advice = "free some space"
    if needed.saves > needed.total / 4:
        advice += ", or save less: a larger save_every_epochs, save_only_latest, or keep_saves=latest"
    check_free_space(
        workspace.root,
        needed.total + RESERVE_BYTES if needed.total else 0,
        f"the run ({needed}, and {format_bytes(RESERVE_BYTES)} in reserve)",
        f"{advice}, or choose another disk",
    )


def estimate(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    cached_folders: Collection[Path] = (),
    *,
    trains: bool = True,
    indexes: bool = True,
) -> DiskEstimate:
    """Bytes that the run will write."""
    hparams = Hyperparameters.from_config(config)
    prepared, features = _preprocessing_bytes(dataset, workspace, hparams, cached_folders)
    # total_fea.npy holds all rows; so does the index, up to MAX_ROWS, above which it holds k-means centres.
    # With several speakers, each has another index of its own rows.
    rows_in_index = min(features, MAX_ROWS * FLOAT * hparams.feature_size) * (1 if config.speakers == "one" else 2)
    index = features + rows_in_index - size_on_disk(workspace.total_features) if indexes else 0
    if not trains:
        return DiskEstimate(prepared, 0, 0, max(0, index), 0)
    generator, pair = _model_bytes(hparams)
    voice = generator // 2
    checkpoints = (KEPT_CHECKPOINTS + 1) * 3 * pair - size_on_disk(workspace.recovery)
    num_saves, is_replaced = _kept_saves(config)
    saved = sum(size_on_disk(path) for letter in "GD" for path in workspace.root.glob(f"{letter}_*.pth"))
    num_voices = (num_saves if config.save_every_weights else 0) + (config.evaluate != "never")
    saves = num_saves * 3 * pair + (3 * generator if is_replaced else 0) + num_voices * voice - saved
    return DiskEstimate(prepared, max(0, checkpoints), max(0, saves), max(0, index), 2 * voice)


def _preprocessing_bytes(
    dataset: Path | None, workspace: Workspace, hparams: Hyperparameters, cached_folders: Collection[Path]
) -> tuple[int, int]:
    """Bytes still to be written by the stages before training, and bytes of all features."""
    if dataset is None:
        return 0, size_on_disk(workspace.features)
    seconds = _estimate_seconds(list_recordings(dataset)) * SLICE_OVERLAP
    per_second = {
        workspace.slices: FLOAT * hparams.sample_rate,
        workspace.slices_16k: FLOAT * ANALYSIS_SAMPLE_RATE,
        workspace.features: FLOAT * 50 * hparams.feature_size,
    }
    if hparams.f0:
        per_second |= {workspace.coarse_f0: 8 * 100, workspace.f0_hz: FLOAT * 100}
    whole = {folder: round(seconds * rate) for folder, rate in per_second.items()}
    missing = sum(max(0, size - size_on_disk(folder)) for folder, size in whole.items() if folder not in cached_folders)
    return missing, whole[workspace.features]


def _kept_saves(config: TrainingConfig) -> tuple[int, bool]:
    """Pairs on disk at once, and whether each new pair is written beside the one that it replaces."""
    if config.save_only_latest:
        return 1, True
    number = -(-config.epoch_limit // config.save_every_epochs)
    if config.max_train_seconds is not None:
        number = min(number, 1 + int(config.max_train_seconds / MIN_SECONDS_PER_SAVE))
    if config.keep_saves == "latest":
        number = min(number, 2)
    if config.keep_saves == "best":
        number = min(number, config.num_best_saves + 2)
    return number, False


def _model_bytes(hparams: Hyperparameters) -> tuple[int, int]:
    """Bytes of float32 weights: of the generator, and of both models; an optimizer holds twice as much again."""
    generator = generator_layout(hparams, with_posterior=True)
    discriminators = discriminators_layout(ModelIdentity("discriminators", hparams.version, hparams.hidden_channels))
    generator_bytes, discriminators_bytes = (
        FLOAT * sum(math.prod(shape) for shape in layout.values()) for layout in (generator, discriminators)
    )
    return generator_bytes, generator_bytes + discriminators_bytes


def _estimate_seconds(recordings: list[Recording]) -> float:
    """Length of all recordings, estimated from the headers of at most MAX_PROBED of them."""
    step = -(-len(recordings) // MAX_PROBED) or 1
    probed = recordings[::step]
    seconds = sum(_header_seconds(recording.path) for recording in probed)
    size = sum(size_on_disk(recording.path) for recording in probed)
    if not size:
        return 0.0
    whole = seconds * sum(size_on_disk(recording.path) for recording in recordings) / size
    return max(0.0, whole - sum(total_seconds(recording.without) for recording in recordings))


def _header_seconds(path: Path) -> float:
    try:
        seconds = probe(path).seconds
    except UnreadableAudio:
        return 0.0
    return seconds if seconds is not None else size_on_disk(path) / BYTES_PER_SECOND
