"""The protocol of resumable uploads, tus 1.0.0: the rules for every request, and the content of its headers."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Refused, UnsupportedChecksum, UnsupportedTus, UnsupportedTusExtension
from server.http.problem_details import TUS_VERSION, problem_of

ADDRESS = "/v1/uploads"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
CHUNK_TYPE = "application/offset+octet-stream"
CHUNK_TYPES = frozenset({CHUNK_TYPE, "application/octet-stream"})
"""tus' own media type, and the usual one for bytes."""
DIGESTS = {"sha256": hashlib.sha256, "sha1": hashlib.sha1, "md5": hashlib.md5}
_PATH = re.compile(rf"^{ADDRESS}(/[^/]*)?/?$")
_METADATA, _CHECKSUM = "Upload-Metadata", "Upload-Checksum"
_VERSIONED = frozenset({"POST", "HEAD", "PATCH", "DELETE"})
_NOT_SUPPORTED = {
    "upload-concat": "this server joins no partial uploads (Upload-Concat); set parallelUploads to 1 in the client",
    "upload-defer-length": "this server reserves room for the whole upload at its start, so Upload-Defer-Length is not "
    "supported; send Upload-Length, or set uploadLengthDeferred to false in the client",
}


class TusProtocol:
    """ASGI middleware: `X-HTTP-Method-Override`, the version of tus, and a slash at the end of an address.

    They come before authentication and validation, as tus demands: a request of another version is not looked at.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as what it means, or respond with 412."""
        if scope["type"] != "http" or not _PATH.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"].rstrip("/")
        method = headers.get("x-http-method-override", scope["method"]).strip().upper()
        if method in _VERSIONED and headers.get("tus-resumable") != TUS_VERSION:
            error = UnsupportedTus(
                f"send the header Tus-Resumable: {TUS_VERSION}; this server supports no other version"
            )
            await problem_of(error, path=path, request_id=scope["state"]["request_id"])(scope, receive, send)
            return
        meant = {**scope, "method": method, "path": path, "raw_path": path.encode()}
        try:
            await self._app(meant, receive, send)
        finally:
            scope["route"] = meant.get("route")


@dataclass(frozen=True)
class Checksum:
    """Digest that a chunk must have."""

    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, header: str) -> "Checksum":
        """Parse `Upload-Checksum`. Raises UnsupportedChecksum, and Refused for a digest that is not base64."""
        algorithm, _, text = header.partition(" ")
        if algorithm not in DIGESTS:
            raise UnsupportedChecksum(
                f"Upload-Checksum: {algorithm!r} is not supported; use {', '.join(DIGESTS)}", header=_CHECKSUM
            )
        try:
            return cls(algorithm, base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise Refused(f"Upload-Checksum: the digest is not valid base64 ({error})", header=_CHECKSUM) from error


def refuse_other_extensions(headers: Headers) -> None:
    """Raise UnsupportedTusExtension for a header of an extension that is not in `EXTENSIONS`."""
    for name, message in _NOT_SUPPORTED.items():
        if name in headers:
            raise UnsupportedTusExtension(message, header=name)


def checked_metadata(header: str) -> str:
    """`Upload-Metadata`, unchanged. Raises Refused unless it is a list of `key base64`, each key once."""
    keys = set()
    for pair in header.split(",") if header.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not key.isascii() or not key.isprintable() or not key or key in keys:
            raise Refused(
                f"Upload-Metadata: {key!r} is not an ASCII key that occurs once; correct it", header=_METADATA
            )
        keys.add(key)
        try:
            base64.b64decode(value.strip(), validate=True)
        except ValueError:  # its base64 is damaged, or not ASCII
            raise Refused(
                f"Upload-Metadata: the value of {key!r} is not valid base64; encode it", header=_METADATA
            ) from None
    return header
