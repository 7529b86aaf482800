"""Pollers of the list of jobs and of a running job, once a second each, beside a follower and an upload. JSON lines.

    python -m benchmarks.pollers --pollers 200 --seconds 60
    python -m benchmarks.pollers --pollers 50 --seconds 60 --no-etags

Server and worker are processes of their own, the engine follows a script. Two jobs wait. The pollers use 20 tokens of
one owner, keep their connections, and send the ETag of the last response as the page and the client do.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service_load import NO_OUTPUT, Instance, print_line, serving

TOKEN = "the-first-token-of-all"  # noqa: S105 - of a server for this benchmark alone
NUM_TOKENS = 20
UPLOAD_BYTES = 64 * 2**20


@dataclass
class Polling:
    """Measurements of the pollers and their neighbours, in seconds."""

    statuses: Counter[int | str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    """Time to answer each poll."""
    probes: list[float] = field(default_factory=list)
    """Time to answer each `/livez`."""
    delays: list[float] = field(default_factory=list)
    """Time from an event to its arrival at the follower."""
    num_uploads: int = 0


class Connection:
    """A connection that is kept, with as little work in this process as possible."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._host, self._port, self._token = host, port, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, etag: str | None = None) -> tuple[int, str | None, bytes]:
        """Status, ETag and body."""
        return await self.ask("GET", path, {} if etag is None else {"If-None-Match": etag})

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, str | None, bytes]:
        """Status, ETag and body of the answer. `body`: JSON."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        sent = {"Host": self._host, "Authorization": f"Bearer {self._token}", **headers}
        if body is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        received = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        content = await reader.readexactly(int(received.get("content-length", 0)))
        return int(lines[0].split()[1]), received.get("etag"), content

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def poll(
    url: str, tokens: list[str], job_id: str, *, num_pollers: int, seconds: float, has_etags: bool = True
) -> Polling:
    """Poll as the module's docstring describes, with as many uploads, one after the other, as there is time for."""
    result = Polling()
    parts = httpx.URL(url)
    end = time.monotonic() + seconds

    async def poller(number: int) -> None:
        path = "/v1/jobs" if number % 2 == 0 else f"/v1/jobs/{job_id}"
        connection = Connection(parts.host, parts.port or 80, tokens[number // 2 % len(tokens)])
        await asyncio.sleep(number / num_pollers)
        etag = None
        while time.monotonic() < end:
            began = time.monotonic()
            try:
                status, new_etag, _ = await connection.get(path, etag)
            except (OSError, asyncio.IncompleteReadError) as error:
                result.statuses[type(error).__name__] += 1
                return
            etag = new_etag if has_etags else None
            result.statuses[status] += 1
            result.waits.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
        connection.close()

    async def probe() -> None:
        connection = Connection(parts.host, parts.port or 80, tokens[0])
        while time.monotonic() < end:
            began = time.monotonic()
            await connection.get("/livez")
            result.probes.append(time.monotonic() - began)
            await asyncio.sleep(0.1)
        connection.close()

    neighbours: list[Callable[..., Awaitable[None]]] = [_follow, _upload]
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {tokens[0]}"}, timeout=60) as http:
        beside = [asyncio.create_task(each(http, job_id, result)) for each in neighbours]  # type: ignore[arg-type]
        await asyncio.gather(probe(), *(poller(number) for number in range(num_pollers)))
        for task in beside:
            task.cancel()
        for outcome in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
    return result


async def _follow(http: httpx.AsyncClient, job_id: str, result: Polling) -> None:
    first = (await http.get(f"/v1/jobs/{job_id}")).json()["last_event_seq"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(first)}
    async with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and "created_at" in line:
                at = datetime.fromisoformat(json.loads(line.removeprefix("data: "))["created_at"])
                result.delays.append(time.time() - at.timestamp())


async def _upload(http: httpx.AsyncClient, _job_id: str, result: Polling) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    piece = os.urandom(2**20)

    async def pieces() -> Any:
        for _ in range(UPLOAD_BYTES // len(piece)):
            yield piece
            await asyncio.sleep(0.05)  # 20 MB/s at most: a fast line, and not all of this machine

    while True:
        created = await http.post("/v1/uploads", headers=tus | {"Upload-Length": str(UPLOAD_BYTES)})
        more = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        address = created.headers["location"]
        sent = await http.patch(address, content=pieces(), headers=tus | more)
        sent.raise_for_status()
        (await http.delete(address, headers=tus)).raise_for_status()
        result.num_uploads += 1


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; nan without values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


@contextlib.contextmanager
def busy_server(folder: Path) -> Iterator[tuple[str, list[str], str, Any]]:
    """A server with tokens, a running job and two that wait: its address, the tokens, the running job, its process."""
    instance = Instance.make(folder)
    script = folder / "script.json"
    script.write_text(json.dumps([["train", 1_000_000, 0.5, 1000]]))
    engine = [sys.executable, str(Path(__file__).parents[1] / "tests" / "worker" / "scripted_engine.py"), str(script)]
    variables = {"RVC_TRAIN_DATA_FOLDER": str(folder), "RVC_TRAIN_ENGINE_COMMAND": json.dumps(engine)}
    environment = os.environ | variables | {"RVC_TRAIN_DEVICE": "cpu"}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with serving(folder, TOKEN=TOKEN) as server, httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
        body = {"owner": "local", "scopes": ["read", "submit"]}
        tokens = [http.post("/v1/tokens", json=body).json()["secret"] for _ in range(NUM_TOKENS)]
        jobs = [instance.submit().id for _ in range(3)]
        worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, **NO_OUTPUT)  # type: ignore[call-overload]
        try:
            while http.get(f"/v1/jobs/{jobs[0]}").json()["step"] is None:
                time.sleep(0.1)
            yield server.url, tokens, jobs[0], server
        finally:
            worker.terminate()
            worker.wait()


def main() -> None:
    """Print the figures as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--no-etags", action="store_true", help="poll as programs that send no If-None-Match")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, busy_server(Path(folder)) as (url, tokens, job_id, server):
        before, began = server.cpu_seconds, time.monotonic()
        numbers = {"num_pollers": options.pollers, "seconds": options.seconds, "has_etags": not options.no_etags}
        found = asyncio.run(poll(url, tokens, job_id, **numbers))
        passed = time.monotonic() - began
        cores = (server.cpu_seconds - before) / passed
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    notes = f"{options.pollers} pollers, statuses {dict(found.statuses)}, {found.num_uploads} uploads, load {load}"
    print_line("polls p99", 1000 * percentile(found.waits, 0.99), "ms", notes, p50=1000 * percentile(found.waits, 0.5))
    print_line("polls a second", len(found.waits) / passed, "1/s", notes, cores=round(cores, 2))
    print_line(
        "/livez p99", 1000 * percentile(found.probes, 0.99), "ms", notes, p50=1000 * percentile(found.probes, 0.5)
    )
    delays = found.delays or [float("nan")]
    print_line("events' delay", max(delays), "s", notes, median=statistics.median(delays))


if __name__ == "__main__":
    main()
