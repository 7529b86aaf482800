"""What can go wrong for a user of the server, as one tree.

    ClientError
    ├── ConnectionFailed    no answer from the server
    ├── ApiError            an answer that is an error, with the server's code and sentence
    │   ├── NotFound        404
    │   └── AuthError       401 and 403
    ├── BadUpload           the server has other bytes than were sent
    ├── BadDownload         a file that is not what the server said it was
    └── UsageError          something that the caller named does not exist or is not usable

Each message is one sentence for a person, with what to do where that is known.
"""

from dataclasses import dataclass


class ClientError(Exception):
    """Something expected went wrong; the message is for a person."""


class ConnectionFailed(ClientError):
    """No answer from the server."""


@dataclass(frozen=True)
class Problem:
    """The body of an error answer (RFC 9457), as far as we use it."""

    status: int
    code: str
    title: str
    detail: str
    retryable: bool = False
    pointers: tuple[tuple[str, str], ...] = ()
    """(detail, JSON pointer) of each field that is wrong."""
    request_id: str | None = None

    def sentence(self) -> str:
        """What the server says, with the fields it complains about."""
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
    """There is no such thing, or it is not yours."""


class AuthError(ApiError):
    """The token is missing, unknown, or allows too little."""


class BadUpload(ClientError):
    """What the server has is not what was sent."""


class BadDownload(ClientError):
    """What came is not what the server promised."""


class UsageError(ClientError):
    """A file, a folder or a name that the caller gave cannot be used."""
