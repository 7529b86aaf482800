"""The worker registry: registration, heartbeats, draining."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import col

from server.auth.audit import record
from server.database.engine import write_session
from server.database.tables import Worker, new_id
from server.errors import Conflict, NotFound
from server.job_store.base import JobStore
from server.job_store.leases import Drain


class WorkerRegistry(JobStore):
    """The registered workers."""

    def register_worker(
        self,
        name: str,
        pid: int,
        host: str,
        device: str,
        *,
        device_name: str | None = None,
        version: str | None = None,
    ) -> str:
        """Make a worker known and return its id. `device_name` says what the device is, for people and estimates."""
        now = self._clock()
        with write_session(self.engine) as session:
            worker = Worker(
                id=new_id("wrk"),
                name=name,
                pid=pid,
                host=host,
                device=device,
                device_name=device_name,
                version=version,
                registered_at=now,
                last_seen_at=now,
            )
            session.add(worker)
            return worker.id

    def worker_heartbeat(self, worker_id: str) -> Drain | None:
        """Record a heartbeat; returns how the worker is to drain, if it is."""
        with write_session(self.engine) as session:
            statement = (
                sa.update(Worker)
                .where(col(Worker.id) == worker_id)
                .values(last_seen_at=self._clock())
                .returning(col(Worker.is_draining), col(Worker.drain_mode))
            )
            row = session.execute(statement).one_or_none()
            if row is None:
                raise NotFound(f"there is no worker {worker_id}; register first")
            return Drain.of(*row)

    def deregister_worker(self, worker_id: str) -> None:
        """Record that the worker has ended, cleanly."""
        with write_session(self.engine) as session:
            now = self._clock()
            statement = sa.update(Worker).where(col(Worker.id) == worker_id)
            session.execute(statement.values(stopped_at=now, last_seen_at=now))

    def drain_worker(self, worker_id: str, drain: Drain) -> bool:
        """Ask a worker to take nothing new and to end; and whether that was new.

        One that was to finish its job may be asked to hand it back after all. NotFound, Conflict when it has stopped.
        """
        with write_session(self.engine) as session:
            worker = session.get(Worker, worker_id)
            if worker is None:
                raise NotFound(f"there is no worker {worker_id}")
            if worker.stopped_at is not None:
                raise Conflict("the worker has stopped already")
            present = Drain.of(worker.is_draining, worker.drain_mode)
            if present in {drain, Drain.HAND_BACK}:
                return False
            values: dict[str, Any] = {"is_draining": True, "drain_mode": str(drain)}
            session.execute(sa.update(Worker).where(col(Worker.id) == worker_id).values(**values))
            record(session, "worker.drained", worker_id, mode=str(drain))
            return True
