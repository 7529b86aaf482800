"""Checks after the soak: every job accounted for, and the data folder equal to the database."""

import hashlib
import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select

from server.database.clock import utc_now
from server.database.engine import create_engine, read_session
from server.database.result_tables import Artifact, Preview
from server.database.tables import Attempt, Dataset, Delivery, Event, Job, Upload, Webhook
from server.storage.local import Storage
from server.storage.orphans import Orphans
from tests.soak.users import TERMINAL, Record

ALLOWED = re.compile(
    r"^(instance\.json|server\.lock|rvc-train\.db(-wal|-shm)?|trash/.*|weights/.*|readings/wrk_\w+(/.*)?|backups?/.*"
    r"|calibrations(/.*)?"
    r"|workers/.*|cache/ds_\w+/.*"
    r"|jobs/job_\w+/(job\.log|workspace/.*|attempts/\d+/((config|provenance)\.json|checkpoints/.*)))$"
)
"""Files that no row names one by one; the folder's name has a row, or the sweep would have taken it."""


def check(folder: Path, url: str, record: Record, accepted: set[str]) -> tuple[list[str], dict[str, object]]:
    """Faults, and figures, of a data folder whose processes have ended. Collects its orphans."""
    engine, storage = create_engine(url), Storage(folder)
    try:
        later = utc_now() + timedelta(hours=3)
        orphans = Orphans(engine, storage, 7, 60, lambda: later).collect()
        with read_session(engine) as session:
            faults = [
                *_of_jobs(session, record),
                *_of_events(session),
                *_of_messages(session, record, accepted),
                *_of_files(session, storage, record),
            ]
            figures = _figures(session)
        return faults, figures | {"orphans": dict(Counter(orphan.kind for orphan in orphans))}
    finally:
        engine.dispose()


def _figures(session: Session) -> dict[str, object]:
    statuses = session.execute(sa.select(col(Job.status), sa.func.count()).group_by(col(Job.status))).all()
    outcomes = session.execute(sa.select(col(Attempt.outcome), sa.func.count()).group_by(col(Attempt.outcome))).all()
    stale = session.execute(sa.select(sa.func.sum(col(Attempt.stale_writes)))).scalar()
    codes = session.execute(sa.select(col(Job.error_code), sa.func.count()).group_by(col(Job.error_code))).all()
    return {
        "jobs": {str(key): value for key, value in statuses},
        "attempts": {str(key): value for key, value in outcomes},
        "failures": {str(key): value for key, value in codes if key is not None},
        "events": session.execute(sa.select(sa.func.count()).select_from(Event)).scalar(),
        "stale_writes": stale,
    }


def _of_jobs(session: Session, record: Record) -> list[str]:
    found = {job.id: job for job in session.exec(select(Job)).all()}
    faults = [f"{job_id} was accepted and is gone" for job_id in record.jobs - record.deleted - found.keys()]
    faults += [f"{job_id} was deleted and is there" for job_id in record.deleted & found.keys()]
    faults += [f"{job_id} was never submitted" for job_id in found.keys() - record.jobs]
    faults += [f"{job.id} is {job.status}" for job in found.values() if job.status not in TERMINAL]
    is_open = select(Attempt).where(col(Attempt.ended_at).is_(None))
    faults += [f"attempt {each.attempt} of job {each.job_number} never ended" for each in session.exec(is_open).all()]
    faults += [f"{job.id}: {job.error_message}" for job in found.values() if job.error_code == "internal"]
    return faults


def _of_events(session: Session) -> list[str]:
    query = sa.select(col(Event.job_number), sa.func.count(), sa.func.min(col(Event.seq)), sa.func.max(col(Event.seq)))
    counts = {row[0]: row[1:] for row in session.execute(query.group_by(col(Event.job_number))).all()}
    faults = []
    for job in session.exec(select(Job)).all():
        if counts.get(job.number) != (job.last_seq, 1, job.last_seq):
            faults.append(f"{job.id} has {job.last_seq} events, and the table {counts.get(job.number)}")
    ends = sa.select(col(Event.job_number), sa.func.count()).where(col(Event.type).in_(TERMINAL))
    for number, count in session.execute(ends.group_by(col(Event.job_number))).all():
        if count != 1:
            faults.append(f"job {number} ended {count} times")
    return faults


def _of_messages(session: Session, record: Record, accepted: set[str]) -> list[str]:
    """Each job with a webhook at the good receiver had its last event accepted there."""
    faults = []
    for job_id in sorted(record.hooked - record.deleted):
        messages = select(Delivery).where(Delivery.job_id == job_id, Delivery.webhook_id == Webhook.id)
        own = session.exec(messages.where(Webhook.job_id == job_id)).all()
        last = [each for each in own if each.event.rpartition(".")[2] in TERMINAL]
        if len(last) != 1 or last[0].id not in accepted:
            faults.append(f"{job_id}: messages {[(each.event, each.status) for each in own]}")
    return faults


def _of_files(session: Session, storage: Storage, record: Record) -> list[str]:
    """Every row has its file with its content, and every file its row."""
    faults, known = [], set[str]()
    for artifact in session.exec(select(Artifact)).all():
        known.add(artifact.path)
        path = storage.resolve(artifact.path)
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != artifact.sha256:
            faults.append(f"the file of {artifact.name} is missing or damaged: {artifact.path}")
    for preview in session.exec(select(Preview)).all():
        for name in (preview.audio_path, preview.picture_path, preview.recording_path):
            known.add(name)
            if not storage.resolve(name).is_file():
                faults.append(f"the preview's file is missing: {name}")
    for dataset in session.exec(select(Dataset).where(col(Dataset.deleted_at).is_(None))).all():
        folder = storage.dataset_folder(dataset.id)
        files = sorted(path for path in folder.glob("*") if path.is_file())
        known |= {path.relative_to(storage.root).as_posix() for path in files}
        contents = [path.read_bytes() for path in files if path.suffix != ".json"]
        if contents != [record.datasets.get(dataset.id, b"?")]:
            faults.append(f"{dataset.id}: its recordings are not what was uploaded, or nobody was told of it")
    present = set(record.datasets.keys() - record.deleted_datasets)
    rows = set(session.exec(select(Dataset.id).where(col(Dataset.deleted_at).is_(None))).all())
    faults += [f"{dataset_id} was accepted and is gone" for dataset_id in present - rows]
    for upload in session.exec(select(Upload).where(col(Upload.dataset_id).is_(None))).all():
        known.add(f"uploads/{upload.id}")
        if not storage.upload_file(upload.id).is_file():
            faults.append(f"the upload {upload.id} has no file")
    for path in sorted(storage.root.rglob("*")):
        name = path.relative_to(storage.root).as_posix()
        if path.is_file() and name not in known and not ALLOWED.match(name):
            faults.append(f"no row knows {name}")
    return faults
