"""Durations of jobs: by jobs with the same settings that succeeded here, or else by its device's calibration.

A calibrated duration is corrected by the jobs with other settings that succeeded on the device.
"""

import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session, col

from rvc_engine.calibration.results import Calibration
from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import JobStatus, Range
from server.database.tables import Attempt, Dataset, Job, Worker
from server.estimates.calibrations import Calibrations
from server.estimates.costs import Prediction, Sound, earliest_end, predict

MAX_JOBS = 300
"""Newest measured jobs to compare with."""
MAX_ATTEMPTS = 10_000
"""Newest attempts among which measured jobs are looked for."""
CACHE_SECONDS = 20.0
SPREAD = (0.8, 1.3)
"""Around measured times: machines are shared, and clips differ in length."""
CALIBRATED_SPREAD, CORRECTED_SPREAD = (0.5, 2.0), (0.6, 1.6)
"""Around a calibrated duration, without and with a finished job on the device: nine of ten jobs end within."""
MAX_CORRECTIONS = 20
"""Newest finished jobs on a device that correct its calibration."""
MAX_CORRECTION = 8.0
MAX_SOUNDS = 10_000
_STEP = ("version", "sample_rate", "f0", "width", "batch_size", "accumulate_steps", "precision", "tf32")
_KIND = (*_STEP, "gradient_checkpointing", "pitch", "content", "evaluate")  # settings that decide a job's duration
_ADDED = {"graphs": "auto", "compile": False}  # later settings, which jobs of before lack
_CUTTING = {"slicing": "auto", "slice_seconds": None, "slice_overlap_seconds": None}  # jobs of before lack them

Bounds = tuple[float, float]
Basis = Literal["measured", "calibrated"]


@dataclass(frozen=True)
class MeasuredJob:
    """Measurements of a job that succeeded in one attempt."""

    device_name: str | None
    audio_seconds: float
    steps_per_epoch: float
    step_seconds: float
    other_seconds: float  # of the attempt, outside of training steps

    def workload(
        self, config: Mapping[str, Any], audio_seconds: float, *, at_least: bool = False
    ) -> tuple[float, float]:
        """Steps and seconds of a job with the same settings on a dataset of another length.

        With total_epochs=auto the most, or with `at_least` the least.
        """
        scale, limit = audio_seconds / self.audio_seconds, config.get("max_train_seconds") or math.inf
        epoch, epochs = max(1, round(self.steps_per_epoch * scale)), config["total_epochs"]
        steps = epoch * (config["max_epochs"] if epochs == "auto" else epochs)
        if epochs == "auto" and at_least:
            steps = min(steps, earliest_end(epoch))
        steps = min(steps, limit / self.step_seconds)
        return steps, steps * self.step_seconds + self.other_seconds * scale


@dataclass(frozen=True)
class Span:
    """A number of seconds, as the likeliest and as bounds of nine of ten."""

    low: float
    likely: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(factor * self.low, factor * self.likely, factor * self.high)

    def public(self) -> Range | None:
        """The span as it is shown; None for one without an end."""
        return Range(low=self.low, likely=self.likely, high=self.high) if math.isfinite(self.high) else None

    @classmethod
    def around(cls, seconds: Sequence[float], spread: Bounds) -> "Span":
        """The span around several estimates of one duration."""
        return cls(spread[0] * min(seconds), statistics.median(seconds), spread[1] * max(seconds))


@dataclass(frozen=True)
class Workload:
    """Size and duration of a job, from its start to its end."""

    seconds: Span
    steps: Bounds
    num_clips: Bounds | None
    """None where only steps were measured."""
    basis: Basis
    num_jobs: int
    """Finished jobs that it stands on."""


@dataclass(frozen=True)
class _FinishedJob:
    config: Mapping[str, Any]
    dataset_id: str
    seconds: float


class Durations:
    """Durations of jobs, in the caller's transaction. What was measured is read again after some seconds."""

    def __init__(self, calibrations: Calibrations | None = None) -> None:
        """`calibrations` None: durations are known by jobs with the same settings alone."""
        self._calibrations = calibrations
        self._measured: dict[tuple[Any, ...], list[MeasuredJob]] = {}
        self._finished: dict[str | None, list[_FinishedJob]] = {}
        self._measured_at = -math.inf
        self._sounds: OrderedDict[str, Sound] = OrderedDict()

    def comparable(self, session: Session, config: Mapping[str, Any], workers: Iterable[Worker]) -> list[MeasuredJob]:
        """Measured jobs with the same settings on the workers' devices; on any device where these are not known."""
        self._refresh(session)
        devices = {worker.device_name for worker in workers} - {None}
        return [job for job in self._measured.get(_kind(config), ()) if not devices or job.device_name in devices]

    def sounds(self, session: Session, dataset_ids: Iterable[str]) -> dict[str, Sound]:
        """Measures of datasets by their reports; those without one are left out."""
        wanted = set(dataset_ids)
        if missing := wanted - self._sounds.keys():
            kept = col(Dataset.report)["kept_seconds"].as_float()
            query = sa.select(col(Dataset.id), col(Dataset.seconds), kept, col(Dataset.num_usable))
            for row in session.execute(query.where(col(Dataset.id).in_(missing))):
                if row[1]:
                    self._sounds[row[0]] = Sound(row[1], row[2] or row[1], row[3] or 1)
        found = {dataset_id: self._sounds[dataset_id] for dataset_id in wanted & self._sounds.keys()}
        while len(self._sounds) > MAX_SOUNDS:
            self._sounds.popitem(last=False)
        return found

    def of_dataset(
        self, session: Session, config: Mapping[str, Any], dataset_id: str, workers: Sequence[Worker]
    ) -> Workload | None:
        """As `of`, by the dataset's id."""
        sound = self.sounds(session, [dataset_id]).get(dataset_id)
        return None if sound is None else self.of(session, config, sound, workers)

    def of(
        self, session: Session, config: Mapping[str, Any], sound: Sound, workers: Sequence[Worker]
    ) -> Workload | None:
        """The workload of a job on one of the workers; None while nothing is known."""
        if measured := self.comparable(session, config, workers):
            return _measured_workload(config, measured, sound)
        return self._calibrated_workload(session, config, sound, workers)

    def _calibrated_workload(
        self, session: Session, config: Mapping[str, Any], sound: Sound, workers: Sequence[Worker]
    ) -> Workload | None:
        parsed = _parsed(config)
        if self._calibrations is None or parsed is None:
            return None
        num_devices = {worker.device_name: worker.device.count("+") + 1 for worker in workers}
        predictions: list[Prediction] = []
        seconds: list[float] = []
        num_jobs = 0
        for name, calibration in self._calibrations.of_devices(num_devices).items():
            found = [predict(calibration, parsed, sound, num_devices[name], at_least=least) for least in (True, False)]
            ratios = self._ratios(session, name, calibration, num_devices[name])
            correction = math.exp(statistics.median(map(math.log, ratios))) if ratios else 1.0
            correction = min(max(correction, 1 / MAX_CORRECTION), MAX_CORRECTION * calibration.jobs_per_device)
            predictions += found
            slower = {1.0} if ratios else _slowdowns(calibration)  # finished jobs had the others beside them
            seconds += [correction * each.seconds * factor for each in found for factor in slower]
            num_jobs += len(ratios)
        if not predictions:
            return None
        steps, clips = [round(each.steps) for each in predictions], [round(each.num_clips) for each in predictions]
        span = Span.around(seconds, CORRECTED_SPREAD if num_jobs else CALIBRATED_SPREAD)
        return Workload(span, (min(steps), max(steps)), (min(clips), max(clips)), "calibrated", num_jobs)

    def _ratios(self, session: Session, device_name: str, calibration: Calibration, num_devices: int) -> list[float]:
        """Durations of the newest finished jobs on a device, relative to their predictions."""
        jobs = self._finished.get(device_name, [])[:MAX_CORRECTIONS]
        sounds = self.sounds(session, (job.dataset_id for job in jobs))
        found = []
        for job in jobs:
            parsed, sound = _parsed(job.config), sounds.get(job.dataset_id)
            # How long those trained that ended by themselves was no matter of speed.
            if parsed is not None and parsed.total_epochs != "auto" and sound is not None and job.seconds > 0:
                found.append(job.seconds / predict(calibration, parsed, sound, num_devices).seconds)
        return found

    def _refresh(self, session: Session) -> None:
        if time.monotonic() - self._measured_at <= CACHE_SECONDS:
            return
        # No lock: its holder could wait for a connection.
        self._measured, self._finished = _measured_jobs(session)
        self._measured_at = time.monotonic()


def _slowdowns(calibration: Calibration) -> set[float]:
    """Least and most times by which a job takes longer beside the others that share its device.

    A calibration is made while they are idle. On a CPU each has its own cores; on a GPU it depends on the GPU and on
    the batches: nothing where it was mostly idle, and their number where one job can use all of it.
    """
    return {1.0} if calibration.device == "cpu" else {1.0, float(calibration.jobs_per_device)}


def _measured_workload(config: Mapping[str, Any], measured: Sequence[MeasuredJob], sound: Sound) -> Workload:
    work = [job.workload(config, sound.seconds, at_least=least) for job in measured for least in (True, False)]
    steps, seconds = [each[0] for each in work], [each[1] for each in work]
    clips = None
    if config.get("batch_size") != "auto":
        batch = config["batch_size"] * config.get("accumulate_steps", 1)
        epochs = [job.steps_per_epoch * sound.seconds / job.audio_seconds for job in measured]
        clips = max(1, round((min(epochs) - 1) * batch) + 1), max(1, round(max(epochs) * batch))
    return Workload(Span.around(seconds, SPREAD), (min(steps), max(steps)), clips, "measured", len(measured))


def _parsed(config: Mapping[str, Any]) -> TrainingConfig | None:
    """A job's settings; None for those of another version that are not valid in this one."""
    try:
        return TrainingConfig.model_validate(config)
    except ValidationError:
        return None


def _kind(config: Mapping[str, Any]) -> tuple[Any, ...]:
    cutting = [config.get(name, default) for name, default in _CUTTING.items()]
    added = (config.get(name, default) for name, default in _ADDED.items())
    return (*(config.get(name) for name in _KIND), *added, *(cutting if cutting[0] == "fixed" else cutting[:1]))


def _measured_jobs(
    session: Session,
) -> tuple[dict[tuple[Any, ...], list[MeasuredJob]], dict[str | None, list[_FinishedJob]]]:
    """Newest jobs that succeeded in one attempt, by kind and by device; without those that continued another job."""
    query = (
        sa.select(Job, Attempt, col(Dataset.seconds))
        .where(col(Attempt.job_number) == col(Job.number), col(Dataset.id) == col(Job.dataset_id))
        .where(col(Attempt.attempt) == 1, col(Attempt.outcome) == JobStatus.SUCCEEDED, col(Dataset.seconds) > 0)
        .where(col(Attempt.step_seconds) > 0, col(Job.total_steps) > 0, col(Job.total_epochs) > 0)
        .where(sa.func.coalesce(col(Job.retry_from), "start") == "start")
        .where(col(Attempt.id) > sa.select(sa.func.max(col(Attempt.id))).scalar_subquery() - MAX_ATTEMPTS)
    )
    measured: dict[tuple[Any, ...], list[MeasuredJob]] = {}
    finished: dict[str | None, list[_FinishedJob]] = {}
    for job, attempt, length in session.execute(query.order_by(col(Job.number).desc()).limit(MAX_JOBS)):
        seconds = (attempt.ended_at - attempt.started_at).total_seconds()
        other = max(0.0, seconds - attempt.step_seconds * (job.step or job.total_steps))
        numbers = (length, job.total_steps / job.total_epochs, attempt.step_seconds, other)
        measured.setdefault(_kind(job.config), []).append(MeasuredJob(attempt.device_name, *numbers))
        finished.setdefault(attempt.device_name, []).append(_FinishedJob(job.config, job.dataset_id, seconds))
    return measured, finished
