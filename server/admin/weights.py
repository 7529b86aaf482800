"""Downloads of published weights for the machine, one id after another in a thread, with their progress."""

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import structlog

from rvc_engine.errors import EngineError, InvalidConfig
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_train.schemas.administration import WeightsFile, WeightsPublic
from server.errors import NotFound

logger = structlog.get_logger(__name__)


@dataclass
class _Fetch:
    """A requested download."""

    state: str = "waiting"
    error: str | None = None


class WeightsFetcher:
    """Weights of the server's data folder. The thread runs only while there is something to download."""

    def __init__(self, folder: Path) -> None:
        self._weights = Weights(folder)
        self._fetches: dict[str, _Fetch] = {}
        self._waiting: deque[str] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def all(self) -> list[WeightsPublic]:
        """Every id with its files. Reads no file's content."""
        return [self.get(name) for name in dict.fromkeys(file.id for file in self._weights.files)]

    def get(self, name: str) -> WeightsPublic:
        """One id with its files. Raises NotFound."""
        files = self._files(name)
        fetch = self._fetches.get(name)
        states = [self._weights.state(file) for file in files]
        is_present = all(state in {"verified", "unverified"} for state in states)
        return WeightsPublic(
            id=name,
            is_present=is_present,
            size=sum(file.size for file in files),
            size_here=sum(self._size_here(file) for file in files),
            fetch_state=None if fetch is None or is_present else fetch.state,
            fetch_error=None if fetch is None or is_present else fetch.error,
            files=[
                WeightsFile(name=file.name, size=file.size, sha256=file.sha256, state=state)
                for file, state in zip(files, states, strict=True)
            ],
        )

    def fetch(self, name: str) -> WeightsPublic:
        """Request the download of an id; a no-op if it is present or already requested. Raises NotFound."""
        found = self.get(name)
        with self._lock:
            if found.is_present or name in self._waiting or self._is_fetching(name):
                return found
            self._fetches[name] = _Fetch()
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
            fetch.error = self._fetch(name)
            fetch.state = "failed" if fetch.error else "fetched"

    def _fetch(self, name: str) -> str | None:
        """Download an id; returns an error message, None if it succeeded."""
        from rvc_engine.weights.download import fetch  # loaded only when needed

        try:
            fetch(self._weights, self._files(name))
        except EngineError as error:
            logger.warning("weights could not be fetched", weights=name, reason=str(error))
            return str(error)
        except Exception as error:
            logger.exception("weights could not be fetched", weights=name)
            return f"unexpected error ({type(error).__name__}); the server's log has the details"
        logger.info("weights fetched", weights=name)
        return None

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
