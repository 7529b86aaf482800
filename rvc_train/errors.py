"""Errors of the client, as one tree.

    ClientError
    ├── ConnectionFailed    no answer from the server
    ├── ApiError            an error answer, with the server's code and message
    │   ├── NotFound        404
    │   └── AuthError       401 and 403
    ├── BadUpload           the server stored other bytes than were sent
    ├── BadDownload         a file with other bytes than the server announced
    └── UsageError          a file, folder or name given by the caller that does not exist or is not usable

Each message is one sentence for a person, with what to do where that is known.
"""

from dataclasses import dataclass


class ClientError(Exception):
    """Expected error; the message is for a person."""


class ConnectionFailed(ClientError):
    """No answer from the server."""


@dataclass(frozen=True)
class Problem:
    """Body of an error answer (RFC 9457), as far as the client uses it."""

    status: int
    code: str
    title: str
    detail: str
    retryable: bool = False
    pointers: tuple[tuple[str, str], ...] = ()
    """(detail, place) of each fault: JSON pointer of a field, or name of a parameter or header."""
    request_id: str | None = None
    retry_after_seconds: float | None = None
    """Seconds in the `Retry-After` header; None without one."""

    def sentence(self) -> str:
        """The server's message, with the fields at fault."""
        text = self.detail or self.title or f"HTTP status {self.status}"
        fields = [f"{_dotted(pointer)}: {detail}" for detail, pointer in self.pointers if detail not in text]
        return f"{text} ({'; '.join(fields)})" if fields else text


def _dotted(pointer: str) -> str:
    """`/config/batch_size` as `config.batch_size`."""
    return pointer.lstrip("#/").replace("/", ".")


class ApiError(ClientError):
    """The server answered with an error."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence())
        self.problem = problem


class NotFound(ApiError):
    """The requested thing does not exist, or belongs to another owner."""


class AuthError(ApiError):
    """The token is missing, unknown, or lacks the necessary scope."""


class BadUpload(ClientError):
    """The server stored other bytes than were sent."""


class BadDownload(ClientError):
    """The received bytes are not those that the server announced."""


class UsageError(ClientError):
    """A file, a folder or a name given by the caller cannot be used."""
