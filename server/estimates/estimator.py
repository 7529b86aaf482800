"""What a job would take: clips, steps, seconds, disk, memory. From what was measured, or said to be a guess."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import Range
from server.database.tables import Dataset, Job, Worker
from server.estimates.throughput import Devices, StepTime, ThroughputHistory, batch_range

SECONDS_REMEMBERED = 20.0
"""What was measured changes slowly; the database is queried so often."""
MIN_TIMED_STEPS = 8
"""`max_train_seconds` does not end training before so many steps."""
_SLICE_SECONDS = 3.7
_SHORTEST_USUAL_SLICE = 2.5
_OVERHEAD = {"never": 1.05, "auto": 1.15, "always": 1.5}
"""Checkpoints take up to 3 % of the time, and evaluations where they are `auto` up to 10."""
_GUESSED_PER_MINUTE = {
    "slice": {"": (0.1, 3.0)},
    "pitch": {
        "": (0.5, 5.0),
        "rmvpe": (5.0, 60.0),
        "fcpe": (2.0, 15.0),
        "crepe": (40.0, 400.0),
        "crepe-tiny": (5.0, 30.0),
        "harvest": (10.0, 50.0),
    },
    "content": {"": (2.0, 60.0), "whisper-tiny": (0.3, 3.0)},
}
"""Seconds of a CPU for a minute of sound, around those in `benchmarks/RESULTS.md`; a GPU is up to ten times as fast."""
_OF_GPU = 0.1


@dataclass(frozen=True)
class AudioStats:
    """Length of a dataset's audio, and the clips it gives."""

    seconds: float
    speech_seconds: float
    num_files: int
    num_clips: Range | None = None
    """As an earlier job on it counted them."""

    @property
    def clips(self) -> Range:
        """How many clips it gives: each file at least one, more where silences cut it."""
        if self.num_clips is not None:
            return self.num_clips
        high = self.num_files + self.seconds / _SHORTEST_USUAL_SLICE
        return Range(low=max(1, round(self.speech_seconds / _SLICE_SECONDS)), high=max(1, round(high)))


@dataclass(frozen=True)
class Workload:
    """Steps and seconds of a job."""

    steps: Range
    seconds: Range
    step: StepTime


@dataclass(frozen=True)
class EstimatorContext:
    """Throughput and devices that estimates are made from."""

    throughput: ThroughputHistory
    devices: Devices

    def workload(self, config: TrainingConfig, audio: AudioStats) -> Workload:
        """Steps and seconds of a job, from its start to its end."""
        step = self.throughput.step(config, self.devices)
        steps = _steps(config, audio.clips, batch_range(config, self.devices))
        train = Range(low=steps.low * step.seconds.low, high=steps.high * step.seconds.high)
        if config.max_train_seconds is not None:
            train = Range(
                low=min(train.low, max(config.max_train_seconds, MIN_TIMED_STEPS * step.seconds.low)),
                high=min(train.high, max(config.max_train_seconds, MIN_TIMED_STEPS * step.seconds.high)),
            )
            steps = Range(
                low=min(steps.low, max(MIN_TIMED_STEPS, train.low // step.seconds.high)),
                high=min(steps.high, max(MIN_TIMED_STEPS, train.high // step.seconds.low)),
            )
        before, after = self._preparation(config, audio), self.throughput.last_stages(self.devices)
        low = before.low + train.low + after.low
        high = before.high + train.high * _OVERHEAD[config.evaluate] + after.high
        return Workload(steps, Range(low=low, high=high), step)

    def _preparation(self, config: TrainingConfig, audio: AudioStats) -> Range:
        low = high = 0.0
        for stage, words in _GUESSED_PER_MINUTE.items():
            if stage == "pitch" and not config.f0:
                continue
            found = self.throughput.stage(stage, config, self.devices, audio.seconds)
            if found is None:
                per_minute = words.get(str(getattr(config, stage, "")), words[""])
                least = per_minute[0] * (_OF_GPU if self.devices.kind == "cuda" else 1)
                minutes = audio.seconds / 60
                found = Range(low=minutes * least, high=minutes * per_minute[1] + 5)
            low, high = low + found.low, high + found.high
        is_prepared = audio.num_clips is not None  # by an earlier job, whose results may be in the cache
        return Range(low=0.0 if is_prepared else low, high=high)


class Estimator:
    """Reads the database for what estimates need, and caches it for a while."""

    def __init__(self, lease_seconds: float) -> None:
        """A worker silent for `lease_seconds` is none to count on."""
        self._lease = timedelta(seconds=lease_seconds)
        self._remembered: tuple[float, ThroughputHistory] | None = None

    def context(self, session: Session, now: datetime) -> EstimatorContext:
        """The throughput so far, and the devices of live workers."""
        return EstimatorContext(self._recent_throughput(session), self._devices(session, now))

    def _recent_throughput(self, session: Session) -> ThroughputHistory:
        """As remembered, or loaded anew; by several threads at once rather than under a lock.

        Whoever held a lock here would wait for a connection from the pool while others, who have theirs, wait for the
        lock: with enough of them nobody would ever go on.
        """
        remembered = self._remembered
        if remembered is None or time.monotonic() - remembered[0] > SECONDS_REMEMBERED:
            remembered = self._remembered = (time.monotonic(), ThroughputHistory.load(session))
        return remembered[1]

    def workers(self, session: Session, now: datetime) -> list[Worker]:
        """Those that live and take jobs."""
        query = sa.select(Worker).where(
            col(Worker.stopped_at).is_(None), ~col(Worker.is_draining), col(Worker.last_seen_at) > now - self._lease
        )
        return list(session.execute(query).scalars())

    def _devices(self, session: Session, now: datetime) -> Devices:
        workers = self.workers(session, now)
        names = frozenset(worker.device_name for worker in workers if worker.device_name is not None)
        has_gpu = any(worker.device.startswith("cuda") for worker in workers)
        return Devices("cuda" if has_gpu else "cpu", names)


def audio_stats(session: Session, dataset_ids: Collection[str]) -> dict[str, AudioStats]:
    """What is known of these datasets; those whose report is not there are left out."""
    speech = col(Dataset.report)["speech_seconds"].as_float()
    query = sa.select(col(Dataset.id), col(Dataset.seconds), col(Dataset.num_usable), col(Dataset.num_files), speech)
    rows = session.connection().execute(query.where(col(Dataset.id).in_(dataset_ids)))
    clips = _counted_clips(session, dataset_ids)
    return {
        an_id: AudioStats(seconds, seconds if spoken is None else spoken, usable or files, clips.get(an_id))
        for an_id, seconds, usable, files, spoken in rows
        if seconds is not None
    }


def _counted_clips(session: Session, dataset_ids: Collection[str]) -> dict[str, Range]:
    """Clips by dataset, told from the steps that earlier jobs took for an epoch."""
    query = (
        sa.select(col(Job.dataset_id), col(Job.total_steps), col(Job.total_epochs), col(Job.config))
        .where(
            col(Job.dataset_id).in_(dataset_ids), col(Job.total_steps).is_not(None), col(Job.total_epochs).is_not(None)
        )
        .order_by(col(Job.number).desc())
        .limit(200)
    )
    found: dict[str, Range] = {}
    for an_id, steps, epochs, config in session.connection().execute(query):
        size = config.get("batch_size", 4)
        if an_id not in found and epochs and isinstance(size, int):
            size *= config.get("accumulate_steps", 1)
            found[an_id] = Range(low=(steps // epochs - 1) * size + 1, high=steps // epochs * size)
    return found


def _steps(config: TrainingConfig, clips: Range, batch: tuple[int, int]) -> Range:
    return Range(
        low=max(1, -(-clips.low // batch[1])) * config.total_epochs,
        high=max(1, -(-clips.high // batch[0])) * config.total_epochs,
    )
