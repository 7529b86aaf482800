"""Admission: the rows of a new dataset, made in one transaction from a complete upload, stored bytes or a dataset.

What can be checked at once is checked here: names, limits and the directory of an archive, the owner's quota, the room
on the disk, which are reserved by the dataset's row. Its recordings are then ingested in the background. An upload
that is not admitted is whole, and can be tried again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from rvc_engine.audio.parts import MAX_PARTS, Part, merged, total_seconds, within
from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.errors import InvalidDataset
from rvc_engine.names.code_pages import AUTO
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus, RecordingPart
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.blobs.copies import is_disk_full
from server.database.engine import advisory_lock, read_session, write_session
from server.database.tables import Dataset, Job, Upload, UploadState, change_upload, new_id
from server.datasets.consents import inherit_consent
from server.datasets.ingest import Omission, unpacked_bytes
from server.datasets.service import checked_name
from server.datasets.zips import UnpackLimits
from server.errors import Conflict, Gone, NoSpace, NotFound, Refused, UploadRefused, UploadTooLarge
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations

U = UploadState
MIN_LEFT_SECONDS = 0.4
"""Least rest of a recording of which parts are left out: the longest training segment of all variants."""


@contextmanager
def full_disk_as_no_space() -> Iterator[None]:
    """Raise NoSpace instead of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace("the server's disk is full; free some space there and try again") from error
        raise


@dataclass(frozen=True)
class Source:
    """Source of the recordings of a dataset."""

    owner: str
    sha256: str
    zip_names: str = AUTO
    """Code page of the names in zips."""


class Admissions:
    """Admissions to one database."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        reservations: Reservations,
        quotas: Quotas,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine, self._storage, self._settings = engine, storage, settings
        self._reservations, self._quotas, self._clock = reservations, quotas, clock

    def admit(self, name: str, upload: Upload, sha256: str, zip_names: str = AUTO) -> tuple[Dataset, bool]:
        """Make a dataset of a complete upload; and whether it is new. Repeated calls return the same one.

        The same bytes of an owner under the same name are one dataset, unless `zip_names` differ. Raises Refused (and
        its subclasses), NoSpace, NotFound or Gone when the upload is deleted meanwhile.
        """
        name = checked_name(name)
        path = self._storage.upload_file(upload.id)
        source = Source(upload.owner, sha256, zip_names)
        num_bytes = self._num_bytes(upload, name, source, path)
        with write_session(self._engine) as session:
            advisory_lock(session, f"datasets of {upload.owner}")
            same = find_same(session, source, name)
            dataset_id = new_id("ds") if same is None else same.id
            is_stored = same is not None and not is_ingestion_refused(same)
            state = U.ADMITTED if is_stored else U.ADMITTING
            columns = {"state": state, "dataset_id": dataset_id, "sha256": sha256}
            if not change_upload(session, upload.id, (U.COMPLETE, U.REFUSED), **columns):
                return self._admitted_before(session, upload.id), False
            if same is not None and is_stored:
                dataset = same
            elif path.exists():
                dataset = same or self.new(dataset_id, source, name, upload.length)
                self.have_ingested(session, dataset, num_bytes)
            else:
                raise Gone(f"the file of the upload {upload.id} is missing; start a new one")
        if is_stored:
            self._storage.delete_upload(upload.id)
        return dataset, not is_stored

    def admit_stored(self, owner: str, name: str, sha256: str, zip_names: str = AUTO) -> tuple[Dataset, bool]:
        """Make a dataset of bytes that the owner has in another one; and whether it is new. Raises NotFound."""
        name = checked_name(name)
        source = Source(owner, sha256, zip_names)
        with write_session(self._engine) as session:
            advisory_lock(session, f"datasets of {owner}")
            same = find_same(session, source, name)
            if same is not None and not is_ingestion_refused(same):
                return same, False
            twin = find_twin(session, source)
            if twin is None:
                raise NotFound("no dataset with these bytes is stored; upload them")
            num_bytes = twin.size if twin.stored_bytes is None else twin.stored_bytes
            dataset = same or self.new(new_id("ds"), source, name, twin.size)
            self.have_ingested(session, dataset, num_bytes)
            return dataset, True

    def admit_derived(
        self, visible_owner: str | None, name: str, dataset_id: str, without: list[str], parts: list[RecordingPart]
    ) -> tuple[Dataset, bool]:
        """Make a dataset of another one's recordings, but those of some names, and parts; and whether it is new.

        Repeated calls return the same one. Raises NotFound, Conflict while the other one is ingested (with parts: or
        validated), Refused for what is not there or when nothing is left, and the errors of `admit`.
        """
        name = checked_name(name)
        origin = self._origin(visible_owner, dataset_id)
        omission, num_bytes = self._omission(origin, without, parts)
        source = Source(origin.owner, omission.sha256(origin.sha256), origin.zip_names)
        with write_session(self._engine) as session:
            advisory_lock(session, f"datasets of {origin.owner}")
            same = find_same(session, source, name)
            if same is not None and not is_ingestion_refused(same):
                return same, False
            dataset = same or self.new(new_id("ds"), source, name, num_bytes)
            dataset.derived_from, dataset.without = origin.id, omission.to_json()
            self.have_ingested(session, dataset, num_bytes)
            inherit_consent(session, self._storage, origin.id, dataset)
            return dataset, True

    def _origin(self, visible_owner: str | None, dataset_id: str) -> Dataset:
        with read_session(self._engine) as session:
            origin = session.get(Dataset, dataset_id)
        is_visible = origin is not None and visible_owner in {None, origin.owner}
        if origin is None or not is_visible or origin.deleted_at is not None:
            raise NotFound(f"there is no dataset {dataset_id}")
        if not origin.num_files:
            raise Conflict(f"the recordings of {dataset_id} are being unpacked; try again in a moment")
        return origin

    def _omission(self, origin: Dataset, without: list[str], parts: list[RecordingPart]) -> tuple[Omission, int]:
        """The omission, and the bytes of the files that stay. Raises NotFound for a dataset deleted meanwhile."""
        report = None if origin.report is None or not parts else DatasetReport.model_validate(origin.report)
        try:
            recordings = list_recordings(self._storage.recordings(origin.id))
            omission = _checked_omission(recordings, report, without, parts)
            left = [recording for recording in recordings if recording.name not in omission.names]
            return omission, sum(recording.path.stat().st_size for recording in left)
        except (InvalidDataset, FileNotFoundError) as error:
            dataset_id = origin.id
            raise NotFound(f"there is no dataset {dataset_id}") from error

    def discard_refused(self, dataset_id: str) -> None:
        """Delete a dataset whose ingestion was refused, unless a job names it: its only user has the reason already."""
        with write_session(self._engine) as session:
            dataset = session.get(Dataset, dataset_id)
            named = select(Job.id).where(Job.dataset_id == dataset_id)
            if dataset is not None and is_ingestion_refused(dataset) and session.exec(named).first() is None:
                record(session, "dataset.refused", dataset_id, name=dataset.name, reason=dataset.reason)
                session.delete(dataset)
                self._storage.delete_consents(dataset_id)

    def limits(self) -> UnpackLimits:
        """The limits of archives and recordings, with the room that there is now."""
        settings = self._settings
        return UnpackLimits(
            max_files=settings.max_files,
            max_file_bytes=settings.max_file_bytes,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_ratio=settings.max_ratio,
            free_bytes=self._storage.free_bytes() - settings.disk_reserve_bytes,
        )

    def _num_bytes(self, upload: Upload, name: str, source: Source, path: Path) -> int:
        """Bytes of the recordings. Raises the errors of `unpacked_bytes`; the upload is then refused."""
        with read_session(self._engine) as session:
            stored = find_same(session, source, name) or find_twin(session, source)
        if stored is not None and stored.num_files:
            return stored.size if stored.stored_bytes is None else stored.stored_bytes
        try:
            return unpacked_bytes(path, self.limits(), source.zip_names)
        except FileNotFoundError:  # admitted or deleted at the same time, which the transaction decides
            return 0
        except (UploadRefused, UploadTooLarge):
            with write_session(self._engine) as session:
                change_upload(session, upload.id, (U.COMPLETE,), state=U.REFUSED)
            raise

    def _admitted_before(self, session: Session, upload_id: str) -> Dataset:
        upload = session.get(Upload, upload_id)
        dataset = None if upload is None or upload.dataset_id is None else session.get(Dataset, upload.dataset_id)
        if dataset is None or dataset.deleted_at is not None:
            raise NotFound(f"there is no upload {upload_id}")
        return dataset

    def new(self, dataset_id: str, source: Source, name: str, size: int) -> Dataset:
        """A row for a dataset without recordings."""
        now = self._clock()
        return Dataset(id=dataset_id, name=name, size=size, num_files=0, created_at=now, **asdict(source))

    def have_ingested(self, session: Session, dataset: Dataset, num_bytes: int) -> None:
        """Reserve room for a dataset, a new one or one that was refused before, and mark it for ingestion."""
        self._reservations.check(session, num_bytes)
        self._quotas.check_bytes(session, dataset.owner, num_bytes)
        dataset.status, dataset.reason, dataset.report = DatasetStatus.INGESTING, None, None
        dataset.stored_bytes = num_bytes
        session.add(dataset)
        record(session, "dataset.admitted", dataset.id, name=dataset.name, size=dataset.size)


def is_ingestion_refused(dataset: Dataset) -> bool:
    """Whether the dataset is invalid because its upload was not accepted: it has no recording."""
    return dataset.status == DatasetStatus.INVALID and dataset.num_files == 0


def find_same(session: Session, source: Source, name: str) -> Dataset | None:
    """The dataset of this source and name."""
    return session.exec(_of(source).where(Dataset.name == name)).first()


def find_twin(session: Session, source: Source) -> Dataset | None:
    """The oldest dataset of this source, under any name, whose recordings are stored."""
    stored = _of(source).where(col(Dataset.num_files) > 0)
    return session.exec(stored.order_by(col(Dataset.id)).limit(1)).first()


def _of(source: Source) -> SelectOfScalar[Dataset]:
    conditions = [getattr(Dataset, column) == value for column, value in asdict(source).items()]
    return select(Dataset).where(*conditions, col(Dataset.deleted_at).is_(None))


def _checked_omission(
    recordings: Sequence[Recording], report: DatasetReport | None, without: list[str], parts: list[RecordingPart]
) -> Omission:
    """Check a request to leave out recordings, or parts. Raises Refused; for parts Conflict without a report."""
    known = {recording.name for recording in recordings}
    for place, name in enumerate(without):
        if name not in known:
            raise Refused(f"the dataset has no recording {name!r}", f"/without/{place}")
    names = frozenset(without)
    if names >= known:
        raise Refused("no recording would be left; leave out fewer", "/without")
    found: dict[int, list[Part]] = {}
    for place, part in enumerate(parts):
        pointer = f"/without_parts/{place}"
        seconds = _length(recordings, report, part.recording, names, pointer)
        if part.from_seconds >= seconds:
            raise Refused(
                f"recording {part.recording} is {seconds:.3f} s long, and the part begins after its end",
                f"{pointer}/from_seconds",
            )
        found.setdefault(part.recording, []).append(Part(part.from_seconds, min(part.to_seconds, seconds)))
        rest = seconds - total_seconds(
            merged([*within(recordings[part.recording - 1].without, seconds), *found[part.recording]])
        )
        if rest < MIN_LEFT_SECONDS:
            raise Refused(
                f"less than {MIN_LEFT_SECONDS} s of recording {part.recording} would be left; name the recording in "
                "`without` to leave it out as a whole",
                pointer,
            )
    omission = Omission(names, {number: merged(each) for number, each in found.items()})
    kept = [recording for recording in recordings if recording.name not in names]
    if sum(len(recording.without) for recording in kept) + sum(map(len, omission.parts.values())) > MAX_PARTS:
        raise Refused(f"a dataset leaves out at most {MAX_PARTS} parts; leave out whole recordings", "/without_parts")
    return omission


def _length(
    recordings: Sequence[Recording], report: DatasetReport | None, number: int, names: frozenset[str], pointer: str
) -> float:
    """Seconds of a recording, with the parts that are left out already. Raises Refused and Conflict."""
    if report is None:
        raise Conflict("the recordings are being examined, and their lengths are not known yet; try again in a moment")
    if number > len(recordings):
        raise Refused(
            f"the dataset has {len(recordings)} recordings; there is no number {number}", f"{pointer}/recording"
        )
    if recordings[number - 1].name in names:
        raise Refused(
            f"recording {number} is left out as a whole, by its name in `without`; leave out its parts, or all of it",
            f"{pointer}/recording",
        )
    file = report.files[number - 1] if number <= len(report.files) else None
    if file is None or file.error is not None or file.seconds is None:
        raise Refused(
            f"recording {number} cannot be read, so it has no parts; name it in `without` to leave it out",
            f"{pointer}/recording",
        )
    return file.seconds + sum(part.to_seconds - part.from_seconds for part in file.without_parts)
