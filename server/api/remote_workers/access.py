"""Checks of every request of a worker: the version of the exchange, and the key of what it is about."""

from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, Header

from rvc_train.schemas.work.protocol import (
    LEASE_KEY_HEADER,
    PROTOCOL,
    PROTOCOL_HEADER,
    WORKER_KEY_HEADER,
    is_compatible,
)
from server.errors import WorkerVersionRefused
from server.http.prefix import RouterUnderV1
from server.http.problem_details import documented

LeaseKey = Annotated[
    str, Header(alias=LEASE_KEY_HEADER, max_length=100, description="Key of the lease, from the answer to its claim.")
]
WorkerKey = Annotated[
    str, Header(alias=WORKER_KEY_HEADER, max_length=100, description="Key of the worker, from its registration.")
]


async def _check_version(  # a coroutine, which needs no thread
    protocol: Annotated[
        int, Header(alias=PROTOCOL_HEADER, ge=0, le=10_000, description="Version of the exchange of the worker.")
    ],
) -> None:
    if not is_compatible(protocol):
        raise WorkerVersionRefused(
            f"this worker exchanges in version {protocol}, and this server, rvc-train {version('rvc-train')}, in "
            f"version {PROTOCOL}; versions that are one apart go together. Install rvc-train "
            f"{version('rvc-train')} on the worker's machine; where the worker is newer, upgrade the server first"
        )


def worker_router(prefix: str) -> RouterUnderV1:
    """A router under `/v1/worker`, whose routes refuse workers of other versions."""
    return RouterUnderV1(
        prefix=f"/worker{prefix}",
        tags=["worker"],
        dependencies=[Depends(_check_version)],
        responses=documented(409),
    )
