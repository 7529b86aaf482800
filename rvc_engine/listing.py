"""Shortening of long lists of names for messages. No torch."""

from collections.abc import Sequence

MAX_NAMED = 3
"""Default number of names in a message."""


def shorten(texts: Sequence[str], limit: int = MAX_NAMED, separator: str = ", ", rest: str = " and {} more") -> str:
    """Join the first `limit` texts; if there are more, `rest` follows with their number instead of `{}`."""
    more = rest.format(len(texts) - limit) if len(texts) > limit else ""
    return separator.join(texts[:limit]) + more
