# Generated from rvc_train/asynchronous/voices.py by `make synchronous`: edit that file.
"""Requests for voices: versions, the current one, links, and bundles that move a voice between servers."""

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from rvc_engine.environment.files import replace, unlink
from rvc_train.errors import BadDownload, ConnectionFailed
from rvc_train.http.files import Progress
from rvc_train.http.problems import error_of
from rvc_train.schemas.voices.links import VoiceLinkCreate, VoiceLinkCreated, VoiceLinkPublic
from rvc_train.schemas.voices.voices import VoiceDetail, VoicePublic, VoiceVersionPublic
from rvc_train.synchronous.transport import Transport
from rvc_train.synchronous.uploads import send_file, upload_cache

IMPORT_TIMEOUT = httpx.Timeout(900, connect=10)
"""The server unpacks and checks a bundle before it answers."""


class Voices:
    """Voices of the caller; for an administrator with `owner` those of another."""

    def __init__(self, transport: Transport, memory: Path | None = None) -> None:
        """`memory`: folder for the addresses of unfinished uploads; None: one in the user's cache folder."""
        self._transport, self._memory = transport, memory

    def list(
        self,
        *,
        name: str | None = None,
        search: str | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str | None = None,
    ) -> Iterator[VoicePublic]:
        """Voices that match all given filters, by their newest jobs; for an administrator those of everyone."""
        params: dict[str, Any] = {"limit": 100, "name": name, "search": search, "owner": owner}
        params |= {f"label.{key}": value for key, value in (labels or {}).items()}
        given = {key: value for key, value in params.items() if value is not None}
        return self._transport.pages("/v1/voices", VoicePublic, given)

    def get(self, name: str, *, owner: str | None = None) -> VoiceDetail:
        """One voice, with its newest versions."""
        return self._transport.get(_path(name), VoiceDetail, _of(owner))

    def versions(self, name: str, *, owner: str | None = None) -> Iterator[VoiceVersionPublic]:
        """All versions of a voice, newest first."""
        return self._transport.pages(f"{_path(name)}/versions", VoiceVersionPublic, {"limit": 100} | _of(owner))

    def update(
        self, name: str, changes: Mapping[str, Any], *, if_match: str | None = None, owner: str | None = None
    ) -> VoiceDetail:
        """Change a voice. `changes`: `notes`, `labels` (None removes one), `current` (a job's id, or None).

        `if_match`: ETag of an answer; notes, labels and the choice must not have changed since.
        """
        headers = {} if if_match is None else {"If-Match": if_match}
        request: dict[str, Any] = {"json": dict(changes), "headers": headers, "params": _of(owner)}
        return self._transport.call("PATCH", _path(name), VoiceDetail, **request)

    def delete(self, name: str, *, owner: str | None = None) -> None:
        """Delete a voice: all of its jobs with their files, and its links."""
        self._transport.send("DELETE", _path(name), params=_of(owner))

    # Links

    def share(self, name: str, link: VoiceLinkCreate | None = None, *, owner: str | None = None) -> VoiceLinkCreated:
        """Make a link, with which anyone can listen to the voice without a token. Its address is shown this once."""
        body = (link or VoiceLinkCreate()).model_dump(mode="json", exclude_unset=True)
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        request: dict[str, Any] = {"json": body, "headers": headers, "params": _of(owner)}
        return self._transport.call("POST", f"{_path(name)}/links", VoiceLinkCreated, **request)

    def links(self, name: str, *, owner: str | None = None) -> Iterator[VoiceLinkPublic]:
        """Links of a voice, newest first, without their secrets."""
        return self._transport.pages(f"{_path(name)}/links", VoiceLinkPublic, {"limit": 100} | _of(owner))

    def unshare(self, name: str, link_id: str, *, owner: str | None = None) -> None:
        """Delete a link, whose address ends at once."""
        self._transport.send("DELETE", f"{_path(name)}/links/{quote(link_id, safe='')}", params=_of(owner))

    # Bundles

    def export(
        self,
        name: str,
        target: Path,
        *,
        job_id: str | None = None,
        with_recordings: bool = False,
        progress: Progress | None = None,
        owner: str | None = None,
    ) -> Path:
        """Download a voice as one zip, which `take_in` takes in on another server; return `target`.

        `job_id`: the version; None: the current one. Raises BadDownload when the zip arrives incomplete.
        """
        params = {"dataset": "true" if with_recordings else "false"} | _of(owner)
        params |= {} if job_id is None else {"job_id": job_id}
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            _receive(self._transport.http, f"{_path(name)}/bundle.zip", params, part, progress)
            replace(part, target)
        finally:
            if part.exists():
                unlink(part)
        return target

    def take_in(self, bundle: Path, name: str | None = None, progress: Progress | None = None) -> VoiceDetail:
        """Send a bundle to the server, which checks it and makes a version of it. `name`: of the voice there."""
        report = progress or (lambda done, total: None)
        body = {"upload_id": send_file(self._transport, bundle, report, self._memory or upload_cache())}
        body |= {} if name is None else {"name": name}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return self._transport.call(
            "POST", "/v1/voices", VoiceDetail, json=body, headers=headers, timeout=IMPORT_TIMEOUT
        )


def _receive(http: httpx.Client, url: str, params: dict[str, str], part: Path, progress: Progress | None) -> None:
    report, done, size = progress or (lambda done, total: None), 0, 0
    try:
        with http.stream("GET", url, params=params, headers={"Accept-Encoding": "identity"}) as response:
            if response.is_error:
                response.read()
                raise error_of(response)
            size = int(response.headers["Content-Length"])
            with part.open("wb") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
                    done += len(chunk)
                    report(done, size)
                file.flush()
                os.fsync(file.fileno())
    except httpx.TransportError as error:
        raise ConnectionFailed(
            f"the connection was lost while the voice was downloaded ({error}); run the same command again"
        ) from error
    if done != size:
        raise BadDownload(f"the bundle ended too early: {done} of {size} bytes; download it again")


def _path(name: str) -> str:
    return f"/v1/voices/{quote(name, safe='')}"


def _of(owner: str | None) -> dict[str, str]:
    return {} if owner is None else {"owner": owner}
