"""A server with a finished voice, and what a worker does to its conversions, by the queue itself."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.blobs.copies import copy_and_hash
from server.conversions.queue import ConversionLease, ConversionQueue, ResultFile
from server.database.engine import write_session
from server.database.tables import Attempt, Conversion, Job, Worker
from server.job_store.leases import Lease
from server.storage.local import StoredFile

SOUND = b"RIFF of a recording"


@dataclass
class Shop:
    """A server, its queue, and a worker that serves conversions."""

    server: Any
    http: httpx.Client
    folder: Path
    leases: dict[str, Lease] = field(default_factory=dict)
    """Of running jobs, by their ids."""

    @property
    def queue(self) -> ConversionQueue:
        queue: ConversionQueue = self.server.context.conversions.queue
        return queue

    def worker(self) -> str:
        worker_id: str = self.server.context.jobs.register_worker("w", 1, "here", "cpu", serves_conversions=True)
        return worker_id

    def running(self, voice: str = "anna") -> Job:
        """A job that trains."""
        self.server.bench.job(name=voice)
        lease = self.server.bench.claim()
        job: Job = self.server.context.jobs.get(lease.job_id)
        self.leases[job.id] = lease
        return job

    def finished(self, voice: str = "anna") -> Job:
        """A job with a voice and an index; neither is a real one."""
        job = self.running(voice)
        lease = self.leases[job.id]
        for kind, suffix in (("voice", "pth"), ("index", "index")):
            path = self.folder / f"file.{suffix}"
            path.write_bytes(f"{kind} of {job.id}".encode())
            stored = self.server.context.storage.store_artifact(job.id, lease.token, path)
            name = f"{voice}.{suffix}"
            self.server.context.jobs.publish_artifact(lease, kind, name, stored.path, stored.size, stored.sha256)
        self.server.context.jobs.succeed(lease)
        ended: Job = self.server.context.jobs.get(job.id)
        return ended

    def upload(self, content: bytes = SOUND, name: str = "in.wav") -> str:
        metadata = f"filename {base64.b64encode(name.encode()).decode()}"
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content)), "Upload-Metadata": metadata}
        headers |= {"Content-Type": "application/offset+octet-stream"}
        answer = self.http.post("/v1/uploads", content=content, headers=headers).raise_for_status()
        return answer.headers["Location"].rpartition("/")[2]

    def convert(self, voice: str = "anna", **body: Any) -> httpx.Response:
        if not {"upload_id", "upload_ids"} & body.keys():
            body["upload_id"] = self.upload()
        return self.http.post(f"/v1/voices/{voice}/conversions", json=body)

    def submitted(self, **body: Any) -> dict[str, Any]:
        answer = self.convert(**body)
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def get(self, conversion_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/conversions/{conversion_id}").raise_for_status().json()
        return found

    def claim(self) -> ConversionLease:
        lease = self.queue.claim(self.worker())
        assert lease is not None
        return lease

    def result(self, lease: ConversionLease, place: int = 0, content: bytes = b"converted") -> ResultFile:
        """The result of a recording, written where the lease says."""
        source = self.folder / "made"
        source.write_bytes(content)
        target = lease.output_folder / f"{place:06d}"
        sha256, size = copy_and_hash(source, target)
        path = target.relative_to(self.server.context.storage.root).as_posix()
        return ResultFile(lease.inputs[place].output, StoredFile(path, size, sha256), seconds=1.5, pitch_shift=3.0)


@pytest.fixture(scope="module")
def server(serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve_for_module(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def shop(server: Any, tmp_path: Path) -> Iterator[Shop]:
    """A server without jobs, conversions and workers."""
    with server.client() as http:
        http.timeout = httpx.Timeout(120)
        yield Shop(server, http, tmp_path)
    with write_session(server.context.engine) as session:
        for table in (Conversion, Attempt, Job, Worker):
            session.execute(sa.delete(table))
