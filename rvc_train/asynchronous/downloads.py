"""Downloads that resume after a lost connection and never leave a wrong file under the final name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import httpx

from rvc_engine.environment.files import replace, unlink
from rvc_engine.workspace.atomic_files import link_ascii_twin
from rvc_train.errors import BadDownload, ConnectionFailed, UsageError
from rvc_train.http.files import Offered, Progress, is_complete
from rvc_train.http.problems import error_of
from rvc_train.http.threads import in_thread
from rvc_train.http.transport import TRANSFER_RETRIES


async def download(http: httpx.AsyncClient, artifact: Offered, target: Path, progress: Progress | None = None) -> Path:
    """Download an artifact to `target`, resuming an earlier, interrupted attempt; return `target`.

    Bytes gather in `<target>.part`, which gets the final name once size and sha256 are right. A file that is already
    there and right is not downloaded again. Raises BadDownload when the bytes are wrong, ConnectionFailed when the
    server does not answer (the part stays for the next attempt), UsageError while another download fills the part.
    """
    report_progress = progress or (lambda done, total: None)
    if await in_thread(is_complete, target, artifact):
        report_progress(artifact.size, artifact.size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _exclusive(part):
        return await _download(http, artifact, target, part, report_progress)


@contextmanager
def _exclusive(part: Path) -> Iterator[None]:
    """Hold the lock of a part. Raises UsageError while another download holds it."""
    lock = filelock.FileLock(part.with_name(part.name + ".lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"another download is writing {part}; wait for it, or choose another folder with --output"
        ) from error
    try:
        yield
    finally:
        if os.name == "posix":  # while it is locked; on Windows `release` deletes it
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


async def _download(
    http: httpx.AsyncClient, artifact: Offered, target: Path, part: Path, report_progress: Progress
) -> Path:
    if await in_thread(is_complete, target, artifact):  # by another download that held the lock before
        report_progress(artifact.size, artifact.size)
        return target
    is_resumed = part.exists()
    await _fetch(http, artifact, part, report_progress)
    if is_resumed and not await in_thread(is_complete, part, artifact):
        await in_thread(unlink, part)  # it was of another file with the same name
        await _fetch(http, artifact, part, report_progress)
    if not await in_thread(is_complete, part, artifact):
        await in_thread(unlink, part)
        raise BadDownload(f"{artifact.name} arrived with other bytes than the server announced; download it again")
    await in_thread(replace, part, target)
    if target.suffix == ".index":
        await in_thread(link_ascii_twin, target)
    return target


async def _fetch(http: httpx.AsyncClient, artifact: Offered, part: Path, report_progress: Progress) -> None:
    """Fill `part` up to the artifact's size, over as many connections as necessary."""
    try:
        async for attempt in TRANSFER_RETRIES.retrying_async(progress=lambda: _size(part)):
            with attempt:
                while (offset := _size(part)) < artifact.size:
                    await _fetch_from(http, artifact, part, offset, report_progress)
                    if _size(part) == offset:
                        raise BadDownload(
                            f"{artifact.name} ended too early: {offset} of {artifact.size} bytes; try again later"
                        )
    except httpx.TransportError as error:
        raise ConnectionFailed(
            f"the connection was lost while {artifact.name} was downloaded ({error}); the received bytes are kept in "
            f"{part}, so run the same command again to continue"
        ) from error


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


async def _fetch_from(
    http: httpx.AsyncClient, artifact: Offered, part: Path, offset: int, report_progress: Progress
) -> None:
    """One request: from byte `offset` on while the server still has the same file, from the start otherwise."""
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": f'"{artifact.sha256}"'}
    # To object storage, where the server has its files there; httpx sends the token to no other host.
    async with http.stream("GET", artifact.url, headers=headers, follow_redirects=True) as response:
        if response.is_error:
            await response.aread()
            raise error_of(response)
        is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = offset if is_rest else 0
        with part.open("ab" if is_rest else "wb") as file:
            # In chunks as they arrive: gathering larger ones would lose bytes when the connection breaks.
            async for chunk in response.aiter_raw():
                await in_thread(file.write, chunk)
                done += len(chunk)
                report_progress(done, artifact.size)
            file.flush()
            await in_thread(os.fsync, file.fileno())
