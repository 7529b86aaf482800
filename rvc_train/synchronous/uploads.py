# Generated from rvc_train/asynchronous/uploads.py by `make synchronous`: edit that file.
"""Uploads that resume after a lost connection or an interrupted client (tus 1.0.0).

The address of an unfinished upload is kept in the user's cache folder under the hash of its bytes, so that the same
command continues it. Bytes that the server already has are not sent at all. The others go in chunks, which are halved
while a proxy before the server refuses them for their size.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import platformdirs

from rvc_engine.names.voices import storable
from rvc_train.errors import ApiError, BadUpload, ClientError, ConnectionFailed, NotFound
from rvc_train.http.files import Progress, sha256_of
from rvc_train.http.problems import UNEXPECTED_ANSWER
from rvc_train.http.transport import TRANSFER_RETRIES, is_transient
from rvc_train.schemas.datasets import ConsentCreate, DatasetPublic
from rvc_train.synchronous.transport import Transport

TUS = {"Tus-Resumable": "1.0.0"}
MAX_CHUNK_BYTES = 32 << 20
MIN_CHUNK_BYTES = 64 << 10
"""A proxy that refuses even this much is reported."""
_READ_BYTES = 1 << 20
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


def upload(
    transport: Transport, file: Path, made: Mapping[str, Any], progress: Progress, cache: Path | None
) -> DatasetPublic:
    """Make a dataset of a zip or a recording, sending only bytes that the server lacks.

    `made`: fields of the request that makes it, all but its source. `cache`: folder with the addresses of unfinished
    uploads; None: another call begins anew. Raises ConnectionFailed when the server does not answer (the same call
    continues), BadUpload when the server has other bytes than were sent, ApiError when it refuses.
    """
    size, sha256 = file.stat().st_size, sha256_of(file)
    progress(0, size)
    try:
        try:
            dataset = _create_dataset(transport, {**made, "sha256": sha256})
            progress(size, size)
        except NotFound:
            key = hashlib.sha256(f"{transport.http.base_url} {sha256}".encode()).hexdigest()
            record_file = None if cache is None else cache / f"{key}.json"
            address = _send(transport, file, size, record_file, progress)
            upload_id = address.rpartition("/")[2]
            dataset = _create_dataset(transport, {**made, "upload_id": upload_id}, is_repeatable=True)
            if record_file is not None:
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


def upload_cache() -> Path | None:
    """Folder for the addresses of unfinished uploads; None for a user without a home folder."""
    try:
        folder = Path(platformdirs.user_cache_dir("rvc-train")) / "uploads"
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def send_file(transport: Transport, file: Path, progress: Progress, cache: Path | None, name: str = "") -> str:
    """Send a file as an upload, only bytes that the server lacks; returns the upload's id.

    `cache`: as for `upload`. `name`: of the recording, for the server to show. Raises ConnectionFailed when the server
    does not answer; the same call continues.
    """
    size, sha256 = file.stat().st_size, sha256_of(file)
    key = hashlib.sha256(f"{transport.http.base_url} {sha256}".encode()).hexdigest()
    record_file = None if cache is None else cache / f"{key}.json"
    address = _send(transport, file, size, record_file, progress, name)
    return address.rpartition("/")[2]


def _create_dataset(transport: Transport, request: Mapping[str, Any], *, is_repeatable: bool = False) -> DatasetPublic:
    return transport.call(
        "POST", "/v1/datasets", DatasetPublic, json=request, timeout=ADMISSION_TIMEOUT, is_repeatable=is_repeatable
    )


def _saved_address(record_file: Path) -> str | None:
    try:
        address = json.loads(record_file.read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) and address.startswith("/v1/uploads/") else None


def _send(
    transport: Transport, file: Path, size: int, record_file: Path | None, progress: Progress, name: str = ""
) -> str:
    """Send every byte that the server lacks, over as many connections as necessary; the upload's address."""
    address = None if record_file is None else _saved_address(record_file)
    chunk_bytes, furthest, broken = MAX_CHUNK_BYTES, -1, (-1, 0)
    attempts = _UPLOAD_RETRIES.retrying(progress=lambda: furthest)
    for attempt in attempts:
        with attempt:
            offset = None if address is None else _offset(transport, address)
            if address is None or offset is None:
                address, offset = _begin(transport, size, record_file, name), 0
            if offset == broken[0]:  # nothing arrived: some proxies refuse a large body by closing the connection
                chunk_bytes = min(chunk_bytes, max(broken[1] // 2, _READ_BYTES))
            progress(offset, size)
            while True:
                furthest = max(furthest, offset)
                if offset >= size:
                    break
                length = min(chunk_bytes, size - offset)
                try:
                    _send_chunk(transport, file, address, offset, length, lambda done: progress(done, size))
                    offset += length
                except ConnectionFailed:
                    broken = offset, length
                    raise
                except ApiError as error:
                    if not _is_refused_by_proxy(error) or length <= MIN_CHUNK_BYTES:
                        raise
                    chunk_bytes = max(length // 2, MIN_CHUNK_BYTES)
                    offset = _offset(transport, address) or 0  # a proxy may have passed on the first bytes
    assert address is not None  # noqa: S101 - set by the attempt that succeeded
    return address


def _is_refused_by_proxy(error: ApiError) -> bool:
    return error.problem.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE and error.problem.code == UNEXPECTED_ANSWER


def _send_chunk(
    transport: Transport, file: Path, address: str, offset: int, length: int, report: Callable[[int], None]
) -> None:
    """Send `length` bytes from `offset` on; `report` is called with the offset reached."""
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(length),
        "Upload-Offset": str(offset),
    }
    with closing(_chunk(file, offset, length, report)) as content:
        transport.send("PATCH", address, content=content, headers=TUS | headers, timeout=CHUNK_TIMEOUT)


def _begin(transport: Transport, size: int, record_file: Path | None, name: str) -> str:
    headers = {"Upload-Length": str(size)}
    if name:
        headers["Upload-Metadata"] = "filename " + base64.b64encode(name.encode()).decode()
    response = transport.send("POST", "/v1/uploads", headers=TUS | headers)
    address = f"/v1/uploads/{response.headers['Location'].rpartition('/')[2]}"  # a proxy may have added to the path
    if record_file is None:
        return address
    with suppress(OSError):  # without the record, an interrupted client begins a new upload
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps({"address": address}), encoding="utf-8")
    return address


def _offset(transport: Transport, address: str) -> int | None:
    """Bytes that the server has; None when it has deleted the upload."""
    try:
        response = transport.send("HEAD", address, headers=TUS, is_repeatable=False)
        return int(response.headers["Upload-Offset"])
    except ApiError as error:
        if error.problem.status in _UPLOAD_GONE:
            return None
        raise
    except (KeyError, ValueError) as error:
        raise ClientError(
            f"{transport.http.base_url} does not report the offset of the upload; check that it is an rvc-train server"
        ) from error


def _chunk(file: Path, offset: int, length: int, report: Callable[[int], None]) -> Generator[bytes, None, None]:
    end = offset + length
    with file.open("rb") as source:
        source.seek(offset)
        while offset < end and (data := source.read(min(_READ_BYTES, end - offset))):
            yield data
            offset += len(data)
            report(offset)


def consent_body(
    transport: Transport, consent: ConsentCreate, document: Path | None, memory: Path | None
) -> dict[str, Any]:
    """A consent as requests have it; its document is uploaded. `memory`: as of `Client`."""
    body = consent.model_dump(mode="json", exclude_unset=True)
    if document is not None:
        cache = memory or upload_cache()
        body["upload_id"] = send_file(transport, document, lambda done, total: None, cache)
        body["document_name"] = storable(document.name)
    return body
