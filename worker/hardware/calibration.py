"""Calibration of the worker's device: `rvc-engine machine --calibrate` as a child, while it has nothing else to do."""

import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import structlog
from pydantic import ValidationError

from rvc_engine.calibration.results import Calibration
from rvc_engine.child_processes import engine_environment, python_command, variable_names
from rvc_engine.environment.processes import PIPE, STOPS_WITH_PARENT, ProcessGroup
from rvc_engine.environment.torch_builds import installed_torch
from rvc_train.schemas.workers import share_name
from worker.gateway.errors import Unavailable
from worker.gateway.interface import WorkerGateway
from worker.hardware.devices import device_environment, device_name, engine_device
from worker.settings import WorkerSettings, default_engine_command

logger = structlog.get_logger(__name__)

MAX_SECONDS = 300.0
"""Longest time of a calibration with the start of its process; one that hangs is ended."""


class Calibrator:
    """Calibration of one worker, at most one a start; the worker's loop calls it at each turn."""

    def __init__(
        self, settings: WorkerSettings, gateway: WorkerGateway, is_busy: Callable[[], bool] = lambda: False
    ) -> None:
        """`is_busy`: whether a job runs in any place of the worker."""
        self._settings, self._gateway, self._is_busy = settings, gateway, is_busy
        self._lock = threading.Lock()
        """Held by the thread, of any place, that begins or ends it."""
        is_own_engine = settings.engine_command == default_engine_command()  # the speed of another is not known
        self._is_over = not (settings.calibrate and is_own_engine)
        self._idle_since: float | None = None
        self._started = 0.0
        self._device_name = ""
        self._child: ProcessGroup | None = None

    def on_idle(self) -> None:
        """Begin the calibration once the worker was idle for a while, and keep its result."""
        if self._is_over:
            return
        with self._lock:
            now = time.monotonic()
            if self._is_busy():  # since just now
                return
            if self._idle_since is None:
                self._idle_since = now
            if self._child is not None:
                self._look_after(self._child)
            elif now - self._idle_since >= self._settings.calibration_idle_seconds:
                self._start()

    def stop(self) -> None:
        """End a calibration that runs: there is work. It is made when the worker is idle again."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        child, self._child, self._idle_since = self._child, None, None
        if child is not None:
            child.end_group()
            child.communicate()

    def _start(self) -> None:
        settings, torch = self._settings, installed_torch()
        self._device_name = share_name(device_name(settings.device, os.environ), settings.jobs_per_device)
        torch_version = None if torch is None else torch.version
        try:
            is_lacking = self._gateway.lacks_calibration(
                self._device_name, version("rvc-train"), torch_version, settings.num_threads
            )
        except Unavailable:
            return  # asked again at the next turn
        if not is_lacking:
            self._is_over = True
            return
        device = engine_device(settings.device).partition(",")[0]
        options = [f"--device={device}", f"--threads={settings.num_threads}", STOPS_WITH_PARENT]
        if settings.jobs_per_device > 1:
            options.append(f"--jobs-per-device={settings.jobs_per_device}")
        command = python_command("rvc_engine", "machine", "--calibrate", *options)
        allowed = engine_environment(os.environ, variable_names(settings.engine_environment or ""))
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(settings.num_threads)}
        environment = allowed | threads | device_environment(settings.device, os.environ)
        try:
            self._child = ProcessGroup(command, environment, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except OSError as error:
            self._give_up(str(error))
            return
        self._started = time.monotonic()
        logger.info("the device is measured for estimates, until a job comes", device=settings.device)

    def _look_after(self, child: ProcessGroup) -> None:
        if child.poll() is None:
            if time.monotonic() - self._started > MAX_SECONDS:
                self._end()
                self._give_up(f"it took longer than {MAX_SECONDS:g} s")
            return
        output, errors = child.communicate()
        self._child = None
        if child.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines()
            self._give_up(lines[-1] if lines else f"it ended with the code {child.returncode}")
            return
        self._keep(output)

    def _keep(self, output: bytes) -> None:
        try:
            calibration = Calibration.model_validate_json(output)
            self._gateway.store_calibration(self._device_name, calibration)
        except (OSError, Unavailable, ValidationError) as error:
            self._give_up(str(error))
            return
        self._is_over = True
        logger.info("the device was measured for estimates", seconds=round(calibration.took_seconds, 1))

    def _give_up(self, reason: str) -> None:
        self._is_over = True
        logger.warning("the device was not measured; estimates wait for the first job", reason=reason)
