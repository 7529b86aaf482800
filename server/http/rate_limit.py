"""How often someone may ask: token buckets in memory, by token or by address."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_BUCKETS = 10_000
"""More callers than that at once, and the one that was silent longest is forgotten."""


@dataclass
class _Bucket:
    left: float
    filled_at: float


class RateLimit:
    """So many requests a minute for each key, all of them at once if they were saved up."""

    def __init__(self, per_minute: float | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` None: no limit."""
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, amount: float = 1) -> float:
        """Take one; 0 when that was allowed, else the seconds after which it will be."""
        if self._per_minute is None:
            return 0
        bucket = self._bucket(key)
        if bucket.left >= amount:
            bucket.left -= amount
            return 0
        return (amount - bucket.left) * 60 / self._per_minute

    def _bucket(self, key: str) -> _Bucket:
        assert self._per_minute is not None  # noqa: S101 - `take` looked
        now = self._monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(self._per_minute, now))
        self._buckets.move_to_end(key)
        bucket.left = min(self._per_minute, bucket.left + (now - bucket.filled_at) * self._per_minute / 60)
        bucket.filled_at = now
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket
