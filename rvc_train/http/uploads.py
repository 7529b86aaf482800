"""Sending a file so that a lost connection, or a client that was killed, costs nothing (tus 1.0.0).

Where an upload lies on the server is remembered in the user's cache folder by what is sent, so that the same command
run again goes on. Bytes that the server has already are not sent at all.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx

from rvc_train.errors import BadUpload, ClientError, ConnectionFailed
from rvc_train.http.downloads import Progress, sha256_of
from rvc_train.http.problems import error_of
from rvc_train.http.transport import BUSY
from rvc_train.schemas.datasets import DatasetPublic

TUS = {"Tus-Resumable": "1.0.0"}
TRIES = 6
"""Lost connections in a row, without a byte between them, before giving up."""
_CHUNK = 1 << 20
_START_ANEW = frozenset({404, 410})
_WORTH_ANOTHER_TRY = BUSY | {408, 409}
"""409: the server has more or less than we thought, and will say how much."""
ADMISSION = httpx.Timeout(30, read=1800)
"""Admission unpacks and hashes before it answers; that may take minutes for gigabytes."""


def upload(http: httpx.Client, file: Path, name: str, progress: Progress, memory: Path) -> DatasetPublic:
    """Make a dataset of a zip or a recording, sending only what the server lacks. `memory`: folder for what is begun.

    Raises ConnectionFailed when the server stays away (what came is kept there; the same call goes on), BadUpload when
    the server has other bytes than were sent, ApiError for its own reasons.
    """
    size, sha256 = file.stat().st_size, sha256_of(file)
    progress(0, size)
    request = {"name": name, "sha256": sha256}
    existing = _retried(http, "POST", "/v1/datasets", tries=1, json=request, timeout=ADMISSION)
    if existing.status_code != httpx.codes.NOT_FOUND:
        progress(size, size)
        return _dataset(existing, sha256)
    record_file = memory / f"{hashlib.sha256(f'{http.base_url} {sha256}'.encode()).hexdigest()}.json"
    address = _send(http, file, size, _saved_address(record_file), record_file, progress)
    request = {"name": name, "upload_id": address.rpartition("/")[2]}
    dataset = _dataset(_retried(http, "POST", "/v1/datasets", json=request, timeout=ADMISSION), sha256)
    record_file.unlink(missing_ok=True)
    return dataset


def _dataset(response: httpx.Response, sha256: str) -> DatasetPublic:
    if response.is_error:
        raise error_of(response)
    dataset = DatasetPublic.model_validate_json(response.content)
    if dataset.sha256 != sha256:
        raise BadUpload(f"the server has other bytes than were sent; delete the dataset {dataset.id} and send it again")
    return dataset


def _saved_address(record_file: Path) -> str | None:
    try:
        address = json.loads(record_file.read_text())["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) and address.startswith("/v1/uploads/") else None


def _send(http: httpx.Client, file: Path, size: int, address: str | None, record_file: Path, progress: Progress) -> str:
    """Bring every byte of the file to the server, over as many connections as it takes; the upload's address."""
    failures, most = 0, -1
    while True:
        offset = None if address is None else _offset(http, address)
        if address is None or offset is None:
            address, offset = _begin(http, size, record_file), 0
        progress(offset, size)
        if offset == size:
            return address
        failures, most = (0, offset) if offset > most else (failures + 1, most)
        if failures:
            _wait(failures)
        fault = _send_rest(http, file, address, offset, size, progress)
        if fault is not None and failures + 1 >= TRIES:
            raise fault


def _send_rest(
    http: httpx.Client, file: Path, address: str, offset: int, size: int, progress: Progress
) -> ClientError | None:
    """One request with all that is missing; what stopped it, where trying again may help. Raises ApiError."""
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(size - offset),
        "Upload-Offset": str(offset),
    }
    try:
        rest = _rest(file, offset, size, progress)
        timeout = httpx.Timeout(30, read=120, write=120)
        response = http.patch(address, content=rest, headers=TUS | headers, timeout=timeout)
    except httpx.TransportError as error:
        return _lost(http, error)
    if response.is_success:
        return None
    if response.status_code in _WORTH_ANOTHER_TRY:
        return error_of(response)
    raise error_of(response)


def _begin(http: httpx.Client, size: int, record_file: Path) -> str:
    response = _retried(http, "POST", "/v1/uploads", headers=TUS | {"Upload-Length": str(size)})
    if response.is_error:
        raise error_of(response)
    address = httpx.URL(response.headers["Location"]).path
    with suppress(OSError):  # a cache that cannot be written only means that a killed client begins anew
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps({"address": address}))
    return address


def _offset(http: httpx.Client, address: str) -> int | None:
    """Bytes that the server has; None when it has forgotten the upload."""
    response = _retried(http, "HEAD", address, headers=TUS)
    if response.status_code in _START_ANEW:
        return None
    if response.is_error:
        raise error_of(response)
    try:
        return int(response.headers["Upload-Offset"])
    except (KeyError, ValueError) as error:
        raise ClientError(
            f"{http.base_url} does not say how much of the upload it has; is it an rvc-train server?"
        ) from error


def _retried(http: httpx.Client, method: str, path: str, tries: int = TRIES, **how: object) -> httpx.Response:
    """One request, sent again while nobody answers: for those that do no harm twice."""
    failures = 0
    while True:
        try:
            response = http.request(method, path, **how)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            failures += 1
            if failures >= tries:
                raise _lost(http, error) from error
        else:
            failures += 1
            if response.status_code not in BUSY or failures >= tries:
                return response
        _wait(failures)


def _rest(file: Path, offset: int, size: int, progress: Progress) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(offset)
        while chunk := source.read(_CHUNK):
            yield chunk
            offset += len(chunk)
            progress(offset, size)


def _lost(http: httpx.Client, error: Exception) -> ConnectionFailed:
    return ConnectionFailed(
        f"no answer from the server at {http.base_url} ({error or type(error).__name__}); start it with "
        "`rvc-train up`, or name another with --server or RVC_TRAIN_SERVER. What it has of an upload is kept there for "
        "a while: run the same command again to go on"
    )


def _wait(failures: int) -> None:
    time.sleep(min(0.3 * 2**failures, 10.0) * random.uniform(0.5, 1.0))
