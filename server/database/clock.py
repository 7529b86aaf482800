"""The clock of the server's rows: always with its zone."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The present time with its zone."""
    return datetime.now(UTC)
