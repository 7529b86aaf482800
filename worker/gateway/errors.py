"""Errors that cross the gateway, and which of them pass. Besides these, methods raise OSError of this machine's disks.

SettingsRefused    the worker cannot work with these settings, or not for this server
LeaseLost          the lease was replaced, or its job has ended or was deleted: write nothing more
SchemaChanged      the server has another version: it gives this worker no job
Unavailable        the server does not answer for now; it may have carried the call out
"""

from rvc_engine.workspace.disk import is_disk_unavailable
from server.errors import LeaseLost, SchemaChanged, SettingsRefused

__all__ = ["LeaseLost", "SchemaChanged", "SettingsRefused", "Unavailable", "first_line", "is_transient"]


class Unavailable(Exception):
    """The server, or what it stands on, does not answer for now. The same call may succeed later."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds`: wait that the server asks for; None: it did not ask."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: the server is unavailable, or a disk fails or is full."""
    return is_disk_unavailable(error) if isinstance(error, OSError) else isinstance(error, Unavailable)


def first_line(error: BaseException) -> str:
    """First line of an error's text, for logs."""
    return (str(error) or type(error).__name__).splitlines()[0]
