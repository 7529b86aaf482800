"""Long lists of names, shortened for messages. No torch."""

from collections.abc import Sequence

MAX_NAMED = 3
"""Names given in one sentence."""


def shorten(texts: Sequence[str], limit: int = MAX_NAMED, separator: str = ", ", rest: str = " and {} more") -> str:
    """The first `limit` texts joined; `rest` follows where there are more, with their number in place of `{}`."""
    more = rest.format(len(texts) - limit) if len(texts) > limit else ""
    return separator.join(texts[:limit]) + more
