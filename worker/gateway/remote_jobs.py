"""A lease on a job of a server on another machine: its files are brought here, and what the engine makes is sent."""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from rvc_engine.checkpoints.manifest import CheckpointEntry, read_entries, write_entries
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.events import ArtifactReady, Event, PreviewReady
from rvc_engine.workspace.atomic_files import link_or_copy, write_atomically
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.layout import Workspace
from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.leases import (
    MAX_MESSAGE,
    CheckpointCommit,
    CheckpointRow,
    EngineStarted,
    EventsReport,
    LogLines,
    OutcomeAnswer,
    OutcomeReport,
    StoredCheckpoints,
    WorkInputs,
)
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER
from rvc_train.schemas.work.workers import WorkFile
from worker.gateway.connection import Connection, DamagedFile, Progress
from worker.gateway.errors import Unavailable
from worker.gateway.interface import JobLease, LogSink
from worker.gateway.remote_log import RemoteLog
from worker.gateway.types import (
    Failure,
    JobInputs,
    Outcome,
    Released,
    StartFiles,
    StoredCheckpoint,
    Success,
    WorkerFault,
)

logger = structlog.get_logger(__name__)

_EVALUATIONS, _BEST = "evaluation.json", "best.pth"
"""Names of the server for files beside checkpoints."""


@dataclass(kw_only=True, eq=False)
class HttpJobLease(JobLease):
    """A lease whose files lie on this machine, in the folder of the job."""

    lease_id: str
    key: str
    home: Path
    """The job's folder on this machine."""
    connection: Connection
    statuses: Callable[[Collection[str]], Mapping[str, JobStatus]]

    def __post_init__(self) -> None:
        self._last_stored: CheckpointEntry | None = None
        self._path, self._headers = f"/leases/{self.lease_id}", {LEASE_KEY_HEADER: self.key}

    def renew(self) -> None:
        self.connection.send("POST", f"{self._path}/renew", self._headers)

    def open_log(self) -> LogSink:
        def send(lines: LogLines) -> None:
            self.connection.send("POST", f"{self._path}/log", self._headers, lines)

        return RemoteLog(self.attempt_folder / "job.log", send)

    # Files

    def inputs(self) -> JobInputs:
        listed = self.connection.ask(WorkInputs, "GET", f"{self._path}/inputs", self._headers)
        folder = self.home / "inputs"
        recordings, start, cache = folder / "recordings", folder / "start", folder / "cache"
        self._download_all("recordings", listed.recordings, recordings)
        self._download_all("start", listed.start, start)
        cache.mkdir(parents=True, exist_ok=True)
        config, provenance = self.attempt_folder / "config.json", self.attempt_folder / "provenance.json"
        write_atomically(config, self.config.model_dump_json(indent=2).encode(), make_folder=False)
        write_atomically(provenance, json.dumps(listed.provenance, indent=2).encode(), make_folder=False)
        files = {file.name: start / file.name for file in listed.start}
        found = None
        if files:
            found = StartFiles(files.get("generator.pth"), files.get("discriminator.pth"), listed.start_origin or "")
        return JobInputs(recordings, cache, config, provenance, found)

    def _download_all(self, kind: str, files: Sequence[WorkFile], folder: Path) -> None:
        """Bring files into a folder, which has no others then."""
        folder.mkdir(parents=True, exist_ok=True)
        names = {checked_name(file.name) for file in files}
        for file in files:
            path = f"{self._path}/{kind}/{file.name}"
            self.connection.download(path, self._headers, file, folder / file.name, self.on_progress)
        for other in folder.iterdir():
            if other.name not in names:
                other.unlink()

    def _stored(self) -> StoredCheckpoints:
        return self.connection.ask(StoredCheckpoints, "GET", f"{self._path}/checkpoints", self._headers)

    def newest_checkpoint(self) -> StoredCheckpoint | None:
        stored = self._stored()
        if stored.token is None:
            return None
        return StoredCheckpoint(stored.token, CheckpointEntry(**stored.checkpoints[-1].model_dump()))

    def restore_checkpoint(self, workspace: Workspace) -> None:
        stored = self._stored()
        workspace.recovery.mkdir(parents=True, exist_ok=True)
        intact = []
        for row in stored.checkpoints:
            entry = CheckpointEntry(**row.model_dump())
            file = WorkFile(name=row.file, size_bytes=row.size, sha256=row.sha256)
            if self._restore(file, workspace.recovery / checked_name(row.file)):
                intact.append(entry)
        if stored.token is not None and not intact:
            raise IncompatibleCheckpoint(
                "all copies of the job's checkpoints on the server are damaged; retry the job from the start"
            )
        write_entries(workspace.recovery, intact)
        targets = {_BEST: workspace.best_file, _EVALUATIONS: workspace.root / _EVALUATIONS}
        for file in stored.others:
            if file.name in targets:
                self._restore(file, targets[file.name])

    def _restore(self, file: WorkFile, target: Path) -> bool:
        """Bring a file of a checkpoint here; false for one that the server has with another content than recorded."""
        path = f"{self._path}/checkpoints/{file.name}"
        for _ in range(2):  # one that was damaged on its way is brought again
            try:
                self.connection.download(path, self._headers, file, target, self.on_progress)
            except DamagedFile:
                continue
            return True
        return False

    def store_checkpoint(self, workspace: Workspace) -> None:
        entries = read_entries(workspace.recovery)
        if not entries or entries[-1] == self._last_stored:
            return
        newest = entries[-1]
        try:
            with self._snapshot(workspace, newest) as files:
                fault = newest.fault(files[newest.file].parent)
                if fault is not None:
                    raise IncompatibleCheckpoint(f"{newest.file} {fault}: it does not match its manifest")
                hashes = {name: sha256_of(path) for name, path in files.items()}
                for name, path in files.items():
                    self._send(path, path.stat().st_size, hashes[name], lambda: None)  # in a thread beside the loop
        except FileNotFoundError:  # the engine has finished another one, whose event follows, or the job was deleted
            logger.debug("a checkpoint was superseded", workspace=str(workspace.root))
            return
        commit = CheckpointCommit(
            checkpoint=CheckpointRow(**newest.__dict__), best=hashes.get(_BEST), evaluations=hashes.get(_EVALUATIONS)
        )
        self.connection.send("POST", f"{self._path}/checkpoints", self._headers, commit)
        self._last_stored = newest

    @contextmanager
    def _snapshot(self, workspace: Workspace, newest: CheckpointEntry) -> Iterator[dict[str, Path]]:
        """Links to the files of a checkpoint, which the engine may replace while they are sent."""
        folder = self.attempt_folder / "sending"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = {newest.file: folder / newest.file}
        try:
            link_or_copy(workspace.recovery / newest.file, files[newest.file])
            for name, source in ((_BEST, workspace.best_file), (_EVALUATIONS, workspace.root / _EVALUATIONS)):
                if source.is_file():
                    files[name] = folder / name
                    link_or_copy(source, files[name])
            yield files
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _send(self, source: Path, size: int, sha256: str, on_progress: Progress) -> None:
        self.connection.upload(self._path, self._headers, source, size, sha256, on_progress)

    # Reports

    def record_engine(self, pid: int, started_at: float) -> None:
        body = EngineStarted(pid=pid, started_at=started_at)
        self.connection.send("PUT", f"{self._path}/engine", self._headers, body)

    def record(self, events: Sequence[Event], write: int) -> None:
        match events:
            case [ArtifactReady() as artifact]:
                source = Path(artifact.path)
                sha256, size = sha256_of(source), source.stat().st_size
                artifact.check(size, sha256)
                self._send(source, size, sha256, self.on_progress)
                events = [artifact.model_copy(update={"path": sha256})]
            case [PreviewReady() as preview]:
                named = {"audio": preview.audio, "picture": preview.picture, "recording": preview.recording}
                sent = {}
                for name, path in named.items():
                    source = Path(path)
                    sent[name] = sha256_of(source)
                    self._send(source, source.stat().st_size, sent[name], self.on_progress)
                events = [preview.model_copy(update=sent)]
        rows = [event.model_dump(mode="json", exclude_none=True) for event in events]
        report = EventsReport(number=write, events=rows)
        self.connection.send("POST", f"{self._path}/events", self._headers, report)

    def finish(self, outcome: Outcome) -> JobStatus:
        match outcome:
            case Success():
                report = OutcomeReport(outcome="success")
            case Released():
                report = OutcomeReport(outcome="released", message=outcome.why[:MAX_MESSAGE])
            case Failure():
                report = OutcomeReport(outcome="failure", code=outcome.code, message=outcome.message[:MAX_MESSAGE])
            case WorkerFault():
                report = OutcomeReport(outcome="worker_fault", code=outcome.code, message=outcome.message[:MAX_MESSAGE])
        return self.connection.ask(OutcomeAnswer, "POST", f"{self._path}/finish", self._headers, report).status

    def clear_if_deleted(self) -> None:
        if not self.statuses([self.job_id]):
            shutil.rmtree(self.home, ignore_errors=True)


def checked_name(name: str) -> str:
    """A name of a file from the server, which is never a path. Unavailable for another one."""
    if name in {"", ".", ".."} or set(name) & set("/\\\0"):
        raise Unavailable(f"the server names a file {name!r}, which is not written here")
    return name
