"""Base weights of users: rows and files. The row is inserted in the transaction that checks the owner's quota."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import col, select

from rvc_engine.environment.files import rename
from rvc_engine.weights.own import BASE_ROLES, BaseRole, OwnFile, WeightsKind
from rvc_train.schemas.administration import BaseWeightsPublic, file_public
from rvc_train.schemas.jobs import TERMINAL_STATUSES
from server.auth.audit import record
from server.auth.quotas import Quotas
from server.base_weights.checking import check_files
from server.database.engine import read_session, write_session
from server.database.tables import BaseWeights, Job, new_id
from server.errors import Conflict, NotFound
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations

MAX_BYTES = 2 << 30
"""Size of one file: that of the published ones with their optimizers is 0.9 GB."""


class BaseWeightsService:
    """Base weights on one server."""

    def __init__(
        self,
        engine: sa.Engine,
        storage: Storage,
        settings: ServerSettings,
        quotas: Quotas,
        reservations: Reservations,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine, self._storage, self._settings = engine, storage, settings
        self._quotas, self._reservations, self._clock = quotas, reservations, clock

    def refuse_taken(self, owner: str, name: str) -> None:
        """Raise Conflict when the owner has base weights of this name. Before any work; `add` checks again."""
        with read_session(self._engine) as session:
            if session.exec(select(BaseWeights.id).where(*_named(owner, name))).first() is not None:
                raise _taken(name)

    def refuse_too_many_bytes(self, owner: str, received: int, total: int) -> None:
        """Raise StorageQuotaExceeded or NoSpace when the owner, or the disk, has no room for a download of so many
        bytes, of which some are on the disk.
        """
        with write_session(self._engine) as session:
            self._reservations.check(session, max(0, total - received))
            self._quotas.check_bytes(session, owner, max(received, total))

    def check(self, folder: Path, files: Mapping[BaseRole, Path]) -> dict[BaseRole, OwnFile]:
        """Check files in a confined process. `folder`: an empty one. Raises Refused."""
        kinds = check_files(files, folder, self._storage.root, self._settings)
        return {role: _own_file(path, kinds[role]) for role, path in files.items()}

    def add(
        self, owner: str, name: str, files: Mapping[BaseRole, tuple[Path, OwnFile]], new_bytes: int, folder: Path
    ) -> BaseWeights:
        """Keep checked files; they are moved from where they are. `folder`: an empty one on the storage's disk.

        `new_bytes`: those that no upload counts yet. Raises Conflict for a taken name, StorageQuotaExceeded.
        """
        row = BaseWeights(
            id=new_id("bw"),
            owner=owner,
            name=name,
            size=sum(file.size for _, file in files.values()),
            files={role: file.model_dump(mode="json") for role, (_, file) in files.items()},
            created_at=self._clock(),
        )
        for role, (path, _) in files.items():
            rename(path, folder / f"{role}.pth")
        self._storage.keep(folder, self._storage.base_weights_folder(row.id))
        with write_session(self._engine) as session:
            if session.exec(select(BaseWeights.id).where(*_named(owner, name))).first() is not None:
                raise _taken(name)
            self._quotas.check_bytes(session, owner, new_bytes)
            session.add(row)
            session.flush()
            record(session, "base_weights.added", row.id, name=name)
            self._storage.commit_folder(folder, self._storage.base_weights_folder(row.id))
        return self.get(row.id)

    def get(self, base_weights_id: str) -> BaseWeights:
        """One. NotFound."""
        with read_session(self._engine) as session:
            row = session.get(BaseWeights, base_weights_id)
            if row is None:
                raise NotFound(f"there are no base weights {base_weights_id}")
            return row

    def list(self, owner: str | None, after: str | None, limit: int) -> tuple[Sequence[BaseWeights], bool]:
        """Base weights of an owner (None: of all), newest first; and whether more follow."""
        query = select(BaseWeights).order_by(col(BaseWeights.id).desc()).limit(limit + 1)
        if owner is not None:
            query = query.where(BaseWeights.owner == owner)
        if after is not None:
            query = query.where(col(BaseWeights.id) < after)
        with read_session(self._engine) as session:
            rows = session.exec(query).all()
        return rows[:limit], len(rows) > limit

    def delete(self, base_weights_id: str) -> None:
        """Delete base weights. NotFound; Conflict while a job that has not ended begins with them."""
        with write_session(self._engine) as session:
            row = session.get(BaseWeights, base_weights_id, with_for_update=True)
            if row is None:
                raise NotFound(f"there are no base weights {base_weights_id}")
            query = select(Job.id).where(
                Job.owner == row.owner,
                col(Job.status).not_in(TERMINAL_STATUSES),
                col(Job.config)["pretrained"].as_string() == row.name,
            )
            if (job_id := session.exec(query.limit(1)).first()) is not None:
                raise Conflict(f"the job {job_id} trains with the base weights {row.name}; wait for it, or cancel it")
            record(session, "base_weights.deleted", row.id, name=row.name)
            session.execute(sa.delete(BaseWeights).where(col(BaseWeights.id) == row.id))
        self._storage.delete_base_weights(base_weights_id)  # the rest is an orphan


def base_weights_public(row: BaseWeights) -> BaseWeightsPublic:
    """Base weights in their public form."""
    files = {role: file_public(OwnFile.model_validate(row.files[role])) for role in BASE_ROLES if role in row.files}
    return BaseWeightsPublic(
        id=row.id,
        owner=row.owner,
        name=row.name,
        size_bytes=row.size,
        generator=files.get("generator"),
        discriminator=files.get("discriminator"),
        created_at=row.created_at,
    )


def _named(owner: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (col(BaseWeights.owner) == owner, col(BaseWeights.name) == name)


def _taken(name: str) -> Conflict:
    return Conflict(f"you have base weights named {name} already; choose another name, or delete those first")


def _own_file(path: Path, kind: WeightsKind) -> OwnFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return OwnFile(size=path.stat().st_size, sha256=digest, kind=kind)
