"""The worker registry: registration, heartbeats, draining."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.workers import Drain
from server.auth.audit import record
from server.database.engine import SCHEMA_VERSION, advisory_lock, write_session
from server.database.tables import Policy, Worker, new_id
from server.errors import Conflict, NotFound, SettingsRefused
from server.job_store.liveness import FORGET_WORKERS_AFTER
from server.job_store.transitions import JobStore

MIN_HEARTBEATS = 2
"""Heartbeats that a worker must be able to send during a lease."""
_LEASE = "lease"


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
        heartbeat_seconds: float | None = None,
        serves_conversions: bool = False,
        num_gpus: int | None = None,
        gpu_memory_bytes: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Register a worker and return its id. `device_name`: model of the device, for users and estimates.

        `num_gpus`, `gpu_memory_bytes` (of the smallest GPU; None: unknown) and `labels`: what jobs may require.
        Raises SettingsRefused when the server's lease is too short for heartbeats every `heartbeat_seconds`.
        """
        now = self._clock()
        with write_session(self._engine) as session:
            lease = session.get(Policy, _LEASE)
            if lease is not None and heartbeat_seconds is not None:
                _check_heartbeat(heartbeat_seconds, lease.value["seconds"])
            worker = Worker(
                id=new_id("wrk"),
                name=name,
                pid=pid,
                host=host,
                device=device,
                device_name=device_name,
                version=version,
                schema_version=SCHEMA_VERSION,
                heartbeat_seconds=heartbeat_seconds,
                serves_conversions=serves_conversions,
                num_gpus=num_gpus,
                gpu_memory_bytes=gpu_memory_bytes,
                labels=dict(labels or {}),
                registered_at=now,
                last_seen_at=now,
            )
            session.add(worker)
            record(session, "worker.registered", worker.id, name=name, host=host)
            return worker.id

    def publish_lease(self, seconds: float) -> list[str]:
        """Write the server's lease where workers read it; returns a sentence for each one that it is too short for."""
        with write_session(self._engine) as session:
            advisory_lock(session, "lease")
            session.merge(Policy(name=_LEASE, value={"seconds": seconds}, changed_at=self._clock()))
            query = sa.select(col(Worker.name), col(Worker.heartbeat_seconds)).where(
                col(Worker.stopped_at).is_(None),
                col(Worker.heartbeat_seconds) > seconds / MIN_HEARTBEATS,
                col(Worker.last_seen_at) > self._clock() - FORGET_WORKERS_AFTER,
            )
            found = session.connection().execute(query).all()
        most = seconds / MIN_HEARTBEATS
        return [
            f"the worker {name} sends a heartbeat every {heartbeat:g} s, and the lease is {seconds:g} s: it will lose "
            f"jobs; set its RVC_TRAIN_HEARTBEAT_SECONDS to {most:g} or less"
            for name, heartbeat in found
        ]

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


def _check_heartbeat(seconds: float, lease_seconds: float) -> None:
    most, least = lease_seconds / MIN_HEARTBEATS, seconds * MIN_HEARTBEATS
    if seconds > most:
        raise SettingsRefused(
            f"RVC_TRAIN_HEARTBEAT_SECONDS is {seconds:g}, and the server's lease is {lease_seconds:g} s: the worker "
            f"would lose its jobs; set it to {most:g} or less, or the server's RVC_TRAIN_LEASE_SECONDS to {least:g} "
            "or more"
        )
