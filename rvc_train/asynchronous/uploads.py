"""Uploads that resume after a lost connection or an interrupted client (tus 1.0.0).

The address of an unfinished upload is kept in the user's cache folder under the hash of its bytes, so that the same
command continues it. Bytes that the server already has are not sent at all.
"""

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import httpx

from rvc_train.asynchronous.transport import Transport
from rvc_train.errors import ApiError, BadUpload, ClientError, ConnectionFailed, NotFound
from rvc_train.http.files import Progress, sha256_of
from rvc_train.http.threads import in_thread
from rvc_train.http.transport import TRANSFER_RETRIES, is_transient
from rvc_train.schemas.datasets import DatasetPublic

TUS = {"Tus-Resumable": "1.0.0"}
_CHUNK = 1 << 20
_UPLOAD_GONE = frozenset({404, 410})
_OFFSET_DIFFERS = frozenset({408, 409})
"""The server has more or fewer bytes than assumed; a HEAD request gives its offset."""
CHUNK_TIMEOUT = httpx.Timeout(30, read=120, write=120)
ADMISSION_TIMEOUT = httpx.Timeout(30, read=300)
"""The server may hash an upload before it answers, and waits for the ingestion of a small one."""


def _is_interruption(error: BaseException) -> bool:
    """Whether to go on from the server's offset."""
    if isinstance(error, ApiError) and error.problem.status in _OFFSET_DIFFERS:
        return True
    return isinstance(error, ConnectionFailed) or is_transient(error)


_UPLOAD_RETRIES = replace(TRANSFER_RETRIES, is_transient=_is_interruption)


async def upload(
    transport: Transport, file: Path, name: str, progress: Progress, cache: Path, zip_names: str | None = None
) -> DatasetPublic:
    """Make a dataset of a zip or a recording, sending only bytes that the server lacks.

    `cache`: folder with the addresses of unfinished uploads. `zip_names`: code page of names in zips. Raises
    ConnectionFailed when the server does not answer (the same call continues), BadUpload when the server has other
    bytes than were sent, ApiError when it refuses.
    """
    size, sha256 = file.stat().st_size, await in_thread(sha256_of, file)
    progress(0, size)
    made = {"name": name} | ({} if zip_names is None else {"zip_names": zip_names})
    try:
        try:
            dataset = await _create_dataset(transport, made | {"sha256": sha256})
            progress(size, size)
        except NotFound:
            record_file = cache / f"{hashlib.sha256(f'{transport.http.base_url} {sha256}'.encode()).hexdigest()}.json"
            address = await _send(transport, file, size, record_file, progress)
            upload_id = address.rpartition("/")[2]
            dataset = await _create_dataset(transport, made | {"upload_id": upload_id}, is_repeatable=True)
            record_file.unlink(missing_ok=True)
    except ConnectionFailed as error:
        raise ConnectionFailed(
            f"{error}. The server keeps the bytes it received for a while: run the same command again to continue"
        ) from error
    if dataset.sha256 != sha256:
        raise BadUpload(
            f"the server has other bytes than were sent; delete the dataset {dataset.id} and upload it again"
        )
    return dataset


async def _create_dataset(
    transport: Transport, request: dict[str, str], *, is_repeatable: bool = False
) -> DatasetPublic:
    return await transport.call(
        "POST", "/v1/datasets", DatasetPublic, json=request, timeout=ADMISSION_TIMEOUT, is_repeatable=is_repeatable
    )


def _saved_address(record_file: Path) -> str | None:
    try:
        address = json.loads(record_file.read_text())["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) and address.startswith("/v1/uploads/") else None


async def _send(transport: Transport, file: Path, size: int, record_file: Path, progress: Progress) -> str:
    """Send every byte that the server lacks, over as many connections as necessary; the upload's address."""
    address = _saved_address(record_file)
    furthest = -1
    attempts = _UPLOAD_RETRIES.retrying_async(progress=lambda: furthest)
    async for attempt in attempts:
        with attempt:
            offset = None if address is None else await _offset(transport, address)
            if address is None or offset is None:
                address, offset = await _begin(transport, size, record_file), 0
            furthest = max(furthest, offset)
            progress(offset, size)
            if offset < size:
                await _send_rest(transport, file, address, offset, size, progress)
    assert address is not None  # noqa: S101 - set by the attempt that succeeded
    return address


async def _send_rest(
    transport: Transport, file: Path, address: str, offset: int, size: int, progress: Progress
) -> None:
    """Send all bytes from `offset` on, in one request."""
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(size - offset),
        "Upload-Offset": str(offset),
    }
    async with aclosing(_rest(file, offset, size, progress)) as rest:
        await transport.send("PATCH", address, content=rest, headers=TUS | headers, timeout=CHUNK_TIMEOUT)


async def _begin(transport: Transport, size: int, record_file: Path) -> str:
    response = await transport.send("POST", "/v1/uploads", headers=TUS | {"Upload-Length": str(size)})
    address = f"/v1/uploads/{response.headers['Location'].rpartition('/')[2]}"  # a proxy may have added to the path
    with suppress(OSError):  # without the record, an interrupted client begins a new upload
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps({"address": address}))
    return address


async def _offset(transport: Transport, address: str) -> int | None:
    """Bytes that the server has; None when it has deleted the upload."""
    try:
        response = await transport.send("HEAD", address, headers=TUS, is_repeatable=False)
        return int(response.headers["Upload-Offset"])
    except ApiError as error:
        if error.problem.status in _UPLOAD_GONE:
            return None
        raise
    except (KeyError, ValueError) as error:
        raise ClientError(
            f"{transport.http.base_url} does not report the offset of the upload; check that it is an rvc-train server"
        ) from error


async def _rest(file: Path, offset: int, size: int, progress: Progress) -> AsyncGenerator[bytes, None]:
    with file.open("rb") as source:
        source.seek(offset)
        while chunk := await in_thread(source.read, _CHUNK):
            yield chunk
            offset += len(chunk)
            progress(offset, size)
