"""Downloads of published weights for the machine, one after another in a thread, with their progress; imports of files.

A download has the name of an id, or of one file (`<id>/<name>`): jobs ask only for the files that they need.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import EngineError, InvalidConfig, WorkspaceBusy
from rvc_engine.pipeline.required_weights import missing_files
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_train.schemas.administration import MissingWeights, WeightsFile, WeightsPublic
from server.errors import NotFound, Refused

logger = structlog.get_logger(__name__)

BUSY_SECONDS = 2.0
"""Wait while another program downloads into the same folder."""


@dataclass
class _Fetch:
    """A requested download."""

    state: str = "waiting"
    error: str | None = None
    mirror: str | None = None
    """Mirror to download from; None: that of the last download which named one and succeeded, or the environment's."""


class WeightsFetcher:
    """Weights of the server's data folder. The thread runs only while there is something to download."""

    def __init__(self, folder: Path) -> None:
        self._weights = Weights(folder)
        self._fetches: dict[str, _Fetch] = {}
        self._waiting: deque[str] = deque()
        self._mirror: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def all(self) -> list[WeightsPublic]:
        """Every id with its files. Reads no file's content."""
        return [self.get(name) for name in dict.fromkeys(file.id for file in self._weights.files)]

    def get(self, name: str) -> WeightsPublic:
        """One id with its files. Raises NotFound."""
        files = self._files(name)
        fetch = self._newest_fetch([name, *(file.key for file in files)])
        states = [self._weights.state(file) for file in files]
        is_present = all(state in {"verified", "unverified"} for state in states)
        return WeightsPublic(
            id=name,
            is_present=is_present,
            size=sum(file.size for file in files),
            size_here=self.size_here(files),
            fetch_state=None if fetch is None or is_present else fetch.state,
            fetch_error=None if fetch is None or is_present else fetch.error,
            files=[
                WeightsFile(name=file.name, size=file.size, sha256=file.sha256, state=state)
                for file, state in zip(files, states, strict=True)
            ],
        )

    def missing(
        self, config: TrainingConfig, own: tuple[Path | None, Path | None] = (None, None)
    ) -> list[MissingWeights]:
        """The files that a job needs and that are missing or damaged, by id. Reads no file's content.

        `own`: files that it starts from in place of published ones, generator first.
        """
        by_id: dict[str, list[PublishedFile]] = {}
        for file in missing_files(config, self._weights.folder, own):
            by_id.setdefault(file.id, []).append(file)
        found = []
        for name, its_files in by_id.items():
            fetch = self._newest_fetch([name, *(file.key for file in its_files)])
            found.append(
                MissingWeights(
                    id=name,
                    files=[file.name for file in its_files],
                    size_bytes=sum(file.size for file in its_files),
                    downloaded_bytes=self.size_here(its_files),
                    fetch_state=None if fetch is None else fetch.state,
                    fetch_error=None if fetch is None else fetch.error,
                )
            )
        return found

    def size_here(self, files: Sequence[PublishedFile]) -> int:
        """Bytes of the files that are on this machine, including unfinished downloads."""
        return sum(self._size_here(file) for file in files)

    def import_file(self, path: Path) -> list[str]:
        """Import a file from an RVC or Applio installation; returns its published names. Refused if it is none."""
        found = self._weights.import_file(path)
        if not found:
            raise Refused(
                "the file is not one of the published weights; choose the folder of an RVC or Applio installation"
            )
        return [file.key for file in found]

    def _newest_fetch(self, names: Sequence[str]) -> _Fetch | None:
        """The download of these names that goes on, else the last one that was requested."""
        found = [fetch for name, fetch in self._fetches.items() if name in names]
        return next((fetch for fetch in found if fetch.state in {"waiting", "fetching"}), found[-1] if found else None)

    def fetch(self, name: str, mirror: str | None = None) -> WeightsPublic:
        """Request the download of an id or a file; a no-op if it is present or already requested. Raises NotFound.

        `mirror`: mirror to download from; later downloads use it too once it has served one.
        """
        found = self.get(name)
        with self._lock:
            if found.is_present or name in self._waiting or self._is_fetching(name):
                return found
            self._fetches.pop(name, None)  # the newest is the last
            self._fetches[name] = _Fetch(mirror=mirror)
            self._waiting.append(name)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="weights", daemon=True)
                self._thread.start()
        return self.get(name)

    def _is_fetching(self, name: str) -> bool:
        fetch = self._fetches.get(name)
        return fetch is not None and fetch.state == "fetching"

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                name = self._waiting.popleft()
                fetch = self._fetches[name]
                fetch.state = "fetching"
            fetch.error = self._fetch(name, fetch.mirror or self._mirror)
            if fetch.error is None and fetch.mirror is not None:
                self._mirror = fetch.mirror
            fetch.state = "failed" if fetch.error else "fetched"

    def _fetch(self, name: str, mirror: str | None) -> str | None:
        """Download an id; returns an error message, None if it succeeded."""
        try:
            while not self._is_fetched(name, mirror):
                time.sleep(BUSY_SECONDS)
        except EngineError as error:
            logger.warning("weights could not be fetched", weights=name, reason=str(error))
            return str(error)
        except Exception as error:
            logger.exception("weights could not be fetched", weights=name)
            return f"unexpected error ({type(error).__name__}); the server's log has the details"
        logger.info("weights fetched", weights=name)
        return None

    def _is_fetched(self, name: str, mirror: str | None) -> bool:
        """Download an id; False while another program downloads into the folder. Raises EngineError."""
        from rvc_engine.weights.download import fetch  # loaded only when needed

        try:
            fetch(self._weights, self._files(name), mirror=mirror)
        except WorkspaceBusy:
            return False
        return True

    def _files(self, name: str) -> list[PublishedFile]:
        try:
            files = self._weights.files_of(name)
        except InvalidConfig as error:
            raise NotFound(str(error)) from error
        return [file for file in files if file.id == name] or files

    def _size_here(self, file: PublishedFile) -> int:
        path = self._weights.path_of(file)
        for candidate in (path, path.with_name(f"{path.name}.part")):
            if candidate.is_file():
                return min(candidate.stat().st_size, file.size)
        return 0
