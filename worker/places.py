"""Places of a worker: jobs that run at once on its device, each registered as a worker with a share of the device."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from worker.gateway.errors import SettingsRefused
from worker.settings import GIB, WorkerSettings

MIN_SHARE_BYTES = 2 * GIB
"""Least memory of a GPU for a job: networks and optimizer of the default kind of voice, with one clip at a time."""
_POLL_SECONDS = 0.5
_MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108 - the default of nvidia-cuda-mps-control


def has_mps(environment: Mapping[str, str]) -> bool:
    """Whether NVIDIA's Multi-Process Service runs here: the engines, which get the name of its folder, then use it."""
    return (Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS_FOLDER) / "control").exists()


def place_name(settings: WorkerSettings, number: int) -> str:
    """Name of a place in lists."""
    return settings.worker_name if settings.num_places == 1 else f"{settings.worker_name}-{number + 1}"


def share_of_memory(num_bytes: int | None, jobs_per_device: int) -> int | None:
    """Memory of a GPU for each of several jobs; None where it is unknown. Raises SettingsRefused for too little."""
    if num_bytes is None or jobs_per_device == 1:
        return num_bytes
    share = num_bytes // jobs_per_device
    if share < MIN_SHARE_BYTES:
        most = num_bytes // MIN_SHARE_BYTES
        raise SettingsRefused(
            f"RVC_TRAIN_JOBS_PER_DEVICE={jobs_per_device} leaves each job {share / GIB:.1f} GiB of the GPU's "
            f"{num_bytes / GIB:.1f} GiB, and a job needs {MIN_SHARE_BYTES / GIB:.0f} GiB; set it to {max(1, most)} "
            "or less"
        )
    return share


def run_together(loops: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Run the loops of all places until their ends. When one raises an error, the others are asked to stop."""
    if len(loops) == 1:
        loops[0]()
        return
    with ThreadPoolExecutor(len(loops), "place") as pool:
        futures = [pool.submit(loop) for loop in loops]
        while wait(futures, _POLL_SECONDS, FIRST_EXCEPTION).not_done:  # woken up for signals, also on Windows
            if any(future.done() and future.exception() is not None for future in futures):
                stop.set()
    for future in futures:
        future.result()
