"""Requests to a server on another machine: errors of the gateway in place of those of HTTP, and files in both ways."""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rvc_engine.environment.files import replace
from rvc_engine.environment.proxies import InvalidProxy, transport_for
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.workspace.checksum import sha256_of
from rvc_train.errors import ApiError, UsageError
from rvc_train.http.authorization import TokenAuth
from rvc_train.http.problems import UNEXPECTED_ANSWER, error_of
from rvc_train.http.transport import connection_failed, is_transient
from rvc_train.schemas.work.leases import FileReceived
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER, PROTOCOL, PROTOCOL_HEADER
from rvc_train.schemas.work.workers import WorkFile
from worker.gateway.errors import LeaseLost, SchemaChanged, SettingsRefused, Unavailable

A = TypeVar("A", bound=BaseModel)
Progress = Callable[[], object]

TIMEOUT = httpx.Timeout(60, connect=10)
CHUNK_BYTES = 1 << 20
PART_BYTES = 32 << 20
"""Most bytes of a file in one request, for proxies with a limit on bodies."""
ATTEMPTS = 5
"""Requests in a row that bring nothing of a file, until the server counts as unavailable."""


class Wait:
    """Requests with which the server waits for work, one at a time; another thread may give the present one up."""

    def __init__(self, client: httpx.Client) -> None:
        """`client`: for these requests alone."""
        self.client, self.seconds = client, 0.0
        self._socket: socket.socket | None = None

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore at each step: keeps the socket of a new connection."""
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")

    def give_up(self) -> None:
        """End the connection, so that nothing is claimed for a worker that has left."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class Connection:
    """Requests to one server. Callable from several threads."""

    def __init__(self, url: str, token: str) -> None:
        """Raises SettingsRefused for an address, a token or a proxy that cannot be used."""
        try:
            self.url = httpx.URL(url.strip().rstrip("/").removesuffix("/v1"))
            if self.url.scheme not in {"http", "https"} or not self.url.host:
                raise SettingsRefused(f"{url!r} is not a server address; use one such as https://voices.example.org")
            self._clients: list[httpx.Client] = []
            self._auth = TokenAuth(self.url, token, "")
            self._client = self.new_client()
        except (httpx.InvalidURL, InvalidProxy, UsageError, OSError) as error:
            raise SettingsRefused(f"the server {url!r} cannot be used: {error}") from error
        self._was_reached = threading.Event()

    def new_client(self) -> httpx.Client:
        """A client with connections of its own. Redirects are not followed: the token is for one server."""
        headers = {"User-Agent": "rvc-train", "Accept": "application/json", PROTOCOL_HEADER: str(PROTOCOL)}
        transport = transport_for(self.url)
        client = httpx.Client(base_url=self.url, headers=headers, auth=self._auth, timeout=TIMEOUT, transport=transport)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def ask(
        self,
        shape: type[A],
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: BaseModel | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        wait: "Wait | None" = None,
    ) -> A:
        """A request that is answered with JSON. `wait`: of a request with which the server may wait."""
        response = self.send(method, path, headers, body, parameters=parameters, wait=wait)
        try:
            return shape.model_validate_json(response.content)
        except ValidationError as error:
            raise Unavailable(f"{response.request.url} gave an answer that is not the server's: {error}") from error

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: BaseModel | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        content: Iterator[bytes] | bytes | None = None,
        wait: "Wait | None" = None,
    ) -> httpx.Response:
        """A request; raises the gateway's errors, and OSError for a full disk of the server."""
        given: dict[str, Any] = {}
        if body is not None:
            given = {"content": body.model_dump_json(), "headers": {"Content-Type": "application/json", **headers}}
        elif content is not None:
            given = {"content": content, "headers": {"Content-Type": "application/octet-stream", **headers}}
        client = self._client
        if wait is not None:
            client = wait.client
            given |= {"timeout": httpx.Timeout(60 + wait.seconds, connect=10), "extensions": {"trace": wait.trace}}
        try:
            response = client.request(method, f"/v1/worker{path}", params=parameters, **({"headers": headers} | given))
        except httpx.TransportError as error:
            raise self._no_answer(error) from error
        return self._checked(response)

    def _no_answer(self, error: httpx.TransportError) -> Exception:
        if not is_transient(error) and not self._was_reached.is_set():  # the certificate is not trusted
            return SettingsRefused(str(connection_failed(error, self.url)))
        return Unavailable(f"no answer from the server at {self.url} ({error or type(error).__name__})")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_redirect:
            to = response.headers.get("Location", "")
            raise SettingsRefused(
                f"{self.url} redirects to {to}, where the token is not sent; use that server's address"
            )
        if response.is_success:
            self._was_reached.set()
            return response
        response.read()
        raise _translated(error_of(response), is_of_lease=LEASE_KEY_HEADER in response.request.headers)

    # Files

    def download(
        self, path: str, headers: Mapping[str, str], file: WorkFile, target: Path, on_progress: Progress
    ) -> None:
        """Bring a file here, unless it is here; what arrived stays for the next try. Unavailable, OSError."""
        if is_file(target, file):
            return
        partial = target.with_name(f".{target.name}.{file.sha256[:16]}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        num_failures, fault = 0, Unavailable(f"the server ends {file.name} before its end")
        while (have := _size(partial)) != file.size_bytes:
            if num_failures >= ATTEMPTS:
                raise fault
            try:
                self._download_from(max(0, have), path, headers, file, partial, on_progress)
            except Unavailable as error:
                fault = error
            num_failures = 0 if _size(partial) > have else num_failures + 1
        on_progress()
        if sha256_of(partial) != file.sha256:
            partial.unlink()
            raise DamagedFile(f"{target.name} arrived with another content than the server has; it is fetched again")
        replace(partial, target)

    def _download_from(
        self, start: int, path: str, headers: Mapping[str, str], file: WorkFile, partial: Path, on_progress: Progress
    ) -> None:
        asked = dict(headers) | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with self._client.stream("GET", f"/v1/worker{path}", headers=asked, timeout=TIMEOUT) as response:
                self._checked(response)
                if file.size_bytes and start and response.status_code != httpx.codes.PARTIAL_CONTENT:
                    start = 0
                with partial.open("ab" if start else "wb") as output:
                    for data in response.iter_raw(CHUNK_BYTES):
                        if output.tell() + len(data) > file.size_bytes:
                            raise Unavailable(f"{file.name} is longer than the server announced")
                        output.write(data)
                        on_progress()
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    def upload(
        self, path: str, headers: Mapping[str, str], source: Path, size: int, sha256: str, on_progress: Progress
    ) -> None:
        """Send a file, from where the server has it. Unavailable; OSError, also for a full disk of the server."""
        num_failures = 0
        while True:
            found = self.ask(FileReceived, "GET", f"{path}/files/{sha256}", headers)
            if found.is_complete:
                return
            try:
                answer = self._send_part(path, headers, source, found.received_bytes, size, sha256, on_progress)
            except Unavailable:
                num_failures += 1
                if num_failures >= ATTEMPTS:
                    raise Unavailable(f"{source.name} cannot be sent: the server takes none of it") from None
                continue
            if answer.is_complete:
                return
            num_failures = 0

    def _send_part(
        self,
        path: str,
        headers: Mapping[str, str],
        source: Path,
        start: int,
        size: int,
        sha256: str,
        on_progress: Progress,
    ) -> FileReceived:
        length = max(0, min(PART_BYTES, size - start))

        def chunks() -> Iterator[bytes]:
            with source.open("rb") as file:
                file.seek(start)
                left = length
                while left and (data := file.read(min(left, CHUNK_BYTES))):
                    left -= len(data)
                    yield data
                    on_progress()

        response = self.send(
            "PUT",
            f"{path}/files/{sha256}",
            {**headers, "Content-Length": str(length)},
            parameters={"offset": start, "size": size},
            content=chunks(),
        )
        return FileReceived.model_validate_json(response.content)


class DamagedFile(Unavailable):
    """A file that was brought has another content than the server announced."""


class _Interrupted(Unavailable):
    """The server has another part of the file than was thought, or it arrived damaged."""


def _size(path: Path) -> int:
    """Bytes of a file; -1 for one that is not there."""
    return path.stat().st_size if path.exists() else -1


def is_file(path: Path, file: WorkFile) -> bool:
    """Whether a file is here as the server has it. OSError."""
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_of(path) == file.sha256


def _translated(error: ApiError, *, is_of_lease: bool) -> Exception:
    """The gateway's error for an error answer."""
    problem, message = error.problem, str(error)
    is_own = problem.code != UNEXPECTED_ANSWER  # not that of a proxy
    if problem.status in {401, 403}:
        return SettingsRefused(
            f"the server does not let this worker in: {message}. Give it a token with the scope work (--token, or "
            "RVC_TRAIN_TOKEN), which `rvc-train admin token create OWNER --scope work` makes on the server's machine"
        )
    if problem.status == 507:
        return OSError(errno.ENOSPC, f"the server's disk is full: {message}")
    if problem.status == 404 and is_own:
        return LeaseLost(message) if is_of_lease else SettingsRefused(message)
    if problem.status in {413, 422} and is_own:
        return Refused(message)
    return (
        _BY_CODE[problem.code](message)
        if problem.code in _BY_CODE
        else Unavailable(message, problem.retry_after_seconds)
    )


class Refused(Exception):
    """The server does not take what this worker sends: a fault of one of the two programs."""


_BY_CODE: dict[str, type[Exception]] = {
    "worker_version": SettingsRefused,
    "settings_refused": SettingsRefused,
    "schema_changed": SchemaChanged,
    "checkpoints_damaged": IncompatibleCheckpoint,
    "claim_lost": LeaseLost,
    "offset_mismatch": _Interrupted,
    "conflict": _Interrupted,
    "range_not_satisfiable": _Interrupted,
    "checksum_mismatch": _Interrupted,
}
