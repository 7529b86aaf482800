"""Conversions as their owners see them: submitted, listed, cancelled, deleted, and removed some time after their end.

The row is inserted in the transaction that checks the limits. Workers change it by `server.conversions.queue`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from rvc_engine.conversion.voice_files import saved_generators
from rvc_train.schemas.jobs import LEASED_STATUSES
from rvc_train.schemas.voices.conversions import (
    MAX_CONVERSION_FILES,
    ConversionEventType,
    ConversionOptions,
    ConversionStatus,
    Save,
)
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.blobs.copies import link_or_copy
from server.conversions.queue import ConversionQueue, add_event
from server.conversions.versions import wanted_version
from server.conversions.voice_files import voice_files
from server.database.engine import advisory_lock, read_session, write_session
from server.database.tables import Conversion, Job, Worker, new_id
from server.errors import Conflict, Gone, NotFound, QuotaExceeded, Refused, UploadTooLarge
from server.job_store.liveness import FORGET_WORKERS_AFTER, WorkerLiveness
from server.job_store.versions import VoiceKey
from server.settings import ServerSettings
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

S = ConversionStatus
RETRY_SECONDS = 10.0
MAX_NAME = 200
"""Characters of a recording's name that are kept."""


@dataclass(frozen=True)
class Recording:
    """A received file to convert."""

    path: Path
    name: str


@dataclass(frozen=True)
class Wanted:
    """A voice, and how to convert with it."""

    voice: VoiceKey
    job_id: str | None
    save: Save | None
    options: ConversionOptions


class ConversionService:
    """Conversions of one server."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        quotas: Quotas,
        liveness: WorkerLiveness,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine, self._storage, self._settings = engine, storage, settings
        self._quotas, self._liveness, self._clock = quotas, liveness, clock
        self.queue = ConversionQueue(engine, storage, clock)

    @property
    def keep(self) -> timedelta:
        """Time from the end of a conversion to its deletion."""
        return timedelta(hours=self._settings.conversion_keep_hours)

    def refuse_unknown(self, wanted: Wanted) -> None:
        """Raise NotFound, Conflict or Refused for a voice that cannot convert. Before a recording is received."""
        with read_session(self._engine) as session:
            self._version(session, wanted)

    def check_size(self, size: int) -> None:
        """Raise UploadTooLarge for a recording of more bytes than one may have."""
        if size > (limit := self._settings.max_conversion_bytes):
            raise UploadTooLarge(f"the recording is larger than the {limit} bytes that are converted at once; cut it")

    def submit(self, owner: str, wanted: Wanted, recordings: Sequence[Recording], folder: Path) -> Conversion:
        """Submit a conversion of uploads; their files are linked. `folder`: an empty one on the storage's disk.

        Raises NotFound for an unknown voice, Conflict, Refused, UploadTooLarge, QuotaExceeded.
        """
        if len(recordings) > MAX_CONVERSION_FILES:
            raise Refused(f"{len(recordings)} recordings are too many; at most {MAX_CONVERSION_FILES} at once")
        for recording in recordings:
            self.check_size(recording.path.stat().st_size)
        (folder / "in").mkdir()
        (folder / "out").mkdir()
        sizes = []
        for number, recording in enumerate(recordings, 1):
            link_or_copy(recording.path, folder / "in" / f"{number:06d}")
            sizes.append(recording.path.stat().st_size)
        conversion_id = new_id("cnv")
        home = self._storage.conversion_home(conversion_id)
        place = home.relative_to(self._storage.root).as_posix()
        outputs = output_names([recording.name for recording in recordings], wanted.options.format)
        inputs = [
            {"name": recording.name, "output": output, "path": f"{place}/in/{number:06d}", "bytes": size}
            for number, (recording, output, size) in enumerate(zip(recordings, outputs, sizes, strict=True), 1)
        ]
        with write_session(self._engine) as session:
            job = self._version(session, wanted)
            self._check_limits(session, owner)
            row = Conversion(
                id=conversion_id,
                owner=owner,
                voice=job.name,
                job_id=job.id,
                save=None if wanted.save is None else str(wanted.save),
                options=wanted.options.model_dump(mode="json"),
                max_seconds=self._settings.max_conversion_minutes * 60,
                inputs=inputs,
                size=sum(sizes),
                created_at=self._clock(),
            )
            add_event(row, ConversionEventType.CREATED, "submitted", self._clock())
            session.add(row)
            session.flush()
            record(session, "conversion.submitted", row.id, voice=row.voice, recordings=len(inputs))
            self._storage.commit_folder(folder, home)
        return self.get(conversion_id)

    def _version(self, session: Session, wanted: Wanted) -> Job:
        """The job whose voice converts. NotFound, Conflict, Gone, Refused."""
        has_save = wanted.save is not None
        job = wanted_version(session, wanted.voice, wanted.job_id, may_be_unfinished=has_save)
        if not has_save and job.status != "succeeded":
            raise Conflict(
                f"the job {job.id} is {job.status}, and its voice is not finished; give a save (latest, best or a "
                "number) to convert with what it has so far"
            )
        save = None if wanted.save is None else str(wanted.save)
        if not voice_files(session, job, save, self._storage).is_missing:
            return job
        if not has_save:
            raise Gone(f"the voice of the job {job.id} is no longer stored")
        workspace = self._storage.workspace(job.id)
        if job.status in LEASED_STATUSES and not workspace.is_dir():
            return job  # with a worker that has its workspaces elsewhere
        numbers = ", ".join(map(str, sorted(saved_generators(workspace)))) or "none"
        raise Refused(f"the job {job.id} has no save {save}; it has these numbers: {numbers}", "/save")

    def _check_limits(self, session: Session, owner: str) -> None:
        advisory_lock(session, f"conversions of {owner}")  # or two transactions could both take the last place
        self._quotas.check_hours(session, owner)
        most = self._settings.max_waiting_conversions
        waiting = sa.select(sa.func.count()).where(col(Conversion.owner) == owner, col(Conversion.status) == S.WAITING)
        if session.execute(waiting).scalar_one() >= most:
            raise QuotaExceeded(
                f"{owner} has {most} conversions that wait, and may have no more; wait for one to end, or cancel one",
                RETRY_SECONDS,
            )

    def get(self, conversion_id: str) -> Conversion:
        """One. NotFound."""
        with read_session(self._engine) as session:
            return _found(session, conversion_id)

    def list(
        self, owner: str | None, voice: str | None, statuses: Sequence[str], after: int | None, limit: int
    ) -> tuple[Sequence[Conversion], int | None]:
        """Conversions of an owner (None: of all), newest first; and the next page's `after`, None on the last page."""
        query = select(Conversion).order_by(col(Conversion.number).desc()).limit(limit + 1)
        conditions = [
            col(column) == value
            for column, value in ((Conversion.owner, owner), (Conversion.voice, voice))
            if value is not None
        ]
        if statuses:
            conditions.append(col(Conversion.status).in_(statuses))
        if after is not None:
            conditions.append(col(Conversion.number) < after)
        with read_session(self._engine) as session:
            rows = session.exec(query.where(*conditions)).all()
        return rows[:limit], rows[limit - 1].number if len(rows) > limit else None

    def waiting_reasons(self, rows: Sequence[Conversion]) -> dict[str, str]:
        """Reasons why conversions wait, by id; none for those that a worker takes at once."""
        waiting = [row for row in rows if row.status == S.WAITING]
        if not waiting:
            return {}
        with read_session(self._engine) as session:
            if not self._has_worker(session):
                return dict.fromkeys(
                    (row.id for row in waiting),
                    "no worker that converts recordings is running; start one with: rvc-train worker",
                )
            open_ones = sa.select(col(Conversion.number), col(Conversion.status)).where(
                col(Conversion.status).in_((S.WAITING, S.RUNNING))
            )
            found = session.connection().execute(open_ones).all()
        before = {
            row.id: sum(status == S.RUNNING or (number or 0) < (row.number or 0) for number, status in found)
            for row in waiting
        }
        return {an_id: f"conversions before it: {number}" for an_id, number in before.items() if number}

    def _has_worker(self, session: Session) -> bool:
        now = self._clock()
        query = select(Worker).where(
            col(Worker.serves_conversions),
            ~col(Worker.is_draining),
            col(Worker.stopped_at).is_(None),
            col(Worker.last_seen_at) > now - FORGET_WORKERS_AFTER,
        )
        return any(not self._liveness.is_lost(worker, now) for worker in session.exec(query).all())

    def cancel(self, conversion_id: str) -> Conversion:
        """Cancel a conversion; one that is cancelled stays so. NotFound; Conflict after another end."""
        with write_session(self._engine) as session:
            row = _found(session, conversion_id, lock=True)
            if row.status != S.CANCELLED:
                if not self.queue.cancel(session, row):
                    raise Conflict(f"the conversion has {row.status}; it can be deleted, not cancelled")
                record(session, "conversion.cancelled", row.id)
            return row

    def delete(self, conversion_id: str) -> None:
        """Delete a conversion with its files; a running one ends. NotFound."""
        with write_session(self._engine) as session:
            row = _found(session, conversion_id, lock=True)
            record(session, "conversion.deleted", row.id, voice=row.voice)
            session.delete(row)
        self._storage.delete_conversion(conversion_id)  # what a crash leaves is an orphan

    def expire(self) -> int:
        """Delete the conversions that ended long enough ago; returns their number."""
        is_due = col(Conversion.finished_at) <= self._clock() - self.keep
        with write_session(self._engine) as session:
            ids = session.exec(select(Conversion.id).where(is_due)).all()
            session.execute(sa.delete(Conversion).where(is_due, col(Conversion.id).in_(ids)))
        for conversion_id in ids:
            self._storage.delete_conversion(conversion_id)
        if ids:
            logger.info("conversions expired", number=len(ids))
        return len(ids)

    def result(self, conversion_id: str, name: str | None) -> dict[str, Any]:
        """A result with its file. `name`: needed when there are several. NotFound, Conflict, Refused."""
        row = self.get(conversion_id)
        if name is None and len(row.inputs) > 1:
            raise Refused(
                f"the conversion has {len(row.inputs)} recordings; name one, such as ?name={row.inputs[0]['output']}, "
                "or get audio.zip",
                parameter="name",
            )
        _refuse_unfinished(row)
        for result in row.results:
            if name in {None, result["name"]}:
                if result["path"] is None:
                    raise NotFound(f"{result['name']} was not made: {result['error']}")
                return result
        raise NotFound(f"the conversion {row.id} has no result {name!r}")

    def converted(self, conversion_id: str) -> tuple[Conversion, Sequence[dict[str, Any]]]:
        """A conversion that succeeded, and its results that have a file. NotFound, Conflict."""
        row = self.get(conversion_id)
        _refuse_unfinished(row)
        return row, [result for result in row.results if result["path"] is not None]


def output_names(names: Sequence[str], suffix: str) -> list[str]:
    """Names of the results: those of the recordings with the format's suffix, each once whatever the case."""
    taken: set[str] = set()
    outputs = []
    for name in names:
        stem = PurePosixPath(name).stem or "recording"
        output, number = f"{stem}.{suffix}", 2
        while output.casefold() in taken:
            output, number = f"{stem} ({number}).{suffix}", number + 1
        taken.add(output.casefold())
        outputs.append(output)
    return outputs


def plain_name(name: str) -> str:
    """A recording's name as it was sent, without folders and what no file name can have."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    stem, dot, suffix = plain.rpartition(".")
    if len(plain) > MAX_NAME:
        plain = f"{stem[: MAX_NAME - 20]}{dot}{suffix[:19]}"
    return plain if plain.strip(".") else "recording"


def _found(session: Session, conversion_id: str, *, lock: bool = False) -> Conversion:
    query = select(Conversion).where(Conversion.id == conversion_id)
    row = session.exec(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"there is no conversion {conversion_id}")
    return row


def _refuse_unfinished(row: Conversion) -> None:
    """Raise Conflict while there is no result yet, NotFound when there will be none."""
    if row.status in {S.WAITING, S.RUNNING}:
        raise Conflict(f"the conversion is {row.status}; its result can be downloaded once it has succeeded")
    if row.status != S.SUCCEEDED:
        raise NotFound(f"the conversion {row.id} has {row.status}, and has no result")
