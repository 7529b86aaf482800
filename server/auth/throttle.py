"""Throttle of failed authentication: a limit for each address, and lines in the audit trail."""

from starlette.concurrency import run_in_threadpool

from server.auth.audit import AuditTrail
from server.errors import TooManyRequests, Unauthorized
from server.http.rate_limit import RateLimit

LINES_PER_MINUTE = 60
"""Of the audit trail, from all addresses together: guessing from many of them must not fill the disk."""


class AuthThrottle:
    """Counts failures of one server."""

    def __init__(self, per_minute: float | None, audit: AuditTrail) -> None:
        """`per_minute`: for each address; None: as many as they like."""
        self._limit = RateLimit(per_minute)
        self._lines = RateLimit(LINES_PER_MINUTE)
        self._audit = audit

    async def reject(self, address: str, path: str, request_id: str) -> Unauthorized:
        """The error for someone whose token opens nothing. Raises TooManyRequests when that came too often."""
        wait = self._limit.take(_network(address))
        if wait:
            raise TooManyRequests("too many tokens that open nothing came from your address; wait a while", wait)
        if not self._lines.take("all"):
            await run_in_threadpool(self._audit.record_rejected_token, address, path, request_id)
        return Unauthorized("the token is not one of this server's, or is revoked or expired")


def _network(address: str) -> str:
    """An IPv6 host has 2**64 addresses of its own: they count as one."""
    return ":".join(address.split(":")[:4]) if ":" in address else address
