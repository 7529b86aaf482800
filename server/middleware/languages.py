"""Sentences of answers in the caller's language, by `Accept-Language` (RFC 9110, 12.5.4) and the catalogue of messages.

Services make and store sentences in English. Here, in one place, those of an answer are translated by their templates,
as a console does with them (decision 25); what else is in the answer, and every log, stays as it is.
"""

import json
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rvc_engine.translation.messages import ENGLISH, available, catalogue
from server.http.sse import accepted

SENTENCES = frozenset(
    {
        "advice",
        "basis_detail",
        "content_notice",
        "detail",
        "device_reason",
        "error",
        "fetch_error",
        "last_error",
        "message",
        "notes",
        "reason",
        "remarks",
        "waiting_for",
        "warnings",
    }
)
"""Fields with sentences, or lists of them."""
USERS_OWN = frozenset({"config", "labels", "values"})
"""Fields whose content is not the server's."""
MAX_BYTES = 4 << 20
"""Size of the largest answer that is translated: a report on thousands of files has as many sentences."""
MEDIA_TYPES = frozenset({"application/json", "application/problem+json"})
CONDITIONS = frozenset({b"if-match", b"if-none-match"})


class Languages:
    """ASGI middleware that translates the sentences of JSON answers.

    A translation has an entity tag of its own, that of the English answer with the language at its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        language = language_of(Headers(scope=scope).get("accept-language", ""))
        if language == ENGLISH:
            await self._app(scope, receive, _varying(send))
            return
        mark = f'-{language}"'.encode()
        headers = [(name, _unmarked(name, value, mark)) for name, value in scope["headers"]]
        inner = {**scope, "headers": headers}
        try:
            await self._app(inner, receive, _Translation(language, send))
        finally:
            scope["route"] = inner.get("route")


class _Translation:
    """The sending of one answer: a JSON one is held back until it is complete."""

    def __init__(self, language: str, send: Send) -> None:
        self._language, self._send = language, send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            is_json = headers.get("content-type", "").partition(";")[0].strip().lower() in MEDIA_TYPES
            if is_json or message["status"] == 304:
                self._start = _marked(message, self._language)
            else:
                await self._send(message)
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        if 0 < len(self._body) <= MAX_BYTES:
            self._body = await run_in_threadpool(translated_body, self._body, self._language)
            MutableHeaders(raw=start["headers"])["Content-Length"] = str(len(self._body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": self._body})


def language_of(accept_language: str) -> str:
    """The most preferred language of the header that has a catalogue; English without one."""
    weights = accepted(accept_language)
    names = sorted((name for name, weight in weights.items() if weight > 0 and name), key=lambda name: -weights[name])
    return next((found for found in map(available, names) if found is not None), ENGLISH)


def translated_body(body: bytes, language: str) -> bytes:
    """A JSON text with its sentences translated; the same bytes where there are none."""
    content = json.loads(body)
    shown = _translated(content, language)
    if shown == content:
        return body
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()


def _translated(content: Any, language: str, *, is_sentence: bool = False) -> Any:
    match content:
        case str() if is_sentence:
            return _sentence(content, language)
        case list():
            return [_translated(each, language, is_sentence=is_sentence) for each in content]
        case dict():
            return {
                key: value if _is_kept(key, value) else _translated(value, language, is_sentence=key in SENTENCES)
                for key, value in content.items()
            }
    return content


def _is_kept(key: str, value: Any) -> bool:
    """Whether a field stays as it is: `waiting_for` of jobs is a list of codes."""
    return key in USERS_OWN or (key == "waiting_for" and isinstance(value, list))


@lru_cache(4096)
def _sentence(text: str, language: str) -> str:
    return catalogue(language).text(text)


def _unmarked(name: bytes, value: bytes, mark: bytes) -> bytes:
    return value.replace(mark, b'"') if name in CONDITIONS else value


def _marked(start: Message, language: str) -> Message:
    start = {**start, "headers": list(start["headers"])}  # other requests may share it
    headers = MutableHeaders(raw=start["headers"])
    headers.add_vary_header("Accept-Language")
    headers["Content-Language"] = language
    if etag := headers.get("etag"):
        headers["ETag"] = f'{etag.removesuffix(chr(34))}-{language}"'
    return start


def _varying(send: Send) -> Send:
    async def send_varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": list(message["headers"])}
            media_type = Headers(raw=message["headers"]).get("content-type", "").partition(";")[0].strip().lower()
            if media_type in MEDIA_TYPES:
                MutableHeaders(raw=message["headers"]).add_vary_header("Accept-Language")
        await send(message)

    return send_varying
