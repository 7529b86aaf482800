"""Stage `pitch`: the pitch curve of every slice, in Hz and in coarse bins, stored as in RVC."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io.wavfile
from numpy.typing import NDArray

from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.parallel import map_ordered
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import GpuOutOfMemory
from rvc_engine.machine import Machine
from rvc_engine.pitch.curve import coarse_pitch, interpolate_unvoiced
from rvc_engine.pitch.estimators import PitchEstimator, create_estimator
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.arrays import save_array
from rvc_engine.workspace.disk import translating_disk_full
from rvc_engine.workspace.layout import Workspace

VERSION = 1
"""To be raised when the same slices give other curves, so that old results are not reused."""


def run(workspace: Workspace, config: TrainingConfig, machine: Machine, report: StageReport) -> None:
    """Write `<i>_<j>.wav.npy` into `coarse_f0` (int64 bins) and `f0_hz` (float64, gaps filled) for every slice.

    A slice without a voiced frame stays: 0 Hz and bin 1 throughout. Raises DiskFull, GpuOutOfMemory, MissingWeights,
    InvalidConfig when the estimator's package is not installed.
    """
    paths = list(workspace.slices_16k.glob("*.wav"))
    num_voiced = num_frames = 0
    with translating_disk_full(workspace.root), _translating_out_of_memory(config.pitch):
        estimator = create_estimator(config.pitch, machine)
        workspace.empty(workspace.coarse_f0)
        workspace.empty(workspace.f0_hz)
        batches = _batches(paths, estimator.batch_size)
        work = partial(_estimate, estimator, workspace)
        report.progress(0, len(paths))
        for done, curves in enumerate(map_ordered(work, batches, estimator.threads_per_call, report.check_stop)):
            num_voiced += sum(int(np.count_nonzero(hz)) for hz in curves)
            num_frames += sum(len(hz) for hz in curves)
            report.progress(done, len(batches))
    report.progress(len(paths), len(paths))
    report.log(f"{100 * num_voiced / max(num_frames, 1):.0f} % of {num_frames / 6000:.1f} minutes is voiced")
    if paths and not num_voiced:
        report.warn(
            "no pitch was found in any slice: the recordings may not contain a voice; train whispers, breaths and "
            "other sounds without pitch with f0=false"
        )


def _batches(paths: list[Path], size: int) -> list[list[Path]]:
    """Batches of slices, sorted by length, because a model batches only clips of equal length."""
    paths = sorted(paths, key=lambda path: (path.stat().st_size, path.name))
    return [paths[start : start + size] for start in range(0, len(paths), size)]


def _estimate(estimator: PitchEstimator, workspace: Workspace, batch: list[Path]) -> list[NDArray[np.float64]]:
    """Write the curves of a batch; returns them as estimated, with gaps."""
    curves = estimator.estimate([scipy.io.wavfile.read(path)[1] for path in batch])
    for path, hz in zip(batch, curves, strict=True):
        _write_curve(workspace, path.name, interpolate_unvoiced(hz))
    return curves


@contextmanager
def _translating_out_of_memory(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise GpuOutOfMemory(
            f"the device has too little free memory for the pitch estimator ({name}); close other programs that use "
            "it, choose a smaller estimator such as pitch=swift, or run on the CPU"
        ) from error


def _write_curve(workspace: Workspace, name: str, hz: NDArray[np.float64]) -> None:
    save_array(workspace.coarse_f0 / f"{name}.npy", coarse_pitch(hz))
    save_array(workspace.f0_hz / f"{name}.npy", hz)
