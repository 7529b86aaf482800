"""Throughput of earlier attempts by device and setting, the basis of estimates."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import Session, col

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.jobs import Range
from server.database.tables import Attempt, Dataset, Job

NUM_REMEMBERED = 300
"""The newest attempts that are looked at: a machine of a year ago may be another one."""
Basis = Literal["measured", "scaled", "guess"]

_SAME_WORK = ("version", "sample_rate", "f0", "width", "precision", "tf32", "gradient_checkpointing")
"""Fields that, with the batch size, decide what a step costs."""
_SPREAD = (0.9, 1.25)
"""Around what was measured: machines are shared, and clips differ in length."""
_OTHER_SETTING = (0.6, 1.7)
"""Around what was measured with another rate or precision."""
_GUESSED_STEP = {"cpu": (4.0, 40.0), "cuda": (0.05, 1.0)}
"""Seconds of a step of four clips at full width. 8.5 to 37 s were seen on two shared cores; GPUs differ tenfold."""
_AUTO_BATCH = {"cpu": (4, 4), "cuda": (4, 32)}


@dataclass(frozen=True)
class AttemptThroughput:
    """What was measured of one attempt."""

    device_name: str | None
    config: Mapping[str, Any]
    step_seconds: float | None
    stage_seconds: Mapping[str, float]
    sound_seconds: float | None
    """Of the dataset."""


@dataclass(frozen=True)
class Devices:
    """Where a job may come to run: what the living workers have."""

    kind: Literal["cpu", "cuda"] = "cpu"
    names: frozenset[str] = frozenset()
    """Empty: anything."""

    def have(self, name: str | None) -> bool:
        """Whether something measured on a device says something about these."""
        return not self.names or name in self.names


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step, and where they come from."""

    seconds: Range
    basis: Basis
    detail: str


@dataclass(frozen=True)
class ThroughputHistory:
    """The measured attempts, newest first."""

    measured: tuple[AttemptThroughput, ...] = field(default=())

    @classmethod
    def load(cls, session: Session) -> "ThroughputHistory":
        """From the newest attempts that trained, or did another stage whole."""
        query = (
            sa.select(
                col(Attempt.device_name),
                col(Job.config),
                col(Attempt.step_seconds),
                col(Attempt.stage_seconds),
                col(Dataset.seconds),
            )
            .join(Job, col(Job.number) == col(Attempt.job_number))
            .join(Dataset, col(Dataset.id) == col(Job.dataset_id))
            .where(sa.or_(col(Attempt.step_seconds).is_not(None), col(Attempt.stage_seconds).is_not(None)))
            .order_by(col(Attempt.id).desc())
            .limit(NUM_REMEMBERED)
        )
        rows = session.connection().execute(query)
        return cls(
            tuple(
                AttemptThroughput(name, config, step, stages or {}, audio) for name, config, step, stages, audio in rows
            )
        )

    def step(self, config: TrainingConfig, devices: Devices) -> StepTime:
        """Time of a step: of attempts with the same setting, or else of others, or else a rule of thumb."""
        wanted = config.model_dump(mode="json")
        attempts = [each for each in self.measured if each.step_seconds is not None and devices.have(each.device_name)]
        same = [each for each in attempts if all(each.config.get(name) == wanted[name] for name in _SAME_WORK)]
        exact = [each for each in same if _batch(each.config) == _batch(wanted)]
        where = ", ".join(sorted(devices.names)) or "any device"
        if exact:
            detail = f"{len(exact)} attempts with this setting on {where}"
            return StepTime(_around([each.step_seconds or 0.0 for each in exact], *_SPREAD), "measured", detail)
        if same or attempts:
            scaled = [_scaled(each, wanted) for each in same or attempts]
            spread = _SPREAD if same else _OTHER_SETTING
            seconds = Range(low=spread[0] * min(low for low, _ in scaled), high=spread[1] * max(h for _, h in scaled))
            return StepTime(seconds, "scaled", f"{len(scaled)} attempts with other settings on {where}, scaled")
        return _guess(config, devices)

    def stage(self, stage: str, config: TrainingConfig, devices: Devices, sound_seconds: float) -> Range | None:
        """Seconds of a stage before training, by what it took others; None when nobody has done it."""
        key = {"pitch": "pitch", "content": "content"}.get(stage)
        shares = [
            each.stage_seconds[stage] / each.sound_seconds
            for each in self.measured
            if stage in each.stage_seconds
            and each.sound_seconds
            and devices.have(each.device_name)
            and (key is None or each.config.get(key) == getattr(config, key))
        ]
        if not shares:
            return None
        found = _around(shares, 0.7, 1.5)
        return Range(low=found.low * sound_seconds, high=found.high * sound_seconds + 5)

    def last_stages(self, devices: Devices) -> Range:
        """Seconds of index and export together."""
        seen = [
            sum(each.stage_seconds[stage] for stage in ("index", "export"))
            for each in self.measured
            if {"index", "export"} <= each.stage_seconds.keys() and devices.have(each.device_name)
        ]
        return _around(seen, 0.5, 2.0) if seen else Range(low=2, high=120)


def batch_range(config: TrainingConfig, devices: Devices) -> tuple[int, int]:
    """Clips that a step learns from, at least and at most."""
    low, high = _AUTO_BATCH[devices.kind] if config.batch_size == "auto" else (config.batch_size, config.batch_size)
    return low * config.accumulate_steps, high * config.accumulate_steps


def _batch(config: Mapping[str, Any]) -> tuple[Any, Any]:
    return config.get("batch_size", 4), config.get("accumulate_steps", 1)


def _num_clips(config: Mapping[str, Any]) -> int:
    size, groups = _batch(config)
    return (4 if size == "auto" else int(size)) * int(groups)


def _around(values: Collection[float], low: float, high: float) -> Range:
    return Range(low=low * min(values), high=high * max(values))


def _scaled(attempt: AttemptThroughput, wanted: Mapping[str, Any]) -> tuple[float, float]:
    """Between in proportion and not at all for clips; for the width between its ratio and the square of that."""
    clips = _num_clips(wanted) / _num_clips(attempt.config)
    width = wanted["width"] / attempt.config.get("width", 192)
    seconds = attempt.step_seconds or 0.0
    return seconds * min(1, clips) * min(width, width**2), seconds * max(1, clips) * max(width, width**2)


def _guess(config: TrainingConfig, devices: Devices) -> StepTime:
    low, high = _GUESSED_STEP[devices.kind]
    fewest, most = batch_range(config, devices)
    width = config.width / 192
    seconds = Range(low=low * width**2 * min(1, fewest / 4), high=high * width * max(1, most / 4))
    detail = "a rule of thumb: no attempt was measured yet; it may be wrong several times over"
    return StepTime(seconds, "guess", detail)
