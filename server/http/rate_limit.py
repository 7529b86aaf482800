"""Rate limits: token buckets in memory, one per token or address."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_BUCKETS = 10_000
"""Maximum number of buckets; beyond it the least recently used one is dropped."""


@dataclass
class _Bucket:
    left: float
    filled_at: float


class RateLimit:
    """A token bucket for each key: requests per minute, of which a minute's worth may come at once."""

    def __init__(self, per_minute: float | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` None: no limit."""
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, amount: float = 1) -> float:
        """Take `amount` requests; returns 0 when allowed, else the seconds until they will be."""
        if self._per_minute is None:
            return 0
        bucket = self._bucket(key)
        if bucket.left >= amount:
            bucket.left -= amount
            return 0
        return (amount - bucket.left) * 60 / self._per_minute

    def _bucket(self, key: str) -> _Bucket:
        assert self._per_minute is not None  # noqa: S101 - checked by `take`
        now = self._monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(self._per_minute, now))
        self._buckets.move_to_end(key)
        bucket.left = min(self._per_minute, bucket.left + (now - bucket.filled_at) * self._per_minute / 60)
        bucket.filled_at = now
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket
