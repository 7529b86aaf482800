"""Loop of the worker: recover what a dead worker left, register, then claim and run jobs until it is asked to stop.

A worker with several jobs at once on its device runs this loop once for each, in threads.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version

import structlog

from rvc_engine.errors import FailureCode
from rvc_engine.workspace.disk import is_disk_full
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.workers import Drain, share_name
from worker.conversions.engines import ConversionEngines
from worker.conversions.placement import Trainings, TrainingState
from worker.conversions.service import ConversionService
from worker.engine.slots import Slot, Slots
from worker.engine.workspaces import Workspaces
from worker.gateway.errors import LeaseLost, SchemaChanged, SettingsRefused, first_line, is_transient
from worker.gateway.interface import JobLease, RegisteredWorker, WorkerGateway
from worker.gateway.types import WorkerDescription, WorkerFault
from worker.hardware.calibration import Calibrator
from worker.hardware.devices import AUTO, CUDA, device_name, gpu_resources, visible_gpus
from worker.hardware.gpus import GpuMonitor
from worker.job_run import JobRun
from worker.limits import ExitCode, Limits
from worker.places import has_mps, place_name, run_together, share_of_memory
from worker.reporting.heartbeat import Heartbeat
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

SECONDS_BETWEEN_SWEEPS = 600


def work(settings: WorkerSettings, gateway: WorkerGateway, stop: threading.Event) -> ExitCode:
    """Run jobs until `stop` is set or the limits in the settings are reached, `settings.num_places` at once.

    The present jobs are released then. Returns the exit code.
    """
    limits = Limits.of(settings)
    instance_id = _open(gateway, settings.poll_seconds, stop)
    if instance_id is None:
        return limits[0].exit_code
    workspaces = Workspaces(gateway.folders, settings.scratch_folder)
    retry_until_available(lambda: workspaces.claim_scratch(instance_id, gateway.statuses), give_up=stop.is_set)
    slots = Slots(settings.scratch_folder or gateway.folders.root)
    with ExitStack() as stack:
        places: list[_Place] = []
        for number in range(settings.num_places):
            slot = _take_slot(slots, stop)
            if slot is None:
                break
            stack.callback(slot.release)
            registered = _register(settings, gateway, slot, stop, number)
            if registered is None:
                break
            places.append(_Place(number, registered, slot, limits[number], TrainingState()))
        if places:
            limits[0].stay_active()
            if len(places) > 1 and settings.device.startswith((CUDA, AUTO)):
                logger.info("several jobs at once on the device", number=len(places), mps=has_mps(os.environ))
            device = _Device.of(settings, gateway, places)
            workers = [
                _Worker(settings, gateway, place, device, stop, workspaces, slots, instance_id) for place in places
            ]
            run_together([worker.run for worker in workers], stop)
    return limits[0].exit_code


def _register(
    settings: WorkerSettings, gateway: WorkerGateway, slot: Slot, stop: threading.Event, number: int
) -> RegisteredWorker | None:
    """Recover what a dead worker left in the slot, and register; None when `stop` is set meanwhile."""
    if not retry_until_available(lambda: _recover(slot, gateway, settings.stop_seconds), give_up=stop.is_set):
        return None
    description = _describe(settings, number)
    return retry_until_available(lambda: gateway.register(description), give_up=stop.is_set)


def _open(gateway: WorkerGateway, poll_seconds: float, stop: threading.Event) -> str | None:
    """Wait until the server can serve workers; the id of its installation, None when `stop` is set meanwhile."""
    while (instance_id := retry_until_available(gateway.open, give_up=stop.is_set)) is None:
        if stop.wait(poll_seconds):
            return None
    return instance_id


def _take_slot(slots: Slots, stop: threading.Event) -> Slot | None:
    """A slot for this worker; None when `stop` is set while a disk is waited for. Raises SettingsRefused."""
    try:
        return retry_until_available(slots.take, give_up=stop.is_set)
    except OSError as error:
        raise SettingsRefused(
            f"{slots.folder} cannot be used for the worker's records: {error}; make it writable, or set "
            "RVC_TRAIN_SCRATCH_FOLDER to a folder on a local disk"
        ) from error


def _recover(slot: Slot, gateway: WorkerGateway, grace_seconds: float) -> bool:
    """End the engines of a slot's worker, which has ended, and hand back its work; true once that is done.

    The record stays until then. Raises transient errors.
    """
    if slot.worker_id is None:
        return True
    for engine in slot.end_engines(grace_seconds):
        logger.warning("ended an engine that had outlived its worker", pid=engine.pid, job_id=engine.job_id)
    for work_id in gateway.requeue_worker(slot.worker_id):
        logger.warning("handed back the work of a worker whose process ended", id=work_id, worker_id=slot.worker_id)
    slot.clear()
    return True


def _describe(settings: WorkerSettings, number: int) -> WorkerDescription:
    num_gpus, gpu_memory_bytes = gpu_resources(settings.device, os.environ)
    return WorkerDescription(
        name=place_name(settings, number),
        pid=os.getpid(),
        host=socket.gethostname(),
        device=settings.device,
        device_name=share_name(device_name(settings.device, os.environ), settings.jobs_per_device),
        version=version("rvc-train"),
        heartbeat_seconds=settings.heartbeat_seconds,
        serves_conversions=settings.conversions and number == 0,
        num_gpus=num_gpus,
        gpu_memory_bytes=share_of_memory(gpu_memory_bytes, settings.jobs_per_device),
        labels=settings.labels,
    )


class HeartbeatDied(Exception):
    """The thread that sends heartbeats has ended: this process would lose each job that it claims."""


@dataclass(frozen=True)
class _Place:
    """A registration, with what belongs to it alone."""

    number: int
    registered: RegisteredWorker
    slot: Slot
    limits: Limits
    training: TrainingState


@dataclass(frozen=True)
class _Device:
    """Parts that the places share: engine of the conversions, which the first place serves, and calibration."""

    trainings: Trainings
    conversion_engines: ConversionEngines
    calibrator: Calibrator

    @classmethod
    def of(cls, settings: WorkerSettings, gateway: WorkerGateway, places: Sequence[_Place]) -> "_Device":
        trainings = Trainings([place.training for place in places])
        weights = settings.weights_folder or gateway.folders.weights
        engines = ConversionEngines(settings, weights, places[0].slot, trainings)
        return cls(trainings, engines, Calibrator(settings, gateway, lambda: trainings.is_running))


@dataclass
class _Worker:
    """Loop of one registered worker."""

    settings: WorkerSettings
    gateway: WorkerGateway
    place: _Place
    device: _Device
    stop: threading.Event
    workspaces: Workspaces
    slots: Slots
    instance_id: str
    next_sweep_at: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_SWEEPS)
    """A start deletes nothing, the end of a job does."""
    is_claim_unanswered: bool = False
    """Whether the last claim may have been committed although it failed here."""
    is_outdated: bool = False
    """Whether the last claim was refused because another version upgraded the database."""
    heartbeat: Heartbeat = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.heartbeat = Heartbeat(
            self.place.registered,
            settings.heartbeat_seconds,
            settings.wish_seconds,
            settings.heartbeat_file,
            settings.max_turn_seconds,
        )

    def run(self) -> None:
        """Run jobs, with heartbeats and readings of the GPUs, and deregister at the end."""
        settings, worker_id = self.settings, self.place.registered.worker_id
        retry_until_available(lambda: self.place.slot.register(worker_id), give_up=self.stop.is_set)
        name = place_name(settings, self.place.number)
        logger.info("worker ready", worker_id=worker_id, name=name, device=settings.device)
        self.heartbeat.start()
        gpus = [] if settings.device == "cpu" else visible_gpus(settings.device, os.environ)
        gpu_monitor = GpuMonitor(self.place.registered, gpus, settings.heartbeat_seconds)
        gpu_monitor.start()
        conversions = ConversionService(
            settings,
            self.place.registered,
            self.workspaces,
            self.device.conversion_engines,
            lambda: self.stop.is_set() or self.heartbeat.drain is Drain.HAND_BACK,
        )
        is_first = self.place.number == 0
        if settings.conversions and is_first:
            conversions.start()
        try:
            self.run_jobs(lambda: conversions.is_busy)
        finally:
            self.place.registered.stop_waiting()
            if is_first:
                self.device.calibrator.stop()
                conversions.stop()
            gpu_monitor.stop()
            self.heartbeat.stop()
            retry_until_available(self.place.registered.deregister, give_up=lambda: True)
            # Normally nothing is left. What is stays recorded when this fails, for the next worker in the slot.
            retry_until_available(
                lambda: _recover(self.place.slot, self.gateway, settings.stop_seconds), give_up=lambda: True
            )
            logger.info("worker stopped", worker_id=worker_id, drained=self.heartbeat.drain is not None)

    def run_jobs(self, is_converting: Callable[[], bool]) -> None:
        """Run jobs until the worker is stopped or drained, or its limits are reached.

        Raises HeartbeatDied, and errors that are not transient.
        """
        while not (self.stop.is_set() or self.heartbeat.drain is not None or self.place.limits.are_reached):
            self.heartbeat.turn()
            if not self.heartbeat.is_alive:
                raise HeartbeatDied("the thread that sends heartbeats has ended; start the worker again")
            self._recover_abandoned()
            lease = self._claim()
            if lease is not None:
                with self.place.limits.running():
                    self._run(lease)
                    self._count_attempt(lease)
                continue
            if is_converting():
                self.place.limits.stay_active()
            if self.place.limits.has_idled or self._will_never_claim():
                return
            self._sweep_if_due()
            if self.place.number == 0:
                self._calibrate_when_idle()
            self.stop.wait(self.settings.poll_seconds)

    def _calibrate_when_idle(self) -> None:
        """Measure the device while no place has a job and no voice is loaded."""
        if self.device.conversion_engines.is_running or self.device.trainings.is_running:
            self.device.calibrator.stop()
        else:
            self.device.calibrator.on_idle()

    def _count_attempt(self, lease: JobLease) -> None:
        """Note how the job is after its attempt; one whose status cannot be read counts as handed back."""
        try:
            status = self.gateway.statuses([lease.job_id]).get(lease.job_id)
        except Exception as error:
            if not is_transient(error):
                raise
            status = JobStatus.QUEUED
        self.place.limits.add_attempt(lease.job_id, status)

    def _will_never_claim(self) -> bool:
        """Whether the only job that this worker is for is not to be had; the log has the reason."""
        job_id = self.place.limits.job_id
        if job_id is None or self.is_claim_unanswered:
            return False
        try:
            reason = self.place.registered.why_never_claimed(job_id)
        except Exception as error:
            if not is_transient(error):
                raise
            return False
        if reason is not None:
            logger.info("the worker ends", reason=reason)
        return reason is not None

    def _recover_abandoned(self) -> None:
        """End engines that this worker could not end, and recover slots of workers on this machine that died."""
        try:
            self.place.slot.end_engines(self.settings.stop_seconds, of_jobs=True)
            for slot in self.slots.abandoned(self.place.slot):
                _recover(slot, self.gateway, self.settings.stop_seconds)
        except Exception as error:
            if not (is_transient(error) or isinstance(error, OSError)):
                raise
            logger.warning("a dead worker's slot was not recovered; it is tried again", reason=first_line(error))

    def _claim(self) -> JobLease | None:
        try:
            lease = self.place.registered.claim(is_repeated=self.is_claim_unanswered, job_id=self.place.limits.job_id)
        except OSError as error:  # of the attempt's folder; the job was not claimed
            logger.warning("no job is claimed: the data folder cannot be written", reason=str(error))
            return None
        except SchemaChanged as error:
            if not self.is_outdated:
                logger.warning(str(error))
            self.is_outdated = True
            return None
        except Exception as error:
            if not is_transient(error):
                raise
            self.is_claim_unanswered = True
            return None
        self.is_claim_unanswered = self.is_outdated = False
        return lease

    def _run(self, lease: JobLease) -> None:
        """Run one job. An unexpected error hands it back, and ends neither the job nor the worker."""
        logger.info("job claimed", job_id=lease.job_id, attempt=lease.attempt, voice=lease.voice)
        self.heartbeat.attach(lease)
        self.place.training.begin()
        self.device.calibrator.stop()
        self.device.conversion_engines.make_room()
        try:
            JobRun(
                self.settings,
                self.gateway.folders,
                self.workspaces,
                self.place.slot,
                lease,
                self.heartbeat,
                self._is_draining,
                self.place.training,
            ).run()
        except SettingsRefused:  # as when the token was revoked: nothing can be handed back, and the worker ends
            raise
        except Exception as error:
            logger.exception("unexpected worker error", job_id=lease.job_id)
            is_full = isinstance(error, OSError) and is_disk_full(error)
            code = FailureCode.DISK_FULL if is_full else FailureCode.INTERNAL
            self._hand_back(lease, code, f"unexpected worker error ({type(error).__name__}: {error}); see its log")
            self.stop.wait(self.settings.retry_delay_seconds)  # another worker may succeed
        finally:
            self.place.training.end()
            self.heartbeat.attach(None)
            self.next_sweep_at = 0.0

    def _is_draining(self) -> bool:
        return self.stop.is_set() or not self.heartbeat.is_alive

    def _hand_back(self, lease: JobLease, code: FailureCode, message: str) -> None:
        try:
            retry_until_available(lambda: lease.finish(WorkerFault(code, message)), give_up=self._must_give_up)
        except LeaseLost:
            logger.warning("the lease was lost meanwhile", job_id=lease.job_id)

    def _must_give_up(self) -> bool:
        self.heartbeat.turn()
        return self._is_draining()

    def _sweep_if_due(self) -> None:
        if time.monotonic() < self.next_sweep_at:
            return
        self.next_sweep_at = time.monotonic() + SECONDS_BETWEEN_SWEEPS
        try:
            self.workspaces.sweep(
                self.instance_id, self.gateway.statuses, self.settings.trash_days, self.heartbeat.turn
            )
        except Exception as error:
            if not (is_transient(error) or isinstance(error, SettingsRefused)):  # the latter: a disk cannot be read
                raise
            logger.warning("scratch folders were not swept; they are at the next sweep", reason=first_line(error))
