"""Fetching a file so that a lost connection costs nothing and a wrong byte is never kept."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import filelock
import httpx

from rvc_train.errors import BadDownload, ConnectionFailed, UsageError
from rvc_train.http.problems import error_of


class Offered(Protocol):
    """A file that the server offers: an artifact, or one of a preview."""

    name: str
    url: str
    size: int
    sha256: str


Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

TRIES = 5
"""Lost connections in a row, without a byte between them, before giving up."""


def download(http: httpx.Client, artifact: Offered, target: Path, progress: Progress | None = None) -> Path:
    """Fetch an artifact to `target`, going on from an earlier, interrupted try; return `target`.

    Bytes gather in `<target>.part` and take the final name only once size and sha256 are right. A file that is already
    there and right is not fetched again. Raises BadDownload when the bytes are wrong, ConnectionFailed when the server
    is gone; the part stays for the next try in the latter case.
    """
    report_progress = progress or (lambda done, total: None)
    if _is_whole(target, artifact):
        report_progress(artifact.size, artifact.size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _exclusive(part):
        return _download(http, artifact, target, part, report_progress)


@contextmanager
def _exclusive(part: Path) -> Iterator[None]:
    """Be the only one to fill a part. UsageError while another download does."""
    lock = filelock.FileLock(part.with_name(part.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"another download is at work on {part}; wait for it, or choose another folder with --output"
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _download(http: httpx.Client, artifact: Offered, target: Path, part: Path, report_progress: Progress) -> Path:
    if _is_whole(target, artifact):  # another download has just brought it
        report_progress(artifact.size, artifact.size)
        return target
    was_begun = part.exists()
    _fetch(http, artifact, part, report_progress)
    if was_begun and not _is_whole(part, artifact):  # the part was another voice's of the same name
        part.unlink()
        _fetch(http, artifact, part, report_progress)
    if not _is_whole(part, artifact):
        part.unlink()
        raise BadDownload(f"{artifact.name} came with other bytes than the server announced; download it again")
    part.replace(target)
    return target


def _is_whole(file: Path, artifact: Offered) -> bool:
    return file.is_file() and file.stat().st_size == artifact.size and sha256_of(file) == artifact.sha256


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(http: httpx.Client, artifact: Offered, part: Path, report_progress: Progress) -> None:
    """Fill `part` up to the artifact's size, over as many connections as it takes."""
    failures = 0
    while (have := part.stat().st_size if part.exists() else 0) < artifact.size:
        try:
            _fetch_from(http, artifact, part, have, report_progress)
        except httpx.TransportError as error:
            gained = part.exists() and part.stat().st_size > have
            failures = 0 if gained else failures + 1
            if failures >= TRIES:
                raise ConnectionFailed(
                    f"the connection was lost while {artifact.name} was downloaded ({error}); what came is kept in "
                    f"{part}, so run the same command again to go on"
                ) from error
            time.sleep(min(0.3 * 2**failures, 5.0))
        else:
            if part.stat().st_size == have:
                raise BadDownload(f"{artifact.name} ended too early: {have} of {artifact.size} bytes; try again later")


def _fetch_from(http: httpx.Client, artifact: Offered, part: Path, have: int, report_progress: Progress) -> None:
    """One request: from byte `have` on when the server still has the same file, from the start when it has not."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{artifact.sha256}"'}
    with http.stream("GET", artifact.url, headers=headers) as response:
        if response.is_error:
            response.read()
            raise error_of(response)
        is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = have if is_rest else 0
        with part.open("ab" if is_rest else "wb") as file:
            # In the pieces that come: gathering larger ones would lose what was gathered when the connection breaks.
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                report_progress(done, artifact.size)
            file.flush()
            os.fsync(file.fileno())
