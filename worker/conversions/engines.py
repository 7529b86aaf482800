"""The conversions' one engine: started on the chosen device, kept for some minutes, ended for a training's memory."""

import os
import threading
import time
from pathlib import Path

import structlog

from rvc_engine.child_processes import engine_environment, variable_names
from worker.conversions.engine import ConversionEngine
from worker.conversions.placement import MEASURING, FreeMemory, Placement, TrainingLoad, choose_device, on_cpu
from worker.engine.slots import Slot
from worker.hardware.devices import AUTO, device_environment
from worker.hardware.gpus import free_memory
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

SECONDS_BETWEEN_MEASUREMENTS = 1.0


class ConversionEngines:
    """At most one engine. All methods but `make_room` are called by the conversions' thread."""

    def __init__(
        self,
        settings: WorkerSettings,
        weights_folder: Path,
        slot: Slot,
        training: TrainingLoad,
        measure: FreeMemory = free_memory,
    ) -> None:
        self._settings, self._weights, self._slot = settings, weights_folder, slot
        self._training, self._measure = training, measure
        self._engine: ConversionEngine | None = None
        self._lock = threading.RLock()
        """Held while an engine is started or ended: one on a GPU is there before a job begins, or not at all."""
        self._next_measurement = 0.0

    def obtain(self, cpu_reason: str | None = None) -> tuple[ConversionEngine, Placement]:
        """An engine on the device that is right now. `cpu_reason`: why it must be the CPU. Raises OSError."""
        placement = self._choose(cpu_reason)  # before the lock: a driver may hang
        with self._lock:
            if placement.gpu is not None and self._training.is_measuring:  # since just now
                placement = on_cpu(self._settings, self._training, MEASURING)
            engine = self._engine
            if engine is not None and engine.is_running and engine.placement.device == placement.device:
                return engine, placement
            self.close()
            self._engine = ConversionEngine(placement, self._command(placement), self._environment(placement))
            self._slot.add_engine(self._engine.pid, None)
            logger.info("conversion engine started", pid=self._engine.pid, device=placement.device)
            return self._engine, placement

    def _choose(self, cpu_reason: str | None) -> Placement:
        if cpu_reason is not None:
            return on_cpu(self._settings, self._training, cpu_reason)
        engine = self._engine
        gpu = None if engine is None else engine.placement.gpu
        held = {} if engine is None or gpu is None else {gpu: engine.held_bytes}
        return choose_device(self._settings, self._training, self._measure, held)

    @property
    def is_running(self) -> bool:
        """Whether there is an engine, with voices loaded."""
        return self._engine is not None

    def make_room(self) -> None:
        """End an engine that is on a GPU: a job is about to measure the memory there. From any thread."""
        with self._lock:
            if self._engine is not None and self._engine.placement.gpu is not None:
                self._engine.was_ended_for_room = True
                self.close()

    def keep_room(self) -> None:
        """End an engine on a GPU when less memory is free there than trainings are to find."""
        if time.monotonic() < self._next_measurement:
            return
        self._next_measurement = time.monotonic() + SECONDS_BETWEEN_MEASUREMENTS
        engine = self._engine
        gpu = None if engine is None else engine.placement.gpu
        free = None if gpu is None else self._measure(gpu)
        if free is not None and free < self._settings.conversion_spare_bytes:
            logger.info("conversions leave the GPU, whose memory is needed", gpu=gpu, free_bytes=free)
            self.make_room()

    def end_if_idle(self) -> None:
        """End an engine that has ended by itself, or was not used for a while."""
        engine = self._engine
        if engine is None:
            return
        if not engine.is_running or time.monotonic() - engine.last_used > 60 * self._settings.conversion_idle_minutes:
            self.close(self._settings.stop_seconds)

    def close(self, grace_seconds: float = 0) -> None:
        """End the engine, if there is one."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.close(grace_seconds)
                self._slot.remove_engine(engine.pid)

    def _command(self, placement: Placement) -> list[str]:
        options = {"--device": placement.device, "--weights": self._weights, "--threads": self._settings.worker_threads}
        if self._settings.content_folder is not None:
            options["--content-folder"] = self._settings.content_folder
        if placement.gpu is not None:
            options["--memory"] = self._settings.conversion_memory_bytes
        return [*self._settings.conversion_command, *(f"{option}={value}" for option, value in options.items())]

    def _environment(self, placement: Placement) -> dict[str, str]:
        """Environment of the engine: no GPU at all on the CPU, and threads that sleep while they wait."""
        allowed = engine_environment(os.environ, variable_names(self._settings.engine_environment or ""))
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(self._settings.worker_threads)}
        device = self._settings.device if placement.gpu is not None else "cpu"
        gpus = device_environment("cuda:0" if device == AUTO else device, os.environ)
        return allowed | threads | gpus | {"PYTHONUNBUFFERED": "1"}
