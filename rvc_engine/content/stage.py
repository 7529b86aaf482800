"""Stage `content`: content features of every slice, one frame per 20 ms."""

from functools import partial
from pathlib import Path

import numpy as np
import scipy.io.wavfile
import torch

from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.parallel import map_ordered
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.content.encoders import ContentEncoder, create_encoder
from rvc_engine.content.local_folder import check_fits, embedder_of_folder, local_folder
from rvc_engine.content.names import embedder_name
from rvc_engine.content.windows import BATCH_FRAMES, FRAME_SAMPLES, batches_by_size
from rvc_engine.errors import GpuOutOfMemory, InvalidDataset
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.listing import shorten
from rvc_engine.machine import Machine
from rvc_engine.reporting import StageReport
from rvc_engine.weights.assets import WHISPER_TINY_WEIGHTS
from rvc_engine.weights.catalogue import ENCODER_IDS, Weights
from rvc_engine.workspace.arrays import save_array
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.disk import translating_disk_full
from rvc_engine.workspace.layout import Workspace

VERSION = 1
"""Increased when the same slices give other features, so that cached results are not reused."""

BATCH_BYTES = 4 * BATCH_FRAMES * FRAME_SAMPLES
"""Size limit of a batch's files, as if all were as large as the largest. The stage can be stopped between batches."""
MUTE_SAMPLES = 3 * ANALYSIS_SAMPLE_RATE
MAX_NAMED = 5
"""Limit of slices that a warning names."""


def run(
    workspace: Workspace, config: TrainingConfig, machine: Machine, device: torch.device, report: StageReport
) -> None:
    """Write `<i>_<j>.npy`, (frames, feature_size) float32, for every slice, and the features of 3 s of silence.

    Slices that are too short for a frame, or have features that are not finite, are left out with a warning. Raises
    MissingWeights, IncompatibleCheckpoint, InvalidDataset when no slice is left, GpuOutOfMemory, DiskFull.
    """
    paths = list(workspace.slices_16k.glob("*.wav"))
    encoder = create_encoder(config.content, config.version, machine, device, dtype=_dtype(config, device))
    left_out: list[str] = []
    try:
        with translating_disk_full(workspace.root):
            workspace.empty(workspace.features)
            _write_mute(workspace, encoder)
            # Slices of similar length together (files of similar size have it), the shortest first, in a stable order.
            by_size = sorted((path.stat().st_size, path.name, path) for path in paths)
            batches = list(batches_by_size(((size, path) for size, _, path in by_size), BATCH_BYTES))
            work = partial(_encode, encoder, workspace.features)
            threads_per_call = 1 if device.type == "cpu" else None
            report.progress(0, len(paths))
            for done, without_features in enumerate(map_ordered(work, batches, threads_per_call, report.check_stop)):
                left_out += without_features
                report.progress(done, len(batches))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise GpuOutOfMemory(
            f"the device has too little free memory for the content encoder ({encoder.name}); close other programs "
            "that use it, or run on the CPU"
        ) from error
    report.progress(len(paths), len(paths))
    _warn_left_out(sorted(left_out), len(paths), report)


def write_mute(workspace: Workspace, config: TrainingConfig, machine: Machine, device: torch.device) -> None:
    """Write the features of 3 s of silence for a workspace whose features another program made.

    Raises MissingWeights when the encoder is not on this machine, DiskFull.
    """
    with translating_disk_full(workspace.root):
        encoder = create_encoder(config.content, config.version, machine, device, dtype=_dtype(config, device))
        _write_mute(workspace, encoder)


def _dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Format of the encoder's products: float16 on a GPU, as in RVC, bfloat16 on a CPU that multiplies it.

    float32 where the training has it. Not part of the fingerprint: the difference is too small to be audible in a
    voice, and a run that resumes on another kind of machine keeps its features.
    """
    name = Precision.choose(config.precision, device).name
    if device.type == "cpu":
        return torch.bfloat16 if name == "bf16" else torch.float32
    return torch.float32 if name == "fp32" else torch.float16


def fingerprint_parts(config: TrainingConfig, machine: Machine) -> list[str]:
    """Inputs of the features besides the slices: version of this code, encoder, checksum of its weights.

    Raises MissingWeights, IncompatibleCheckpoint when a local encoder does not fit the version.
    """
    if config.content == "local":
        folder = local_folder(machine)
        check_fits(folder, config.version)
        return [f"content {VERSION}", embedder_of_folder(folder), config.version]
    if config.content == "whisper-tiny":
        weights = sha256_of(WHISPER_TINY_WEIGHTS)
    else:
        weights = _sha256_of_hubert(Weights(machine.weights_folder), ENCODER_IDS[config.content])
    return [f"content {VERSION}", embedder_name(config.content), config.version, weights]


def made_with(config: TrainingConfig, machine: Machine) -> str:
    """Encoder as the workspace records it: its name in the configuration, or a local one's `embedder_model`."""
    return embedder_of_folder(local_folder(machine)) if config.content == "local" else config.content


def _sha256_of_hubert(weights: Weights, name: str) -> str:
    """Checksum of the published weights, with which the file on this machine was verified."""
    folder = weights.folder_of(name)
    file = next(file for file in weights.files_of(name) if weights.path_of(file) == folder / "pytorch_model.bin")
    return weights.checksum_of(file)


def _encode(encoder: ContentEncoder, folder: Path, batch: list[Path]) -> list[str]:
    """Write the features of a batch; returns the names of slices without usable features."""
    left_out = []
    waves = [scipy.io.wavfile.read(path)[1] for path in batch]
    for path, features in zip(batch, encoder.encode(waves), strict=True):
        if len(features) and np.isfinite(features).all():
            save_array(folder / f"{path.stem}.npy", features)
        else:
            left_out.append(path.name)
    return left_out


def _write_mute(workspace: Workspace, encoder: ContentEncoder) -> None:
    [features] = encoder.encode([np.zeros(MUTE_SAMPLES, np.float32)])
    workspace.mute_features.parent.mkdir(parents=True, exist_ok=True)
    save_array(workspace.mute_features, features)


def _warn_left_out(names: list[str], total: int, report: StageReport) -> None:
    if not names:
        return
    shown = shorten(names, MAX_NAMED, rest=", ...")
    if len(names) == total:
        raise InvalidDataset(f"no slice has content features ({shown}); the recordings are damaged or much too short")
    report.warn(f"{len(names)} of {total} slices have no content features and are left out: {shown}")
