"""The device of conversions: a GPU with room that is measured, or else the CPU.

Beside a training that has just begun no GPU is used: the training measures the free memory and chooses its batch. Once
it takes steps, a conversion may use what the training leaves.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from worker.hardware.devices import OTHER_GPUS, visible_gpus
from worker.settings import WorkerSettings

GIB = 2**30
CPU = "cpu"
MEASURING = "a training has just begun and is measuring the GPU's memory"
FreeMemory = Callable[[str], int | None]
"""Free bytes of a GPU by index or UUID; None when they cannot be measured."""


class TrainingState:
    """State of one job of the worker, for its conversions. Plain attributes, read by another thread."""

    def __init__(self) -> None:
        self.is_running = False
        self.has_stepped = False
        """Whether the training takes steps: its batch is chosen and its memory taken."""

    @property
    def is_measuring(self) -> bool:
        """Whether a training may be choosing its batch by the memory that is free."""
        return self.is_running and not self.has_stepped

    def begin(self) -> None:
        """A job is about to run."""
        self.is_running, self.has_stepped = True, False

    def end(self) -> None:
        """The job has ended."""
        self.is_running = False


class Trainings:
    """The jobs that a worker runs at once on its device."""

    def __init__(self, states: Sequence[TrainingState]) -> None:
        self._states = states

    @property
    def is_running(self) -> bool:
        """Whether there is any."""
        return any(state.is_running for state in self._states)

    @property
    def is_measuring(self) -> bool:
        """Whether any may be choosing its batch by the memory that is free."""
        return any(state.is_measuring for state in self._states)


TrainingLoad = TrainingState | Trainings


@dataclass(frozen=True)
class Placement:
    """Device of a conversion, and why."""

    device: str
    """As `rvc-engine` names it, among the worker's GPUs."""
    gpu: str | None
    """Index or UUID of the GPU, as the driver names it."""
    threads: int
    reason: str


def choose_device(
    settings: WorkerSettings,
    training: TrainingLoad,
    free_memory: FreeMemory,
    held_bytes: Mapping[str, int],
    environment: Mapping[str, str] = os.environ,
) -> Placement:
    """Choose the device of a conversion. `held_bytes`: memory that the conversions' engine has already, by GPU."""
    if settings.device == CPU:
        return on_cpu(settings, training, "this worker has no GPU")
    if settings.device.startswith(OTHER_GPUS):
        return on_cpu(settings, training, "the free memory of this GPU cannot be measured")
    free = {gpu: free_memory(gpu) for gpu in visible_gpus(settings.device, environment)}
    measured = {gpu: found for gpu, found in free.items() if found is not None}
    if not measured:
        return on_cpu(settings, training, "there is no GPU whose free memory can be measured")
    if training.is_measuring:
        return on_cpu(settings, training, MEASURING)
    gpu = max(measured, key=lambda gpu: measured[gpu] + held_bytes.get(gpu, 0))
    needed = settings.conversion_memory_bytes - held_bytes.get(gpu, 0) + settings.conversion_spare_bytes
    if measured[gpu] < needed:
        reason = (
            f"only {measured[gpu] / GIB:.1f} GiB of the GPU's memory are free, and a conversion needs "
            f"{needed / GIB:.1f} GiB, with what is kept free for trainings"
        )
        return on_cpu(settings, training, reason)
    reason = f"{measured[gpu] / GIB:.1f} GiB of the GPU's memory are free"
    return Placement(f"cuda:{list(free).index(gpu)}", gpu, settings.worker_threads, reason)


def on_cpu(settings: WorkerSettings, training: TrainingLoad, reason: str) -> Placement:
    """On the CPU: a quarter of its cores beside a training, all of the worker's otherwise."""
    threads = max(1, settings.worker_threads // 4) if training.is_running else settings.worker_threads
    share = f"{threads} of {os.cpu_count() or 1} CPU cores at a low priority"
    return Placement(CPU, None, threads, f"{reason}; {share}")
