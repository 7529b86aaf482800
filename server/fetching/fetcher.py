"""Downloads of datasets in the background, on the event loop: one of each owner at once, resumed after a restart."""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio
import structlog

from rvc_train.schemas.datasets import DatasetFetch
from server.database.tables import Dataset
from server.datasets.admission import full_disk_as_no_space
from server.datasets.ingest import FetchedFile, read_fetched, write_fetched
from server.datasets.ingestion import Ingestion
from server.errors import NoSpace, Refused
from server.fetching import hub
from server.fetching.download import Interrupted, Source, check_address, check_form, download, host_of, origin_of
from server.fetching.names import check_type, clean_path, file_name, free_name
from server.fetching.service import DatasetDeleted, Fetches
from server.http.threads import on_disk, to_write
from server.settings import ServerSettings
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

NUM_FETCHING = 4
POLL_SECONDS = 5.0
REPORT_SECONDS = 1.0
REPORT_BYTES = 16 << 20
"""Bytes after which quota and disk are checked again for a download of unknown size."""
RETRY_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Waits between attempts that received nothing new; after the last one the dataset is invalid."""


@dataclass
class _Tries:
    """Attempts at a dataset that were cut off."""

    number: int = 0
    received: int = -1
    again_at: float = 0.0


@dataclass
class _Progress:
    """Progress of a dataset's download, reported now and then."""

    fetches: Fetches
    dataset: Dataset
    files: list[FetchedFile] = field(default_factory=list)
    reported_at: float = -REPORT_SECONDS
    reported_bytes: int = 0
    state: DatasetFetch = field(default_factory=DatasetFetch)

    @property
    def done_bytes(self) -> int:
        return sum(file.size or 0 for file in self.files if file.sha256 is not None)

    async def watch(self, file: FetchedFile, received: int, total: int | None) -> None:
        """Report that a file has so many bytes of so many; raises the errors of `Fetches.report`."""
        others = [each.size for each in self.files if each.path != file.path]
        known = None if None in (*others, total) else sum(size or 0 for size in others) + (total or 0)
        state = DatasetFetch(
            num_files=len(self.files),
            num_fetched=sum(each.sha256 is not None for each in self.files),
            received_bytes=self.done_bytes + received,
            total_bytes=known,
        )
        is_other = _without_bytes(state) != _without_bytes(self.state)
        self.state = state
        is_other = is_other or received - self.reported_bytes >= REPORT_BYTES
        if is_other or anyio.current_time() - self.reported_at >= REPORT_SECONDS:
            self.reported_at, self.reported_bytes = anyio.current_time(), received
            await to_write(self.fetches.report, self.dataset, state, self.done_bytes + max(received, total or 0))


def _without_bytes(state: DatasetFetch) -> DatasetFetch:
    """The state without the bytes received."""
    return state.model_copy(update={"received_bytes": 0})


class DatasetFetcher:
    """Downloads the datasets that wait for it, until cancelled; what is cut off then goes on after the next start."""

    def __init__(
        self,
        fetches: Fetches,
        ingestion: Ingestion,
        storage: Storage,
        settings: ServerSettings,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this server, of several on one database, is the one that downloads."""
        self._fetches, self._ingestion, self._storage, self._settings = fetches, ingestion, storage, settings
        self._leads = leads
        self._busy: set[str] = set()
        """Owners whose dataset is being downloaded."""
        self._tries: dict[str, _Tries] = {}
        self._wake = anyio.Event()

    def wake(self) -> None:
        """Notify of a new dataset. On the event loop."""
        self._wake.set()

    async def run(self) -> None:
        """Download until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._wake = anyio.Event()
                try:
                    for dataset in await self._next() if self._leads() else ():
                        if len(self._busy) < NUM_FETCHING:
                            self._busy.add(dataset.owner)
                            tasks.start_soon(self._fetch, dataset)
                except Exception:
                    logger.exception("no dataset to download could be chosen; retrying soon")
                now = anyio.current_time()
                pauses = [tries.again_at - now for tries in self._tries.values() if tries.again_at > now]
                with anyio.move_on_after(min([POLL_SECONDS, *pauses])):
                    await self._wake.wait()

    async def _next(self) -> list[Dataset]:
        now = anyio.current_time()
        later = [dataset_id for dataset_id, tries in self._tries.items() if tries.again_at > now]
        return await to_write(self._fetches.waiting, set(self._busy), later)

    async def _fetch(self, dataset: Dataset) -> None:
        progress = _Progress(self._fetches, dataset)
        try:
            with full_disk_as_no_space():
                await self._fetch_all(dataset, progress)
            self._tries.pop(dataset.id, None)
            self._ingestion.wake()
        except DatasetDeleted:
            pass
        except Interrupted as error:
            await self._after_interruption(dataset, progress, str(error))
        except (Refused, NoSpace) as error:
            self._tries.pop(dataset.id, None)
            await to_write(self._ingestion.refuse, dataset.id, str(error))
        except Exception:
            logger.exception("the download of a dataset failed; retrying soon", dataset_id=dataset.id)
            await self._after_interruption(dataset, progress, "the download failed; the server's log has the reason")
        finally:
            with anyio.CancelScope(shield=True):
                await self._clean_up(dataset)
            self._busy.discard(dataset.owner)
            self._wake.set()

    async def _clean_up(self, dataset: Dataset) -> None:
        if not await to_write(self._fetches.is_wanted, dataset.id):
            self._tries.pop(dataset.id, None)
            await on_disk(partial(shutil.rmtree, self._storage.fetched_folder(dataset.id), ignore_errors=True))

    async def _after_interruption(self, dataset: Dataset, progress: _Progress, reason: str) -> None:
        """Try again later, soon where something came; refuse after too many attempts without a new byte."""
        tries = self._tries.setdefault(dataset.id, _Tries())
        has_come = progress.state.received_bytes > tries.received
        tries.number = 0 if has_come else tries.number + 1
        tries.received = max(tries.received, progress.state.received_bytes)
        if tries.number >= len(RETRY_SECONDS):
            self._tries.pop(dataset.id, None)
            await to_write(self._ingestion.refuse, dataset.id, reason)
            return
        tries.again_at = anyio.current_time() + RETRY_SECONDS[tries.number]
        logger.info("the download of a dataset waits", dataset_id=dataset.id, reason=reason)
        with contextlib.suppress(DatasetDeleted):
            await to_write(self._fetches.postpone, dataset.id, reason)

    async def _fetch_all(self, dataset: Dataset, progress: _Progress) -> None:
        """Download what is missing of a dataset, and hand it to the ingestion."""
        folder = self._storage.fetched_folder(dataset.id)
        files = progress.files = await self._files(dataset, folder)
        for place, file in enumerate(files):
            if file.sha256 is None:
                files[place] = await self._fetch_file(file, folder, progress)
                await on_disk(write_fetched, folder, files)
        await to_write(self._fetches.complete, dataset, folder, files)

    async def _files(self, dataset: Dataset, folder: Path) -> list[FetchedFile]:
        """The files of a dataset, as far as they are known from before."""
        try:
            return await on_disk(read_fetched, folder)
        except (FileNotFoundError, ValueError):
            await on_disk(partial(folder.mkdir, parents=True, exist_ok=True))
        found: list[FetchedFile] = []
        for url in (dataset.fetch or {})["urls"]:
            if url.startswith(hub.SCHEME):
                listed = await hub.list_recordings(hub.HubDataset.parse(url), folder, self._settings)
                for each in listed:
                    name = clean_path(each.name)
                    found.append(FetchedFile(path="", url=each.url, name=name, size=each.size, is_of_hub=True))
            else:
                found.append(FetchedFile(path="", url=url))
        files = [file.model_copy(update={"path": f"{number:06d}"}) for number, file in enumerate(found, 1)]
        await on_disk(write_fetched, folder, files)
        return files

    async def _fetch_file(self, file: FetchedFile, folder: Path, progress: _Progress) -> FetchedFile:
        source = hub.source(file.url) if file.is_of_hub else Source(file.url)
        source = replace(source, watch=partial(progress.watch, file), check=partial(check_type, file.url))
        target = folder / file.path
        room = self._settings.max_upload_bytes - progress.done_bytes
        done = await download(source, target, room, self._settings)
        if done.size == 0:
            raise Refused(f"{host_of(file.url)} answers with an empty file; check the address")
        taken = {each.name for each in progress.files if each.path != file.path}
        name = free_name(file.name or file_name(file.url, done.url, done.headers), taken)
        return file.model_copy(update={"name": name, "size": done.size, "sha256": await on_disk(_sha256, target)})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def check_addresses(urls: Sequence[str], settings: ServerSettings, pointers: Sequence[str]) -> None:
    """Refuse addresses that can be refused before anything is downloaded, each at its place in the request."""
    checked: set[str] = set()
    for url, pointer in zip(urls, pointers, strict=True):
        try:
            if url.startswith(hub.SCHEME):
                hub.HubDataset.parse(url)
                continue
            check_form(url)
            if origin_of(url) not in checked:  # a look-up for each host
                await check_address(url, settings)
                checked.add(origin_of(url))
        except Refused as error:
            raise Refused(str(error), pointer) from error
