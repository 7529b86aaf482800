"""Clock of the server's rows."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time in UTC, with its zone."""
    return datetime.now(UTC)
