"""Slots of the workers that share a scratch folder: a lock held while the worker lives, and a record of its engines.

A worker takes the first free slot, and records there its id and the engine processes that it starts. A record in a slot
whose lock is free is that of a dead worker: the next one to lock it ends the engines recorded there, and no other
process, and hands back their jobs. Neither a lease has to expire for that, nor a process id or a host name to recur.

    <folder>/workers/<number>.lock    held by the slot's worker
    <folder>/workers/<number>.json    its record; deleted at a clean end

Locks may not hold between machines that share a folder, so a slot with the record of another machine is left alone.
Processes are identified and ended by `rvc_engine.environment.processes`.
"""

import os
import socket
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import filelock
import structlog
from pydantic import BaseModel, ValidationError

from rvc_engine.environment.processes import boot_id, end_process, process_identity
from rvc_engine.workspace.atomic_files import write_atomically
from worker.gateway.interface import JobLease

logger = structlog.get_logger(__name__)


class EngineRecord(BaseModel):
    """An engine process."""

    pid: int
    identity: str
    """As of `process_identity`."""
    job_id: str | None = None
    """None: it serves conversions, also between two jobs."""
    token: int = 0
    """Token of the attempt's lease."""


class SlotRecord(BaseModel):
    """A worker and its engines."""

    worker_id: str | None
    pid: int
    identity: str | None
    host: str
    boot_id: str
    engines: list[EngineRecord] = []

    @property
    def is_of_this_machine(self) -> bool:
        """Whether a process on this machine wrote it: since its last start, or under the same host name before."""
        return self.host == socket.gethostname() or (self.boot_id != "" and self.boot_id == boot_id())

    @property
    def is_running(self) -> bool:
        """Whether the worker's process still runs, as far as this process can see it."""
        return self.identity is not None and self.identity == process_identity(self.pid)


class Slot:
    """A slot, locked by this process until `release`."""

    def __init__(self, path: Path, lock: filelock.BaseFileLock, record: SlotRecord | None) -> None:
        """`record`: that of a dead worker; None without one."""
        self.path, self._lock, self._record = path, lock, record
        self._changing = threading.Lock()
        """Held by the thread, of jobs or of conversions, that changes the record."""

    @property
    def worker_id(self) -> str | None:
        """The recorded worker; None when there is none."""
        return None if self._record is None else self._record.worker_id

    def register(self, worker_id: str) -> None:
        """Record this process as the slot's worker. OSError."""
        pid = os.getpid()
        self._record = SlotRecord(
            worker_id=worker_id,
            pid=pid,
            identity=process_identity(pid),
            host=socket.gethostname(),
            boot_id=boot_id(),
            engines=[] if self._record is None else self._record.engines,
        )
        self._write(self._record)

    def add_engine(self, pid: int, lease: JobLease | None) -> None:
        """Record an engine that was just started; without a lease, one that serves conversions.

        A full disk prevents that, but does not end the run.
        """
        identity = process_identity(pid)
        if identity is None or self._record is None:
            return
        engine = EngineRecord(pid=pid, identity=identity)
        if lease is not None:
            engine = EngineRecord(pid=pid, identity=identity, job_id=lease.job_id, token=lease.token)
        with self._changing:
            self._record.engines.append(engine)
            self._try_write(self._record)

    def remove_engine(self, pid: int) -> None:
        """Remove the record of an engine that has ended."""
        with self._changing:
            if self._record is not None and any(engine.pid == pid for engine in self._record.engines):
                self._record.engines = [engine for engine in self._record.engines if engine.pid != pid]
                self._try_write(self._record)

    def end_engines(self, grace_seconds: float, *, of_jobs: bool = False) -> list[EngineRecord]:
        """End the recorded engines, none of which has a live lease; returns those that still ran.

        To be called by the successor of a dead worker; or, `of_jobs` alone, by the slot's worker between two jobs.
        """
        engines = [] if self._record is None else list(self._record.engines)
        if of_jobs:
            engines = [engine for engine in engines if engine.job_id is not None]
        ended = [engine for engine in engines if end_process(engine.pid, engine.identity, grace_seconds)]
        for engine in engines:
            if process_identity(engine.pid) != engine.identity:
                self.remove_engine(engine.pid)
        return ended

    def clear(self) -> None:
        """Delete the record, unless an engine in it could not be ended. OSError."""
        if self._record is not None and not self._record.engines:
            self.path.unlink(missing_ok=True)
            self._record = None

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def _write(self, record: SlotRecord) -> None:
        write_atomically(self.path, record.model_dump_json().encode())

    def _try_write(self, record: SlotRecord) -> None:
        try:
            self._write(record)
        except OSError as error:
            logger.warning("the worker's engines cannot be recorded", path=str(self.path), reason=str(error))


class Slots:
    """The slots in a scratch folder, or in the data folder of workers without one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve() / "workers"

    def take(self) -> Slot:
        """Lock the first free slot. OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return next(slot for number in count() if (slot := self._lock(self.folder / f"{number}.json")) is not None)

    def abandoned(self, own: Slot) -> Iterator[Slot]:
        """Slots with the record of a dead worker, each locked until the next one is asked for. OSError."""
        for path in sorted(self.folder.glob("*.json")):
            slot = self._lock(path) if path != own.path else None
            if slot is not None:
                try:
                    yield slot
                finally:
                    slot.release()

    @staticmethod
    def _lock(path: Path) -> Slot | None:
        """Lock a slot of this machine, or one without a record; None when it is in use."""
        record = _read(path)
        if record is not None and not record.is_of_this_machine:
            return None
        lock = filelock.FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
        record = _read(path)  # again: it may have changed before it was locked
        if record is not None and (record.is_running or not record.is_of_this_machine):
            lock.release()
            return None
        return Slot(path, lock, record)


def _read(path: Path) -> SlotRecord | None:
    """The record in a slot; None without one, and for one that this version cannot read."""
    try:
        return SlotRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
