"""The worker registry: registration, heartbeats, draining."""

from typing import Any

import sqlalchemy as sa
from sqlmodel import col

from server.auth.audit import record
from server.database.engine import write_session
from server.database.tables import Worker, new_id
from server.errors import Conflict, NotFound
from server.job_store.leases import Drain
from server.job_store.transitions import JobStore


class WorkerRegistry:
    """The registered workers. Each call is one transaction."""

    def __init__(self, store: JobStore) -> None:
        self._engine, self._clock = store.engine, store.clock

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
        """Register a worker and return its id. `device_name`: model of the device, for users and estimates."""
        now = self._clock()
        with write_session(self._engine) as session:
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
        """Record a heartbeat; returns the mode in which the worker is drained, or None. NotFound."""
        with write_session(self._engine) as session:
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
        """Record the clean end of a worker."""
        with write_session(self._engine) as session:
            now = self._clock()
            statement = sa.update(Worker).where(col(Worker.id) == worker_id)
            session.execute(statement.values(stopped_at=now, last_seen_at=now))

    def drain_worker(self, worker_id: str, drain: Drain) -> bool:
        """Drain a worker: it claims no new job and ends. Returns whether that was new.

        `finish` can be changed to `hand_back` later. NotFound; Conflict when the worker has stopped.
        """
        with write_session(self._engine) as session:
            worker = session.get(Worker, worker_id, with_for_update=True)
            if worker is None:
                raise NotFound(f"there is no worker {worker_id}")
            if worker.stopped_at is not None:
                raise Conflict("the worker has already stopped")
            present = Drain.of(worker.is_draining, worker.drain_mode)
            if present in {drain, Drain.HAND_BACK}:
                return False
            values: dict[str, Any] = {"is_draining": True, "drain_mode": str(drain)}
            session.execute(sa.update(Worker).where(col(Worker.id) == worker_id).values(**values))
            record(session, "worker.drained", worker_id, mode=str(drain))
            return True
