"""Python client of the server's HTTP interface, over an httpx.AsyncClient (of `connect_async`) that the caller gives.

Each method is one request and returns a schema of `rvc_train.schemas`. Raises errors of `rvc_train.errors`.
"""

import unicodedata
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from rvc_train.asynchronous.access import Access
from rvc_train.asynchronous.administration import PublishedWeights, Retention
from rvc_train.asynchronous.base_weights import BaseWeights
from rvc_train.asynchronous.conversions import Conversions
from rvc_train.asynchronous.downloads import download
from rvc_train.asynchronous.streams import RECONNECT_SECONDS, OnWait, chosen_events, event_of, follow
from rvc_train.asynchronous.transport import Transport
from rvc_train.asynchronous.uploads import consent_body, upload, upload_cache
from rvc_train.asynchronous.voices import Voices
from rvc_train.asynchronous.webhooks import Webhooks
from rvc_train.errors import ClientError, UsageError
from rvc_train.http.files import Offered, Progress, free_paths
from rvc_train.http.packing import UploadContents, dataset_name, packed
from rvc_train.http.threads import entered_in_thread, in_thread
from rvc_train.http.transport import parse
from rvc_train.schemas.base import Page
from rvc_train.schemas.datasets import ConsentCreate, DatasetPublic, DatasetReport, RecordingPart
from rvc_train.schemas.events import EventFeed, EventList, EventPublic, MetricSeries
from rvc_train.schemas.jobs import JobCreate, JobPublic, RetryFrom
from rvc_train.schemas.queue import EstimateRequest, JobEstimate, QueuePublic
from rvc_train.schemas.results import ArtifactPublic, CheckpointPublic, PreviewPublic
from rvc_train.schemas.system import SystemPublic
from rvc_train.schemas.workers import WorkerPublic


class AsyncClient:
    """Client of one server; as a context manager it closes its connections."""

    def __init__(self, http: httpx.AsyncClient, memory: Path | None = None) -> None:
        """`memory`: folder for the addresses of unfinished uploads; None: one in the user's cache folder."""
        self._http = http
        self._transport = transport = Transport(http)
        self.webhooks = Webhooks(transport)
        self.weights = PublishedWeights(transport)
        self.base_weights = BaseWeights(transport, memory)
        self.conversions = Conversions(transport)
        self.voices = Voices(transport, memory)
        self.retention = Retention(transport)
        self.access = Access(transport)
        self._memory = memory

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # Datasets

    async def upload_dataset(
        self,
        paths: Sequence[Path],
        name: str | None = None,
        progress: Progress | None = None,
        on_contents: Callable[[UploadContents], None] | None = None,
        zip_names: str | None = None,
        consent: ConsentCreate | None = None,
        consent_document: Path | None = None,
    ) -> DatasetPublic:
        """Upload recordings: a zip or one audio file unchanged, a folder or several files packed into a zip.

        `name`: name of the dataset; None: the first path's. `progress`: called with (bytes sent, bytes in all). Only
        bytes that the server lacks are sent; after a lost connection, or when called again, the upload resumes.
        `on_contents`: called before anything is sent, in a thread, with the files that are uploaded and those that are
        left out; may raise. `zip_names`: code page of names in zips, such as `gbk`; None: chosen by the server.
        `consent`: of the speaker, with a document that shows it, at most 10 MB.
        """
        name = dataset_name(name, paths)
        async with entered_in_thread(packed(paths, on_contents or (lambda contents: None))) as file:
            report_progress = progress or (lambda done, total: None)
            made: dict[str, Any] = {"name": name} | ({} if zip_names is None else {"zip_names": zip_names})
            if consent is not None:
                made["consent"] = await consent_body(self._transport, consent, consent_document, self._memory)
            return await upload(self._transport, file, made, report_progress, self._memory or upload_cache())

    async def fetch_dataset(
        self,
        urls: str | Sequence[str],
        name: str,
        zip_names: str | None = None,
        consent: ConsentCreate | None = None,
        consent_document: Path | None = None,
    ) -> DatasetPublic:
        """Have the server download a dataset from an address or several: zips, recordings, `hf://datasets/OWNER/NAME`.

        It is answered at once: `fetch` of the dataset has the progress, `status` the end, and `delete_dataset` cancels.
        Each call downloads again, unless that is under way. The other parameters are those of `upload_dataset`.
        """
        body: dict[str, Any] = {"name": name, "urls": [urls] if isinstance(urls, str) else list(urls)}
        body |= {} if zip_names is None else {"zip_names": zip_names}
        if consent is not None:
            body["consent"] = await consent_body(self._transport, consent, consent_document, self._memory)
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return await self._transport.call("POST", "/v1/datasets", DatasetPublic, json=body, headers=headers)

    async def set_consent(self, dataset_id: str, consent: ConsentCreate, document: Path | None = None) -> DatasetPublic:
        """Record the consent of a dataset's speaker, in place of the one before and its document."""
        body = await consent_body(self._transport, consent, document, self._memory)
        return await self._transport.call("PUT", f"/v1/datasets/{dataset_id}/consent", DatasetPublic, json=body)

    async def consent_document(self, dataset_id: str) -> bytes:
        """The document of a dataset's consent, at most 10 MB."""
        return (await self._transport.send("GET", f"/v1/datasets/{dataset_id}/consent/document")).content

    async def delete_consent(self, dataset_id: str) -> None:
        """Delete the consent of a dataset's speaker. Raises ApiError when a job was submitted under it."""
        await self._transport.send("DELETE", f"/v1/datasets/{dataset_id}/consent")

    def datasets(self, limit: int = 100, *, owner: str | None = None) -> AsyncIterator[DatasetPublic]:
        """All datasets of the caller, page by page; for an administrator those of all owners, or of `owner`."""
        params = {"limit": limit} | ({} if owner is None else {"owner": owner})
        return self._transport.pages("/v1/datasets", DatasetPublic, params)

    async def dataset(self, dataset_id: str) -> DatasetPublic:
        """One dataset."""
        return await self._transport.get(f"/v1/datasets/{dataset_id}", DatasetPublic)

    async def dataset_report(self, dataset_id: str) -> DatasetReport:
        """Report on a dataset's recordings."""
        return await self._transport.get(f"/v1/datasets/{dataset_id}/report", DatasetReport)

    async def derive_dataset(
        self, dataset_id: str, without: Sequence[str], name: str | None = None, parts: Sequence[RecordingPart] = ()
    ) -> DatasetPublic:
        """Make a dataset of another's recordings but some, by name, and but `parts`. Repeated calls return the same."""
        body: dict[str, Any] = {"dataset_id": dataset_id, "name": name or (await self.dataset(dataset_id)).name}
        body |= {"without": list(without)} | ({"without_parts": [part.model_dump() for part in parts]} if parts else {})
        return await self._transport.call("POST", "/v1/datasets", DatasetPublic, json=body, is_repeatable=True)

    async def delete_dataset(self, dataset_id: str) -> None:
        """Delete a dataset and everything derived from it. Raises ApiError while a job needs it."""
        await self._transport.send("DELETE", f"/v1/datasets/{dataset_id}")

    # Jobs

    async def submit(self, job: JobCreate, idempotency_key: str | None = None) -> JobPublic:
        """Submit a job. Requests with the same key make one job; None: a new key.

        Only fields that were set are sent: for the others the server's own defaults hold, of whatever version it is.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = job.model_dump(mode="json", exclude_unset=True)
        return parse(JobPublic, await self._transport.send("POST", "/v1/jobs", json=body, headers=headers))

    async def estimate(self, job: EstimateRequest) -> JobEstimate:
        """Estimate the resources of a job, as ranges, with warnings; submits nothing."""
        body = job.model_dump(mode="json", exclude_unset=True)
        return await self._transport.call("POST", "/v1/jobs:estimate", JobEstimate, json=body)

    def jobs(
        self,
        status: str | Sequence[str] | None = None,
        limit: int = 100,
        *,
        name: str | None = None,
        dataset_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        id_prefix: str | None = None,
        search: str | None = None,
        owner: str | None = None,
    ) -> AsyncIterator[JobPublic]:
        """Jobs that match all given filters, newest first, fetched in pages of `limit`."""
        filters = {"status": status, "name": name, "dataset": dataset_id, "id_prefix": id_prefix}
        filters |= {"search": search, "owner": owner}
        params: dict[str, Any] = {"limit": limit} | {key: value for key, value in filters.items() if value}
        params |= {f"label.{key}": value for key, value in (labels or {}).items()}
        return self._transport.pages("/v1/jobs", JobPublic, params)

    async def job(self, job_id: str) -> JobPublic:
        """One job."""
        return await self._transport.get(f"/v1/jobs/{job_id}", JobPublic)

    async def cancel(self, job_id: str) -> JobPublic:
        """Cancel a job. A running one ends after its current step and a checkpoint."""
        return await self._transport.call("POST", f"/v1/jobs/{job_id}/cancel", JobPublic)

    async def pause(self, job_id: str) -> JobPublic:
        """Pause a job. A running one stops after its current step and a checkpoint."""
        return await self._transport.call("POST", f"/v1/jobs/{job_id}/pause", JobPublic)

    async def resume(self, job_id: str) -> JobPublic:
        """Put a paused job back into the queue."""
        return await self._transport.call("POST", f"/v1/jobs/{job_id}/resume", JobPublic)

    async def retry(
        self,
        job_id: str,
        start_from: RetryFrom = "checkpoint",
        config: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> JobPublic:
        """Retry a finished job as a new one; `config`: training options to change."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = {"from": start_from} | ({"config": dict(config)} if config else {})
        return await self._transport.call("POST", f"/v1/jobs/{job_id}/retry", JobPublic, json=body, headers=headers)

    async def edit(
        self,
        job_id: str,
        labels: Mapping[str, str | None] | None = None,
        priority: int | None = None,
        if_match: str | None = None,
    ) -> JobPublic:
        """Set labels (None removes one) or, while it is queued, the priority.

        `if_match`: ETag from `job_if_changed`; labels and priority must not have changed since.
        """
        changes = {"labels": None if labels is None else dict(labels), "priority": priority}
        body = {key: value for key, value in changes.items() if value is not None}
        headers = {} if if_match is None else {"If-Match": if_match}
        return await self._transport.call("PATCH", f"/v1/jobs/{job_id}", JobPublic, json=body, headers=headers)

    async def job_if_changed(self, job_id: str, etag: str | None = None) -> tuple[JobPublic | None, str]:
        """One job and its ETag; None in place of the job while it still has the given `etag`."""
        headers = {} if etag is None else {"If-None-Match": etag}
        response = await self._transport.send("GET", f"/v1/jobs/{job_id}", headers=headers)
        is_unchanged = response.status_code == httpx.codes.NOT_MODIFIED
        return (None if is_unchanged else parse(JobPublic, response)), response.headers.get("ETag", "")

    async def delete_job(self, job_id: str) -> None:
        """Delete a finished job with its checkpoints, log and voice."""
        await self._transport.send("DELETE", f"/v1/jobs/{job_id}")

    async def find_job(self, wanted: str) -> JobPublic:
        """The job with an id or a unique prefix of one (`job_` may be left out); the newest for `last`."""
        if wanted == "last":
            newest = await anext(self.jobs(limit=1), None)
            if newest is None:
                raise UsageError("there is no job yet; submit one with: rvc-train submit DATASET --name VOICE")
            return newest
        first = await self._transport.get("/v1/jobs", Page[JobPublic], {"limit": 2, "id_prefix": wanted})
        return await self.job(self._find("job", wanted, (job.id for job in first.data)))

    async def find_dataset(self, wanted: str) -> DatasetPublic:
        """The dataset with an id, a unique prefix of one, or a name; the newest for `last`."""
        datasets = await self._transport.all("/v1/datasets", DatasetPublic, {"limit": 100})
        if wanted == "last" and datasets:
            return datasets[0]
        name = unicodedata.normalize("NFC", wanted).strip()  # as the server stores it
        named = [dataset for dataset in datasets if dataset.name == name]
        if named:
            return named[0]
        found = self._find("dataset", wanted, (dataset.id for dataset in datasets))
        return await self.dataset(found)

    # Events, log and results of a job

    async def events(self, job_id: str, after: int = 0, types: Sequence[str] = ()) -> AsyncIterator[EventPublic]:
        """The events so far with numbers greater than `after`; `types`: only of these types."""
        while True:
            params = {"after": after, "type": types} if types else {"after": after}
            page = await self._transport.get(f"/v1/jobs/{job_id}/events", EventList, params)
            for event in page.data:
                yield event
            if not page.has_more or not page.data:
                return
            after = page.data[-1].seq

    async def follow_events(
        self,
        job_id: str,
        after: int = 0,
        on_wait: OnWait | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncGenerator[EventPublic, None]:
        """Events as they happen until the job's end, each once and in order, through restarts of the server."""
        last_id = str(after) if after else None
        stream = follow(self._http, f"/v1/jobs/{job_id}/events", last_id, None, on_wait, reconnect_seconds)
        async with aclosing(stream):
            async for message in stream:
                event = event_of(message)
                if event.seq > after:
                    after = event.seq
                    yield event

    async def all_events(
        self,
        after: str | None = None,
        *,
        types: Sequence[str] = (),
        job_ids: Sequence[str] = (),
        names: Sequence[str] = (),
        owner: str | None = None,
    ) -> EventFeed:
        """A page of the events of all your jobs (an administrator: of everyone's), oldest first, or after a cursor.

        `after`: `last_cursor` of an earlier page. `names`: those of voices.
        """
        params: dict[str, str | Sequence[str]] = {} if after is None else {"after": after}
        return await self._transport.get("/v1/events", EventFeed, params | chosen_events(types, job_ids, names, owner))

    async def follow_all_events(
        self,
        after: str | None = None,
        *,
        types: Sequence[str] = (),
        job_ids: Sequence[str] = (),
        names: Sequence[str] = (),
        owner: str | None = None,
        on_wait: OnWait | None = None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncGenerator[EventPublic, None]:
        """Events of all your jobs as they happen, from now on or after a cursor, through restarts of the server.

        It has no end. The choices are those of `all_events`.
        """
        params = chosen_events(types, job_ids, names, owner)
        async with aclosing(follow(self._http, "/v1/events", after, params, on_wait, reconnect_seconds)) as stream:
            async for message in stream:
                if message.data:  # the first has an id alone
                    yield event_of(message)

    async def wait(self, job_id: str, on_wait: OnWait | None = None) -> JobPublic:
        """Wait for a job's end, through restarts of the server, and return the job."""
        async for _ in self.follow_events(job_id, on_wait=on_wait):
            pass
        return await self.job(job_id)

    async def logs(self, job_id: str, tail: int | None = None) -> str:
        """The job's log so far, or its last `tail` lines."""
        params = {} if tail is None else {"tail": str(tail)}
        headers = {"Accept": "text/plain"}
        response = await self._transport.send("GET", f"/v1/jobs/{job_id}/logs", params=params, headers=headers)
        return response.text

    async def follow_logs(
        self, job_id: str, tail: int | None = None, on_wait: OnWait | None = None
    ) -> AsyncGenerator[str, None]:
        """Lines of the log as they are written until the job's end, through restarts of the server."""
        params = {"follow": "true"} | ({} if tail is None else {"tail": str(tail)})
        async with aclosing(follow(self._http, f"/v1/jobs/{job_id}/logs", None, params, on_wait)) as stream:
            async for message in stream:
                yield message.data

    async def metrics(self, job_id: str, **query: str | int | list[str]) -> Page[MetricSeries]:
        """Metrics over the training steps; `query`: `key`, `since_step`, `max_points`."""
        return await self._transport.get(f"/v1/jobs/{job_id}/metrics", Page[MetricSeries], query)

    async def metrics_csv(self, job_id: str, **query: str | int | list[str]) -> str:
        """Metrics as a table in CSV: a row for each step, a column for each key; `query` as for `metrics`."""
        params = {**query, "format": "csv"}
        return (await self._transport.send("GET", f"/v1/jobs/{job_id}/metrics", params=params)).text

    async def artifacts(self, job_id: str) -> list[ArtifactPublic]:
        """Files of the job for download."""
        return await self._transport.all(f"/v1/jobs/{job_id}/artifacts", ArtifactPublic)

    async def checkpoints(self, job_id: str) -> list[CheckpointPublic]:
        """Evaluated saves with their scores, by step."""
        return await self._transport.all(f"/v1/jobs/{job_id}/checkpoints", CheckpointPublic)

    async def previews(self, job_id: str) -> list[PreviewPublic]:
        """Previews of the voice at its evaluated saves, by step."""
        return await self._transport.all(f"/v1/jobs/{job_id}/previews", PreviewPublic)

    async def download_artifact(
        self,
        artifact: Offered,
        folder: Path,
        progress: Progress | None = None,
        *,
        replace: bool = False,
        path: Path | None = None,
    ) -> Path:
        """Download a file into a folder, resuming an interrupted download and checking the sha256; its path.

        Another file of the name stays, and the new one gets a number (`anna (2).pth`), unless `replace`. `path`: path
        of the file instead, of `free_paths` for the files of a job together.
        """
        name = artifact.name
        if "/" in name or name in {"", ".", ".."}:  # what else a disk cannot hold is replaced
            raise ClientError(f"the server offers a file named {artifact.name!r}, which is not a file name")
        if path is None:
            path = (await in_thread(free_paths, folder, [artifact], replace=replace))[0]
        return await download(self._http, artifact, path, progress)

    # The server

    async def workers(self) -> list[WorkerPublic]:
        """Processes that run jobs."""
        return await self._transport.all("/v1/workers", WorkerPublic)

    async def drain_worker(self, worker_id: str, mode: str = "hand_back") -> WorkerPublic:
        """Drain a worker: `hand_back` lets another worker continue its job, `finish` completes the job first."""
        path = f"/v1/workers/{worker_id}/drain"
        return await self._transport.call("POST", path, WorkerPublic, params={"mode": mode})

    async def find_worker(self, wanted: str) -> WorkerPublic:
        """The worker with an id, a unique prefix of one, or a unique name."""
        workers = await self.workers()
        named = [worker for worker in workers if worker.name == wanted and worker.status != "stopped"]
        if len(named) == 1:
            return named[0]
        found = self._find("worker", wanted, (worker.id for worker in workers))
        return next(worker for worker in workers if worker.id == found)

    async def queue(self) -> QueuePublic:
        """Running and queued jobs."""
        return await self._transport.get("/v1/queue", QueuePublic)

    async def system(self) -> SystemPublic:
        """The server's version, limits and machine."""
        return await self._transport.get("/v1/system", SystemPublic)

    async def is_ready(self) -> bool:
        """Whether the server answers and is ready to work."""
        try:
            response = await self._http.get("/readyz", timeout=5)
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK

    @staticmethod
    def _find(kind: str, wanted: str, ids: Iterable[str]) -> str:
        matching = [an_id for an_id in ids if wanted and (an_id.startswith(wanted) or _bare(an_id).startswith(wanted))]
        if len(matching) == 1 or wanted in matching:
            return wanted if wanted in matching else matching[0]
        if matching:
            raise UsageError(f"several {kind} ids begin with {wanted}; give more characters")
        raise UsageError(f"there is no {kind} {wanted}; list all with: rvc-train {_LISTS[kind]}")


_LISTS = {"job": "jobs", "dataset": "dataset list", "worker": "workers"}


def _bare(an_id: str) -> str:
    return an_id.partition("_")[2]
