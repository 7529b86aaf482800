"""Requests for base weights of one's own, which training starts from."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from rvc_train.asynchronous.transport import Transport
from rvc_train.asynchronous.uploads import send_file, upload_cache
from rvc_train.errors import UsageError
from rvc_train.http.files import Progress
from rvc_train.schemas.administration import BaseWeightsPublic

CHECK_TIMEOUT = httpx.Timeout(900, connect=10)
"""The server downloads the files, where they are addresses, and reads them before it answers."""


class BaseWeights:
    """Base weights of the caller."""

    def __init__(self, transport: Transport, memory: Path | None = None) -> None:
        """`memory`: folder for the addresses of unfinished uploads; None: one in the user's cache folder."""
        self._transport, self._memory = transport, memory

    async def add(
        self,
        name: str,
        generator: Path | str | None = None,
        discriminator: Path | str | None = None,
        progress: Progress | None = None,
    ) -> BaseWeightsPublic:
        """Add base weights from files, or addresses as text that the server downloads from; it checks them.

        `progress`: called with (bytes sent, bytes in all) for each file.
        """
        body: dict[str, object] = {"name": name}
        for role, source in (("generator", generator), ("discriminator", discriminator)):
            if isinstance(source, Path):
                report = progress or (lambda done, total: None)
                cache = self._memory or upload_cache()
                body[role] = {"upload_id": await send_file(self._transport, source, report, cache)}
            elif source is not None:
                body[role] = {"url": source}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return await self._transport.call(
            "POST", "/v1/base-weights", BaseWeightsPublic, json=body, headers=headers, timeout=CHECK_TIMEOUT
        )

    def list(self) -> AsyncIterator[BaseWeightsPublic]:
        """All base weights of the caller, newest first, with what they fit; for an administrator those of everyone."""
        return self._transport.pages("/v1/base-weights", BaseWeightsPublic, {"limit": 100})

    async def get(self, base_weights_id: str) -> BaseWeightsPublic:
        """One set of base weights."""
        return await self._transport.get(f"/v1/base-weights/{base_weights_id}", BaseWeightsPublic)

    async def delete(self, base_weights_id: str) -> None:
        """Delete base weights. Raises ApiError while a job that has not ended begins with them."""
        await self._transport.send("DELETE", f"/v1/base-weights/{base_weights_id}")

    async def find(self, wanted: str) -> BaseWeightsPublic:
        """The base weights with a name or an id. Raises UsageError."""
        names = []
        async for found in self.list():
            if wanted in {found.name, found.id}:
                return found
            names.append(found.name)
        raise UsageError(f"there are no base weights {wanted!r}; there are: {', '.join(names) or 'none'}")
