"""Idle workers on other machines: the server's CPU while each has a claim open and no job comes. JSON lines.

    python -m benchmarks.open_claims --workers 10 100 1000 --seconds 60

Each worker is a connection of its own that claims again as soon as its last claim was answered without a job.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service_load import AUTHORIZED, ServerProcess, print_line, serving
from rvc_train.schemas.work.protocol import MAX_WAIT_SECONDS, PROTOCOL, PROTOCOL_HEADER, WORKER_KEY_HEADER
from rvc_train.schemas.work.workers import JobClaim, WorkerRegistration

BODY = JobClaim(wait_seconds=MAX_WAIT_SECONDS).model_dump()


async def register(http: httpx.AsyncClient, number: int) -> tuple[str, dict[str, str]]:
    """Register a worker; the path of its claims, and the header with its key."""
    worker = WorkerRegistration(
        name=f"worker {number}",
        pid=number,
        host="here",
        device="cuda:0",
        device_name="made up",
        version="1",
        heartbeat_seconds=5,
        serves_conversions=False,
        num_gpus=1,
    )
    response = await http.post("/v1/worker/workers", json=worker.model_dump())
    registered: dict[str, Any] = response.raise_for_status().json()
    return f"/v1/worker/workers/{registered['worker_id']}/claims", {WORKER_KEY_HEADER: registered["key"]}


async def claim_again_and_again(http: httpx.AsyncClient, path: str, key: dict[str, str]) -> None:
    """Claim until cancelled. Raises httpx.HTTPStatusError for an error answer."""
    while True:
        (await http.post(path, json=BODY, headers=key)).raise_for_status()


async def measure(server: ServerProcess, num_workers: int, seconds: float) -> float:
    """Share of a core that the server takes once all claims are open."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = AUTHORIZED | {PROTOCOL_HEADER: str(PROTOCOL)}
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers, limits=limits, timeout=120) as http,
        asyncio.TaskGroup() as group,
    ):
        workers = [await register(http, number) for number in range(num_workers)]
        claims = [group.create_task(claim_again_and_again(http, *worker)) for worker in workers]
        await asyncio.sleep(MAX_WAIT_SECONDS)  # until the first of them are renewed
        begun, before = time.monotonic(), sum(server.process.cpu_times()[:2])
        await asyncio.sleep(seconds)
        share = (sum(server.process.cpu_times()[:2]) - before) / (time.monotonic() - begun)
        for claim in claims:
            claim.cancel()
    return share


def main() -> None:
    """Print the figures as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    for number in options.workers:
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
            share = asyncio.run(measure(server, number, options.seconds))
        print_line(f"open claims: {number} idle workers", share, "cores", f"SQLite, {options.seconds:g} s")


if __name__ == "__main__":
    main()
