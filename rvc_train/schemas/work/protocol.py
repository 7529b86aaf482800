"""Version of what workers and the server exchange, and the headers of every request."""

PROTOCOL = 1
"""To be raised with each change of the exchange. Both sides work with one version before and one after their own."""
PROTOCOL_HEADER = "Worker-Protocol"
WORKER_KEY_HEADER = "Worker-Key"
LEASE_KEY_HEADER = "Lease-Key"
MAX_WAIT_SECONDS = 25.0
"""Longest wait of a claim for a job: proxies end requests without an answer after 30 to 60 seconds."""
MAX_EVENTS = 500
"""Events in a batch."""


def is_compatible(version: int) -> bool:
    """Whether this version of the exchange works with the one of the other side."""
    return abs(version - PROTOCOL) <= 1
