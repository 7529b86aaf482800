"""Bundles into this server: a voice trained elsewhere becomes a version here, a job that has succeeded.

Everything in a bundle may be made up. The models and the index are read by the engine in its confined process, as base
weights are; the recordings take the way of every upload.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlmodel import Session, col, select

from rvc_engine.config import TrainingConfig
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.events import EventType
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.base_weights.checking import run_confined
from server.blobs.copies import link_or_copy
from server.database.engine import write_session
from server.database.result_tables import Artifact, Evaluation, ImportedVersion, Preview, Voice
from server.database.tables import Dataset, Job, Upload, new_id
from server.errors import Conflict, Refused, UploadRefused
from server.job_store.events import NewEvent
from server.job_store.leases import AT_ONCE
from server.job_store.versions import VoiceKey, is_of, lock_voice, numbers_of
from server.jobs.service import JobService
from server.results.stored_files import add_stored_files
from server.settings import ServerSettings
from server.storage.local import ARTIFACTS, ORIGIN, Storage, StoredFile
from server.storage.reservations import Reservations
from server.storage.sizes import measure_again
from server.voices.bundle_files import Bundle
from server.voices.manifest import BundledFile, Manifest

_IMPORTED = ORIGIN
"""Token of the files that were there before the first attempt, of which there is none."""
_MAGIC = {"audio": b"fLaC", "recording": b"fLaC", "picture": b"\x89PNG\r\n\x1a\n"}


class _Report(BaseModel):
    """Part of the report of the engine on a file."""

    contents: str
    version: str | None = None
    sample_rate: str | None = None
    f0: bool | None = None
    width: int | None = None
    search_works: bool | None = None
    faults: list[str] = []


_REPORTS = TypeAdapter(list[_Report])


@dataclass(frozen=True)
class Unpacked:
    """A bundle's files on disk, checked, in the layout of a job's folder; and its recordings."""

    manifest: Manifest
    config: TrainingConfig
    folder: Path
    """Folder of the job to be."""
    recordings: Path | None
    stored: Mapping[str, str] = field(default_factory=dict)
    """Paths of published files in the job's folder, by their names in the bundle."""


class ImportService:
    """Imports into one server."""

    def __init__(
        self,
        job_service: JobService,
        storage: Storage,
        settings: ServerSettings,
        quotas: Quotas,
        reservations: Reservations,
        clock: Callable[[], datetime],
    ) -> None:
        self._jobs, self._engine, self._storage, self._settings = job_service, job_service.engine, storage, settings
        self._quotas, self._reservations, self._clock = quotas, reservations, clock

    def unpack(self, bundle: Bundle, key: VoiceKey, folder: Path) -> Unpacked:
        """Unpack and check a bundle into an empty folder on the storage's disk. Refused, Conflict, NoSpace."""
        manifest = bundle.manifest
        config = _config(manifest)
        sizes = sum(file.size for file in manifest.files().values())
        with write_session(self._engine) as session:
            _refuse_present(session, key, manifest)
            self._reservations.check(session, sizes)
        job_folder, check_folder = folder / "job", folder / "check"
        published = job_folder / "attempts" / f"{_IMPORTED:06d}" / ARTIFACTS
        workspace = job_folder / "workspace"
        for each in (published, workspace, check_folder):
            each.mkdir(parents=True)
        stored: dict[str, str] = {}
        for name, file in manifest.files().items():
            if name in _published(manifest):
                bundle.unpack(file, published / file.sha256)
                stored[name] = (published / file.sha256).relative_to(job_folder).as_posix()
        _check_previews(manifest, published)
        save, recordings = manifest.save, None
        if save is not None:
            bundle.unpack(save.generator, workspace / f"G_{save.number}.pth")
            bundle.unpack(save.discriminator, workspace / f"D_{save.number}.pth")
        if manifest.dataset.recordings is not None:
            recordings = folder / "recordings"
            bundle.unpack(manifest.dataset.recordings, recordings)
        self._check_models(manifest, config, published, workspace, check_folder)
        return Unpacked(manifest, config, job_folder, recordings, stored)

    def _check_models(
        self, manifest: Manifest, config: TrainingConfig, published: Path, workspace: Path, folder: Path
    ) -> None:
        """Have the engine read the models and indexes. Refused."""
        links = folder / "files"
        links.mkdir()
        wanted: list[tuple[str, str]] = []
        for each in manifest.artifacts:
            suffix = Path(each.name).suffix.lower()
            if each.kind in {"voice", "best"} or suffix in {".pth", ".pt"}:
                wanted.append((each.file.path, "voice"))
                link_or_copy(published / each.file.sha256, links / f"{len(wanted)}.pth")
            elif suffix == ".index" or each.kind.endswith("index"):
                wanted.append((each.file.path, "index"))
                link_or_copy(published / each.file.sha256, links / f"{len(wanted)}.index")
        if manifest.save is not None:
            number = manifest.save.number
            for letter, role in (("G", "generator"), ("D", "discriminators")):
                wanted.append((f"saves/{letter}_{number}.pth", role))
                link_or_copy(workspace / f"{letter}_{number}.pth", links / f"{len(wanted)}.pth")
        paths = sorted(links.iterdir(), key=lambda path: int(path.stem))
        result = folder / "result"
        result.mkdir()
        checked, _ = run_confined(["inspect", *map(str, paths)], result, self._storage.root, self._settings)
        try:
            reports = _REPORTS.validate_json(checked)
        except ValidationError as error:  # the process was taken over, or cut off
            raise UploadRefused("the models in the bundle could not be examined; get it again") from error
        if len(reports) != len(wanted):
            raise UploadRefused("the models in the bundle could not be examined; get it again")
        for (name, role), path, report in zip(wanted, paths, reports, strict=True):
            if fault := _fault(role, report, config):
                text = fault.replace(str(path), "the file")
                raise UploadRefused(f"{name!r} in the bundle cannot be used: {text}")

    def insert(
        self, key: VoiceKey, unpacked: Unpacked, dataset_id: str | None, bundle_sha256: str, num_uploaded: int
    ) -> str:
        """Make a version of an unpacked bundle; returns its job's id. Conflict, StorageQuotaExceeded.

        `dataset_id`: its recordings, where they were taken in. `num_uploaded`: bytes of the bundle, which its upload
        counts already.
        """
        manifest, now = unpacked.manifest, self._clock()
        job_id = new_id("job")
        self._storage.keep(unpacked.folder, self._storage.job_home(job_id))
        with write_session(self._engine) as session:
            num_bytes = sum(file.size for name, file in manifest.files().items() if name in unpacked.stored)
            self._quotas.check_bytes(session, key.owner, max(0, num_bytes - num_uploaded))
            lock_voice(session, key)
            _refuse_present(session, key, manifest)
            job = self._new_job(session, key, unpacked, job_id, dataset_id, now)
            origin = manifest.version
            made = f"version {origin.number} of {manifest.voice.name!r}, trained as {origin.job_id}"
            created = f"taken in from a bundle of rvc-train {manifest.software}: {made}"
            self._jobs.insert_finished(
                session,
                job,
                NewEvent(EventType.CREATED, created),
                NewEvent(EventType.SUCCEEDED, "the voice was trained on another server"),
            )
            _add_results(session, job, unpacked, now)
            session.add(
                ImportedVersion(
                    job_number=job.number or 0, bundle_sha256=bundle_sha256, origin=_origin(manifest), imported_at=now
                )
            )
            measure_again(session, job)
            if session.get(Voice, key) is None:
                own = manifest.voice.model_dump(include={"notes", "labels"})
                session.add(Voice(owner=key.owner, name=key.name, created_at=now, updated_at=now, **own))
            record(session, "voice.imported", job_id, name=key.name, origin=origin.job_id)
            session.flush()
            self._storage.commit_folder(unpacked.folder, self._storage.job_home(job_id))
        return job_id

    def _new_job(
        self, session: Session, key: VoiceKey, unpacked: Unpacked, job_id: str, dataset_id: str | None, now: datetime
    ) -> Job:
        version = unpacked.manifest.version
        return Job(
            id=job_id,
            owner=key.owner,
            name=key.name,
            dataset_id=dataset_id or self._dataset(session, key.owner, unpacked.manifest, now),
            config=unpacked.config.model_dump(mode="json"),
            labels=version.labels,
            epoch=version.epoch,
            total_epochs=version.total_epochs,
            step=version.step,
            total_steps=version.total_steps,
            stage="export",
            created_at=now,
            not_before=AT_ONCE,
        )

    def _dataset(self, session: Session, owner: str, manifest: Manifest, now: datetime) -> str:
        """The owner's own dataset of the same bytes; else the row of one whose recordings are not here."""
        origin = manifest.dataset
        own = select(Dataset.id).where(
            Dataset.owner == owner,
            Dataset.sha256 == origin.sha256,
            Dataset.status == DatasetStatus.READY,
            col(Dataset.deleted_at).is_(None),
        )
        if (found := session.exec(own.limit(1)).first()) is not None:
            return found
        row = Dataset(
            id=new_id("ds"),
            owner=owner,
            name=origin.name,
            status=DatasetStatus.READY,
            sha256=origin.sha256,
            size=0,
            stored_bytes=0,
            num_files=origin.num_files,
            seconds=origin.seconds,
            created_at=now,
            deleted_at=now,
        )
        session.add(row)
        session.flush()
        return row.id

    def give_bytes(self, upload_id: str, num_bytes: int) -> None:
        """Count bytes of a bundle's upload no more, because a dataset is made of them."""
        with write_session(self._engine) as session:
            left = sa.update(Upload).where(col(Upload.id) == upload_id, col(Upload.length) > num_bytes)
            session.execute(left.values(length=col(Upload.length) - num_bytes))


def _config(manifest: Manifest) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(manifest.version.config)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        raise Refused(
            f"this server cannot read the voice's training option {option}: {first['msg']}; the bundle is of "
            f"rvc-train {manifest.software}, so upgrade the older one of both"
        ) from error


def _refuse_present(session: Session, key: VoiceKey, manifest: Manifest) -> None:
    """Raise Conflict when the voice has the same version already."""
    of_job = (col(Artifact.job_number) == col(Job.number)) & (col(Artifact.kind) == "voice")
    query = select(Job).join(Artifact, of_job).where(*is_of(key), Artifact.sha256 == manifest.voice_file().file.sha256)
    if (job := session.exec(query.limit(1)).first()) is not None:
        number = numbers_of(session, [job.number or 0])[job.number or 0]
        raise Conflict(f"{key.name!r} has this version already: it is version {number}, the job {job.id}")


def _published(manifest: Manifest) -> set[str]:
    """Names in the bundle of artifacts and previews."""
    clips = {file.path for each in manifest.previews for file in (each.audio, each.picture, each.recording)}
    return clips | {each.file.path for each in manifest.artifacts}


def _check_previews(manifest: Manifest, published: Path) -> None:
    """Raise UploadRefused for a preview that is not of its kind."""
    files: dict[str, tuple[BundledFile, str]] = {}
    for each in manifest.previews:
        files |= {file.path: (file, kind) for kind in _MAGIC if (file := getattr(each, kind))}
    for name, (file, kind) in files.items():
        with (published / file.sha256).open("rb") as opened:
            if not opened.read(16).startswith(_MAGIC[kind]):
                raise UploadRefused(f"{name!r} in the bundle is not a {'PNG' if kind == 'picture' else 'FLAC'} file")


def _fault(role: str, report: _Report, config: TrainingConfig) -> str | None:
    """The reason why a file is not what it is in the bundle for."""
    contents, faults = report.contents, report.faults
    if role == "index":
        return None if report.search_works else "; ".join(faults) or f"it is {contents}"
    is_role = contents == role or (contents.startswith(role) and contents.endswith(("checkpoint", "weights")))
    if not is_role or faults:
        return "; ".join(faults) or f"it is {contents}, not {role}"
    for option in ("version", "sample_rate", "f0", "width"):
        found, wanted = getattr(report, option), getattr(config, option)
        is_rate_free = role == "discriminators" and option in {"sample_rate", "f0"}
        if found is not None and not is_rate_free and str(wanted) not in str(found):
            return f"it has {option}={found}, and the bundle's training options {option}={wanted}"
    return None


def _origin(manifest: Manifest) -> dict[str, Any]:
    version = manifest.version.model_dump(mode="json", include={"job_id", "created_at", "finished_at", "start_from"})
    return {**version, "version": manifest.version.number, "software": manifest.software}


def _add_results(session: Session, job: Job, unpacked: Unpacked, now: datetime) -> None:
    """Add the rows of artifacts, evaluations and previews, and charge their files."""
    manifest, number = unpacked.manifest, job.number or 0
    files = manifest.files()
    stored = {
        name: StoredFile(f"jobs/{job.id}/{path}", files[name].size, files[name].sha256)
        for name, path in unpacked.stored.items()
    }
    add_stored_files(session, job, list(stored.values()), now)
    for each in manifest.artifacts:
        own = stored[each.file.path]
        stored_row: dict[str, Any] = {"path": own.path, "size": own.size, "sha256": own.sha256, "created_at": now}
        session.add(Artifact(id=new_id("art"), job_number=number, kind=each.kind, name=each.name, **stored_row))
    session.add_all(Evaluation(job_number=number, **each.model_dump()) for each in manifest.evaluations)
    for clip in manifest.previews:
        row: dict[str, Any] = clip.model_dump(include={"step", "epoch", "clip", "seconds", "scores", "created_at"})
        for kind in _MAGIC:
            own = stored[getattr(clip, kind).path]
            row |= {f"{kind}_path": own.path, f"{kind}_size": own.size, f"{kind}_sha256": own.sha256}
        session.add(Preview(job_number=number, **row))
    session.flush()
