"""Limits in memory for each caller: requests per minute as token buckets, and things open at the same time."""

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.errors import TooManyRequests

MAX_BUCKETS = 10_000
"""Number of keys with a bucket of their own. Further ones share one, so that none drops another's."""
_FILL_SECONDS = 60.0
"""Time in which an empty bucket becomes full. A full one means the same as none, and is dropped."""
_SHARED = ""
RETRY_SECONDS = 10
"""Wait that callers with too much open at the same time are asked for."""


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
        """In the order of their last use."""

    def take(self, key: str, amount: float = 1) -> float:
        """Take `amount` requests; returns 0 when allowed, else the seconds until they will be."""
        wait = self.wait(key, amount)
        if not wait and self._per_minute is not None:
            self._bucket(key).left -= amount
        return wait

    def give(self, key: str, amount: float = 1) -> None:
        """Give back what was taken."""
        if self._per_minute is not None:
            bucket = self._bucket(key)
            bucket.left = min(self._per_minute, bucket.left + amount)

    def wait(self, key: str, amount: float = 1) -> float:
        """Seconds until `amount` requests are allowed; takes none."""
        if self._per_minute is None:
            return 0
        return max(0.0, (amount - self._bucket(key).left) * _FILL_SECONDS / self._per_minute)

    def _bucket(self, key: str) -> _Bucket:
        assert self._per_minute is not None  # noqa: S101 - checked by the callers
        now = self._monotonic()
        if key not in self._buckets:
            while self._buckets and next(iter(self._buckets.values())).filled_at <= now - _FILL_SECONDS:
                self._buckets.popitem(last=False)
            if len(self._buckets) >= MAX_BUCKETS:
                key = _SHARED
        bucket = self._buckets.setdefault(key, _Bucket(self._per_minute, now))
        self._buckets.move_to_end(key)
        bucket.left = min(self._per_minute, bucket.left + (now - bucket.filled_at) * self._per_minute / _FILL_SECONDS)
        bucket.filled_at = now
        return bucket


class OpenLimit:
    """Limit of the things that each caller has open at the same time. For use on the event loop only."""

    def __init__(self, most: int, refusal: str) -> None:
        """`refusal`: message for a caller who has `most` of them."""
        self._most, self._refusal = most, refusal
        self._num_open: Counter[str] = Counter()

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """Count one more while the block runs. Raises TooManyRequests."""
        if self._num_open[caller] >= self._most:
            raise TooManyRequests(self._refusal, RETRY_SECONDS)
        self._num_open[caller] += 1
        try:
            yield
        finally:
            self._num_open[caller] -= 1
            if not self._num_open[caller]:
                del self._num_open[caller]


def network_of(address: str) -> str:
    """The /64 network of an IPv6 address, because one host has 2**64 addresses; others as they are."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, ipaddress.IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
