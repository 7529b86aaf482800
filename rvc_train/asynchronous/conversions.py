"""Requests for conversions: recordings rendered in a voice that was trained on the server."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from rvc_train.asynchronous.downloads import download
from rvc_train.asynchronous.streams import OnWait, follow
from rvc_train.asynchronous.transport import Transport
from rvc_train.asynchronous.uploads import send_file
from rvc_train.errors import ClientError, UsageError
from rvc_train.http.files import Progress
from rvc_train.schemas.voices.conversions import (
    ConversionEvent,
    ConversionOptions,
    ConversionPublic,
    ConversionResult,
    Save,
)

_DEFAULTS = ConversionOptions()


@dataclass
class _ResultFile:
    """A result as a file for download."""

    name: str
    url: str
    size: int
    sha256: str


class Conversions:
    """Conversions of the caller."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def submit(
        self,
        voice: str,
        recordings: Sequence[Path],
        options: ConversionOptions = _DEFAULTS,
        *,
        job_id: str | None = None,
        save: Save | None = None,
        progress: Progress | None = None,
    ) -> ConversionPublic:
        """Send recordings, and have them converted with a voice. Only options that were set are sent.

        `job_id`: version of the voice; None: its current one. `save`: a save of that job, in place of the finished
        voice. `progress`: called with (bytes sent, bytes in all) of all recordings.
        """
        total = sum(recording.stat().st_size for recording in recordings)
        sent = 0
        ids = []
        for recording in recordings:
            before = sent

            def report(done: int, _size: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + done, total)

            ids.append(await send_file(self._transport, recording, report, None, recording.name))
            sent += recording.stat().st_size
        body: dict[str, Any] = options.model_dump(mode="json", exclude_unset=True) | {"upload_ids": ids}
        body |= {key: value for key, value in (("job_id", job_id), ("save", save)) if value is not None}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        path = f"/v1/voices/{quote(voice, safe='')}/conversions"
        return await self._transport.call("POST", path, ConversionPublic, json=body, headers=headers)

    def list(
        self, *, voice: str | None = None, status: str | None = None, limit: int = 100
    ) -> AsyncIterator[ConversionPublic]:
        """Conversions, newest first, page by page; for an administrator those of everyone."""
        filters = {"voice": voice, "status": status}
        params: dict[str, Any] = {"limit": limit} | {key: value for key, value in filters.items() if value}
        return self._transport.pages("/v1/conversions", ConversionPublic, params)

    async def get(self, conversion_id: str) -> ConversionPublic:
        """One conversion."""
        return await self._transport.get(f"/v1/conversions/{conversion_id}", ConversionPublic)

    async def cancel(self, conversion_id: str) -> ConversionPublic:
        """Cancel a conversion. Raises ApiError when it has succeeded or failed."""
        return await self._transport.call("POST", f"/v1/conversions/{conversion_id}/cancel", ConversionPublic)

    async def delete(self, conversion_id: str) -> None:
        """Delete a conversion with its recordings and results; one that runs ends."""
        await self._transport.send("DELETE", f"/v1/conversions/{conversion_id}")

    async def follow(self, conversion_id: str, on_wait: OnWait | None = None) -> AsyncGenerator[ConversionEvent, None]:
        """Events as they happen until the end, `progress` between them, through restarts of the server."""
        stream = follow(self._transport.http, f"/v1/conversions/{conversion_id}/events", None, None, on_wait)
        async with aclosing(stream):
            async for message in stream:
                try:
                    yield ConversionEvent.model_validate_json(message.data)
                except ValidationError as error:
                    raise ClientError(f"the server sent an event that this client cannot read: {error}") from error

    async def wait(self, conversion_id: str, on_wait: OnWait | None = None) -> ConversionPublic:
        """Wait for the end of a conversion, and return it."""
        async for _ in self.follow(conversion_id, on_wait):
            pass
        return await self.get(conversion_id)

    async def download(
        self, conversion_id: str, result: ConversionResult, path: Path, progress: Progress | None = None
    ) -> Path:
        """Download a result to a path, resuming an interrupted download and checking the sha256; returns the path.

        Raises UsageError for a recording that was not converted.
        """
        if result.sha256 is None or result.size_bytes is None:
            raise UsageError(f"{result.input} was not converted: {result.error}")
        url = f"/v1/conversions/{conversion_id}/audio?name={quote(result.name, safe='')}"
        offered = _ResultFile(result.name, url, result.size_bytes, result.sha256)
        return await download(self._transport.http, offered, path, progress)
