"""Bundles out of this server: one version of a voice as a zip, made while it is sent."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select
from zipstream import ZIP_STORED, ZipStream

from rvc_engine.audio.parts import PARTS_FILE, Parts, parts_text
from rvc_engine.audio.recordings import list_recordings
from rvc_engine.errors import InvalidDataset
from server.database.engine import read_session
from server.database.result_tables import Artifact, Evaluation, Preview
from server.database.tables import Dataset, Job
from server.errors import Conflict, Gone
from server.job_store.starts import saved_pairs
from server.job_store.versions import VoiceKey, current_of, numbers_of
from server.results.evaluations import preview_names
from server.storage.local import Storage
from server.voices.manifest import (
    FORMAT,
    MANIFEST,
    NO_HASH,
    RECORDINGS,
    BundledArtifact,
    BundledDataset,
    BundledEvaluation,
    BundledFile,
    BundledPreview,
    BundledSave,
    BundledVersion,
    BundledVoice,
    Manifest,
)
from server.voices.queries import voice_public
from server.voices.service import require_version

_CHUNK = 1 << 18


class BundleService:
    """Bundles of the voices of one server."""

    def __init__(self, engine: sa.Engine, storage: Storage) -> None:
        self._engine, self._storage = engine, storage

    def make(self, key: VoiceKey, job_id: str | None, *, with_recordings: bool) -> ZipStream:
        """The zip of a version (None: the current one), with its size. NotFound, Refused, Conflict, Gone."""
        with read_session(self._engine) as session:
            voice = voice_public(session, key)
            job = current_of(session, key) if job_id is None else require_version(session, key, job_id, "")
            if job is None:
                raise Conflict(f"no version of {key.name!r} has succeeded yet; wait for one")
            bundle = _Bundle(self._storage)
            dataset = session.get_one(Dataset, job.dataset_id)
            manifest = Manifest(
                format=FORMAT,
                software=installed_version("rvc-train"),
                made_at=datetime.now(UTC),
                voice=BundledVoice(name=voice.name, notes=voice.notes, labels=voice.labels),
                version=_version(session, job),
                dataset=_dataset(dataset, bundle.recordings(dataset) if with_recordings else None),
                artifacts=bundle.artifacts(session, job),
                save=bundle.save(job),
                evaluations=_evaluations(session, job),
                previews=bundle.previews(session, job),
            )
        return bundle.closed(manifest)


class _Bundle:
    """A zip to which files are added, and whose manifest comes last, when all have been read."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._zip = ZipStream(compress_type=ZIP_STORED, sized=True)
        self._added: dict[str, BundledFile] = {}
        self._hashes: dict[str, str] = {}

    def artifacts(self, session: Session, job: Job) -> list[BundledArtifact]:
        query = select(Artifact).where(Artifact.job_number == job.number).order_by(Artifact.name)
        return [
            BundledArtifact(
                kind=each.kind,
                name=each.name,
                file=self._stored(f"files/{each.name}", each.path, each.size, each.sha256),
            )
            for each in session.exec(query).all()
        ]

    def previews(self, session: Session, job: Job) -> list[BundledPreview]:
        query = select(Preview).where(Preview.job_number == job.number)
        made = []
        for row in session.exec(query.order_by(col(Preview.step), col(Preview.clip))).all():
            files = {
                kind: self._stored(
                    f"previews/{name}",
                    getattr(row, f"{kind}_path"),
                    getattr(row, f"{kind}_size"),
                    getattr(row, f"{kind}_sha256"),
                )
                for kind, name in preview_names(row.epoch, row.step, row.clip).items()
            }
            own = row.model_dump(include={"step", "epoch", "clip", "seconds", "scores", "created_at"})
            made.append(BundledPreview(**own, **files))
        return made

    def save(self, job: Job) -> BundledSave | None:
        """The last save; None where the server does not have its pair."""
        saves = saved_pairs(self._storage.workspace(job.id))
        if not saves:
            return None
        number = next(reversed(saves))
        files = {
            role: self._read(f"saves/{path.name}", path.stat().st_size, _chunks_of(path))
            for role, path in saves[number].items()
        }
        return BundledSave(number=number, generator=files["generator"], discriminator=files["discriminator"])

    def recordings(self, dataset: Dataset) -> BundledFile:
        """The recordings, in a zip of their own with the names that their owner gave them. Conflict without any."""
        try:
            recordings = list_recordings(self._storage.recordings(dataset.id))
        except (InvalidDataset, FileNotFoundError) as error:
            raise Conflict(
                "the recordings of this version are not on this server: they were deleted, or never there; get the "
                "bundle without them (dataset=false)"
            ) from error
        inner = ZipStream(compress_type=ZIP_STORED, sized=True)
        parts: dict[str, Parts] = {}
        for each in recordings:
            name = each.name if Path(each.name).suffix else f"{each.name}{each.path.suffix}"
            inner.add_path(each.path, name)
            parts[name] = each.without
        if text := parts_text(parts):
            inner.add(text.encode(errors="replace"), PARTS_FILE)
        return self._read(RECORDINGS, len(inner), inner)

    def closed(self, manifest: Manifest) -> ZipStream:
        """The zip with its manifest, in which the hashes of files stand that were read while it was sent."""
        whole = manifest.model_dump_json()

        def text() -> Iterator[bytes]:
            files = {path: {"sha256": sha256} for path, sha256 in self._hashes.items()}
            yield _with_hashes(manifest, files).model_dump_json().encode()

        self._zip.add(text(), MANIFEST, size=len(whole.encode()))
        return self._zip

    def _stored(self, name: str, path: str, size: int, sha256: str) -> BundledFile:
        if name not in self._added:
            source = self._storage.fetch(self._storage.resolve(path))
            if not source.is_file():
                raise Gone(f"the file {name!r} is no longer stored")
            self._zip.add_path(source, name)
            self._added[name] = BundledFile(path=name, size=size, sha256=sha256)
        return self._added[name]

    def _read(self, name: str, size: int, chunks: Iterable[bytes]) -> BundledFile:
        """Add a file whose hash is not known."""

        def hashed() -> Iterator[bytes]:
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                yield chunk
            self._hashes[name] = digest.hexdigest()

        self._zip.add(hashed(), name, size=size)
        return BundledFile(path=name, size=size, sha256=NO_HASH)


def _with_hashes(manifest: Manifest, known: dict[str, dict[str, str]]) -> Manifest:
    """The manifest with the hashes of files that were read: those of the save and the recordings."""

    def named(file: BundledFile) -> BundledFile:
        return file.model_copy(update=known[file.path])

    save, recordings = manifest.save, manifest.dataset.recordings
    if save is not None:
        files = {"generator": named(save.generator), "discriminator": named(save.discriminator)}
        save = save.model_copy(update=files)
    if recordings is not None:
        recordings = named(recordings)
    dataset = manifest.dataset.model_copy(update={"recordings": recordings})
    return manifest.model_copy(update={"save": save, "dataset": dataset})


def _chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _version(session: Session, job: Job) -> BundledVersion:
    fields = {
        name: value
        for name, value in job.model_dump().items()
        if name in BundledVersion.model_fields and name != "number"
    }
    number = job.number or 0
    return BundledVersion(**fields, job_id=job.id, number=numbers_of(session, [number])[number])


def _dataset(dataset: Dataset, recordings: BundledFile | None) -> BundledDataset:
    own = dataset.model_dump(include={"name", "sha256", "seconds", "num_files"})
    return BundledDataset(**own, recordings=recordings)


def _evaluations(session: Session, job: Job) -> list[BundledEvaluation]:
    query = select(Evaluation).where(Evaluation.job_number == job.number).order_by(col(Evaluation.step))
    return [BundledEvaluation(**row.model_dump(exclude={"job_number"})) for row in session.exec(query).all()]
