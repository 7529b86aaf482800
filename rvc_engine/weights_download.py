"""Fetching published weights: resumed where it broke off, checked by sha256 before the file gets its name. No torch.

The hub is huggingface.co, or the mirror that the environment variable `HF_ENDPOINT` names. A piece of a file lies
beside its target as `<name>.part`, with the server's ETag in `<name>.part.etag`, so that pieces of two different files
are never joined (RFC 9110, If-Range).
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import httpx
import tenacity

from rvc_engine.disk import disk_full_told
from rvc_engine.errors import DiskFull, MissingWeights, WorkspaceBusy
from rvc_engine.weights import PublishedFile, Weights, sha256_of
from rvc_engine.workspace import sync_folder

Progress = Callable[[PublishedFile, int], None]
"""Hears how many bytes of a file are here."""

HUB = "https://huggingface.co"
ATTEMPTS_WITHOUT_PROGRESS = 5
SPARE_BYTES = 100 * 2**20
"""Kept free on the disk beside what is downloaded."""
_TIMEOUT = httpx.Timeout(30, connect=15)


class _TryAgain(Exception):
    """The server or the way to it failed in a manner that may pass."""


def hub_endpoint() -> str:
    """Address of the hub or its mirror, without a slash at the end."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def url_of(file: PublishedFile, endpoint: str) -> str:
    """Where a hub has the file."""
    return f"{endpoint}/{file.repo}/resolve/{file.revision or 'main'}/{file.path}"


def fetch(
    weights: Weights,
    files: Sequence[PublishedFile],
    progress: Progress = lambda _file, _bytes: None,
    wait: tenacity.wait.wait_base | None = None,
) -> None:
    """Download those of the files that are not here and whole. `wait` is the pause between two attempts.

    Raises MissingWeights when a file cannot be had or is not what was published, DiskFull, WorkspaceBusy.
    """
    wanted = [file for file in files if weights.verify(file) != "verified"]
    for file in wanted:
        _check_downloadable(file)
    with disk_full_told(weights.folder):
        weights.folder.mkdir(parents=True, exist_ok=True)
    _check_room(weights, wanted)
    wait = wait or tenacity.wait_random_exponential(multiplier=1, max=30)
    with _only_one(weights.folder), httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
        for file in wanted:
            _Download(weights, file, client, progress).run(wait)


def _check_downloadable(file: PublishedFile) -> None:
    if not file.is_downloadable:
        raise MissingWeights(
            f"{file.key} is on no hub: it comes inside a Python package. If a folder on this machine holds it, take it "
            "from there with `rvc-engine weights import FOLDER`"
        )


def _check_room(weights: Weights, files: Sequence[PublishedFile]) -> None:
    needed = sum(file.size - _size_of(_part_of(weights.path_of(file))) for file in files)
    free = shutil.disk_usage(weights.folder).free
    if files and needed + SPARE_BYTES > free:
        raise DiskFull(
            f"{needed / 1e6:.0f} MB are to be downloaded and {free / 1e6:.0f} MB are free on the disk of "
            f"{weights.folder}; free some space, or keep the weights in another folder"
        )


def _only_one(folder: Path) -> filelock.BaseFileLock:
    """Held while this process downloads; two writers would spoil each other's pieces."""
    lock = filelock.FileLock(folder / ".fetch.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise WorkspaceBusy(
            f"another program is downloading into {folder}; wait for it to end, and try again"
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
    """One file on its way."""

    def __init__(self, weights: Weights, file: PublishedFile, client: httpx.Client, progress: Progress) -> None:
        self._weights, self._file, self._client, self._progress = weights, file, client, progress
        self._target = weights.path_of(file)
        self._part = _part_of(self._target)
        self._etag = self._part.with_name(f"{self._part.name}.etag")
        self._url = url_of(file, hub_endpoint())

    def run(self, wait: tenacity.wait.wait_base) -> None:
        """Download what is missing, check the whole, give it its name."""
        with disk_full_told(self._weights.folder):
            self._part.parent.mkdir(parents=True, exist_ok=True)
            is_resumed = _size_of(self._part) > 0
            self._receive(wait)
            if not self._accept() and not (is_resumed and self._receive_afresh(wait)):
                raise self._failure("what arrived is not the published file (its sha256 differs), and was deleted")

    def _receive_afresh(self, wait: tenacity.wait.wait_base) -> bool:
        """An old piece may have been of another file, so a resumed download gets a second chance."""
        self._receive(wait)
        return self._accept()

    def _receive(self, wait: tenacity.wait.wait_base) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _TryAgain)),
            stop=_NoProgress(self._part),
            wait=wait,
            reraise=True,
        )
        try:
            retrying(self._receive_rest)
        except (httpx.HTTPError, httpx.InvalidURL, _TryAgain) as error:
            reason = str(error) or type(error).__name__
            raise self._failure(f"the download breaks off ({reason}); what has arrived is kept") from error

    def _failure(self, reason: str) -> MissingWeights:
        return MissingWeights(
            f"{self._file.key} cannot be had from {self._url}: {reason}. Try again later, set HF_ENDPOINT to a mirror, "
            "or take it from an RVC or Applio installation with `rvc-engine weights import FOLDER`"
        )

    def _receive_rest(self) -> None:
        """Ask for what is not here yet and append it."""
        have = self._usable_bytes()
        self._progress(self._file, have)
        if have == self._file.size:
            return
        with self._client.stream("GET", self._url, headers=self._headers(have)) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard()
                raise _TryAgain("the server has another file than before")
            self._check_status(response)
            is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT and _starts_at(response, have)
            self._etag.write_text(_strong_etag(response))
            self._append(response, have if is_rest else 0)

    def _usable_bytes(self) -> int:
        """How much of the piece can be built on; one longer than the file is thrown away."""
        have = _size_of(self._part)
        if have > self._file.size:
            self._discard()
            return 0
        return have

    def _headers(self, have: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}  # a compressed answer could not be continued
        etag = self._etag.read_text() if self._etag.is_file() else ""
        if have:
            headers["Range"] = f"bytes={have}-"
            if etag:
                headers["If-Range"] = etag
        return headers

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in {httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS} or status >= 500:
            raise _TryAgain(f"the server answers {status}")
        if status not in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            raise self._failure(f"the server answers {status} {response.reason_phrase}")

    def _append(self, response: httpx.Response, position: int) -> None:
        with self._part.open("ab") as file:
            file.truncate(position)
            for chunk in response.iter_bytes():
                file.write(chunk)
                position += len(chunk)
                if position > self._file.size:
                    break  # not the published file; the check will say so
                self._progress(self._file, position)
        if position < self._file.size:
            raise _TryAgain(f"the server ended after {position} of {self._file.size} bytes")

    def _accept(self) -> bool:
        """Give the whole its name if it is the published file; delete it, and say False, if not."""
        digest = sha256_of(self._part)
        if digest != self._file.sha256:
            self._discard()
            return False
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._target)
        self._etag.unlink(missing_ok=True)
        sync_folder(self._target.parent)
        self._weights.remember(self._file, digest, self._target.stat())
        return True

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)


class _NoProgress(tenacity.stop.stop_base):
    """Stop after so many attempts in a row that brought nothing: a bad line may need many that each bring something."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._most = _size_of(part)
        self._in_vain = 0

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        size = _size_of(self._part)
        self._in_vain = 0 if size > self._most else self._in_vain + 1
        self._most = max(size, self._most)
        return self._in_vain >= ATTEMPTS_WITHOUT_PROGRESS


def _starts_at(response: httpx.Response, position: int) -> bool:
    """Whether a partial answer begins where it was asked to."""
    content_range: str = response.headers.get("Content-Range", "")
    return content_range.removeprefix("bytes ").startswith(f"{position}-")


def _strong_etag(response: httpx.Response) -> str:
    """Empty where the server gives none that If-Range may carry."""
    etag: str = response.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag
