"""Entity tags of conditional requests (RFC 9110, 13): `If-Match` and `If-None-Match`."""

import hashlib
from typing import Annotated, Any

from fastapi import Header
from starlette.responses import Response

TAGGED: dict[str, Any] = {
    "headers": {"ETag": {"description": "Changes whenever the answer changes.", "schema": {"type": "string"}}}
}
"""In OpenAPI, the answer of `tagged_json`."""
UNCHANGED: dict[int, dict[str, Any]] = {304: {"description": "Unchanged since the ETag in `If-None-Match`", **TAGGED}}
IfNoneMatch = Annotated[str | None, Header(description="ETag of an earlier answer: 304 while nothing has changed.")]


def tagged_json(answer: str, edited: str = "", if_none_match: str | None = None) -> Response:
    """An answer that is JSON already, with a strong tag that changes with every byte of it; or 304.

    `edited`: first half of the tag, a hash of what people edit, which is all that `If-Match` compares: a running job
    changes all the time, and could otherwise hardly be edited. FastAPI would validate and serialize a model again.
    """
    whole = hashlib.sha256(answer.encode()).hexdigest()[:24]
    etag = f'"{edited}-{whole}"' if edited else f'"{whole}"'
    if matches_weakly(if_none_match, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return Response(answer, headers={"ETag": etag}, media_type="application/json")


def named_tags(header: str) -> set[str]:
    """The entity tags of a header, each with its quotes; `*` matches any."""
    return {tag.strip() for tag in header.split(",")} - {""}


def matches_weakly(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` contains the tag. Weak and strong tags compare equal."""
    if header is None:
        return False
    tags = {tag.removeprefix("W/") for tag in named_tags(header)}
    return "*" in tags or etag in tags


def matches_strongly(header: str | None, etag: str) -> bool:
    """Whether `If-Match` contains the strong tag, or is `*`, or missing. Weak tags match nothing."""
    return header is None or not {"*", etag}.isdisjoint(named_tags(header))


def named_tag_halves(header: str | None) -> set[str] | None:
    """The strong tags in an `If-Match` header, each up to its dash; None without a header, or for `*`.

    Tags of what changes all the time consist of a half for what people edit, and one for the rest.
    """
    if header is None:
        return None
    tags = named_tags(header)
    return None if "*" in tags else {tag.strip('"').partition("-")[0] for tag in tags if not tag.startswith("W/")}
