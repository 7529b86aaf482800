"""Evaluations and previews of a job's saves: written from the engine's events, read by the API.

A new evaluation of a step deletes those of later steps: they belong to training that a resume has discarded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_engine import events as engine_events
from rvc_train.schemas.events import EventType
from rvc_train.schemas.results import CheckpointPublic, PreviewFile, PreviewPublic, quality_scores
from server.database.engine import read_session
from server.database.result_tables import Evaluation, Preview
from server.database.tables import Job
from server.errors import NotFound
from server.job_store.events import NewEvent
from server.results.stored_files import add_stored_files
from server.storage.local import StoredFile

_FILE_NAME = re.compile(
    r"^(?:e\d+_s(?P<step>\d{1,18})|(?P<recording>recording))_(?P<clip>\d{1,9})\.(?:flac|(?P<png>png))$"
)
MEDIA_TYPES = {"flac": "audio/flac", "png": "image/png"}


@dataclass(frozen=True)
class PreviewFiles:
    """Stored files of a preview."""

    audio: StoredFile
    picture: StoredFile
    recording: StoredFile


def write_evaluations(
    session: Session, job_number: int, events: Sequence[engine_events.Evaluated], now: datetime
) -> None:
    """Write the engine's evaluations in the caller's transaction."""
    for event in events:
        for table in (Evaluation, Preview):
            discarded = (col(table.job_number) == job_number, col(table.step) >= event.step)
            session.execute(sa.delete(table).where(*discarded))
        if event.is_best:
            others = sa.update(Evaluation).where(col(Evaluation.job_number) == job_number)
            session.execute(others.values(is_best=False))
        values = event.model_dump(include={"step", "epoch", "values", "held_out", "is_best", "num_clips"})
        session.connection().execute(sa.insert(Evaluation), [{**values, "job_number": job_number, "created_at": now}])


def write_quality(
    session: Session, job_number: int, events: Sequence[engine_events.QualityScored], now: datetime
) -> None:
    """Write scores of finished voices in the caller's transaction: into the save's row, or one of them alone."""
    for event in events:
        row = session.get(Evaluation, (job_number, event.step))
        if row is None:
            session.add(
                Evaluation(
                    job_number=job_number,
                    step=event.step,
                    epoch=event.epoch,
                    values=event.values,
                    held_out=False,
                    is_best=False,
                    num_clips=0,
                    created_at=now,
                )
            )
        else:
            row.values = {**row.values, **event.values}
            session.add(row)
    session.flush()


def write_preview(
    session: Session, job: Job, event: engine_events.PreviewReady, files: PreviewFiles, now: datetime
) -> NewEvent:
    """Write a preview, replacing one of the same step and clip; returns the event to append."""
    add_stored_files(session, job, (files.audio, files.picture, files.recording), now)
    replaced = (col(Preview.job_number) == job.number, col(Preview.step) == event.step, col(Preview.clip) == event.clip)
    session.execute(sa.delete(Preview).where(*replaced))
    row = event.model_dump(include={"step", "epoch", "clip", "seconds", "scores"})
    for kind in ("audio", "picture", "recording"):
        stored: StoredFile = getattr(files, kind)
        row |= {f"{kind}_path": stored.path, f"{kind}_size": stored.size, f"{kind}_sha256": stored.sha256}
    session.connection().execute(sa.insert(Preview), [{**row, "job_number": job.number, "created_at": now}])
    names = preview_names(event.epoch, event.step, event.clip)
    data: dict[str, Any] = event.model_dump(include={"step", "epoch", "clip", "seconds", "scores"})
    data |= {kind: _url(job.id, name) for kind, name in names.items()}
    return NewEvent(EventType.PREVIEW_READY, f"preview of epoch {event.epoch}, step {event.step}", data)


class EvaluationQueries:
    """Queries of evaluations and previews of one database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def checkpoints(self, job: Job) -> list[CheckpointPublic]:
        """A job's evaluated saves, by step."""
        with read_session(self._engine) as session:
            query = select(Evaluation).where(Evaluation.job_number == job.number).order_by(col(Evaluation.step))
            return [checkpoint_public(row) for row in session.exec(query).all()]

    def previews(self, job: Job) -> list[PreviewPublic]:
        """A job's previews, by step and clip."""
        with read_session(self._engine) as session:
            best = select(Evaluation.step).where(Evaluation.job_number == job.number, col(Evaluation.is_best))
            best_step = session.exec(best).first()
            query = select(Preview).where(Preview.job_number == job.number)
            rows = session.exec(query.order_by(col(Preview.step), col(Preview.clip))).all()
            return [_preview_public(job, row, is_best=row.step == best_step) for row in rows]

    def preview_file(self, job: Job, name: str) -> StoredFile:
        """Stored file of a preview. Raises NotFound."""
        match = _FILE_NAME.match(name)
        if match is not None:
            with read_session(self._engine) as session:
                query = select(Preview).where(Preview.job_number == job.number, Preview.clip == int(match["clip"]))
                if match["step"] is not None:
                    query = query.where(Preview.step == int(match["step"]))
                row = session.exec(query.order_by(col(Preview.step).desc())).first()
            for kind, file_name in {} if row is None else preview_names(row.epoch, row.step, row.clip).items():
                if file_name == name:
                    return _stored(row, kind)
        raise NotFound(f"the job {job.id} has no preview {name!r}")


def _stored(row: Preview | None, kind: str) -> StoredFile:
    return StoredFile(*(getattr(row, f"{kind}_{part}") for part in ("path", "size", "sha256")))


def preview_names(epoch: int, step: int, clip: int) -> dict[str, str]:
    """Public file names, the same as the engine's."""
    name = f"e{epoch}_s{step}_{clip}"
    return {"audio": f"{name}.flac", "picture": f"{name}.png", "recording": f"recording_{clip}.flac"}


def _url(job_id: str, name: str) -> str:
    return f"/v1/jobs/{job_id}/previews/{name}"


def checkpoint_public(row: Evaluation) -> CheckpointPublic:
    """An evaluated save in its public form."""
    return CheckpointPublic(
        scores={key: value for key, value in row.values.items() if not key.startswith(engine_events.QUALITY_PREFIX)},
        quality=quality_scores(row.values),
        **row.model_dump(exclude={"job_number", "values"}),
    )


def _preview_public(job: Job, row: Preview, *, is_best: bool) -> PreviewPublic:
    files = {}
    for kind, name in preview_names(row.epoch, row.step, row.clip).items():
        stored = _stored(row, kind)
        files[kind] = PreviewFile(name=name, url=_url(job.id, name), size=stored.size, sha256=stored.sha256)
    own = row.model_dump(include={"step", "epoch", "clip", "seconds", "scores", "created_at"})
    return PreviewPublic(is_best=is_best, **own, **files)
