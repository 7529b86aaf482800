"""Busy workers on other machines: claims, heartbeats and reports over HTTP, with a long queue. JSON lines.

    python -m benchmarks.busy_workers --database postgresql --queued 100000 --ended 1000000 --workers 10 100 1000

Each worker is a connection of its own that claims a job, sends heartbeats and reports while it runs, ends it
after `--job-seconds`, and claims the next. The first claims are spread over the time of a job, so that the later ones
are too; what is measured begins after it. The jobs fail for good.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from benchmarks.growth import databases, filled
from benchmarks.pollers import Connection
from benchmarks.service_load import TOKEN, ServerProcess, percentiles, print_line, serving
from rvc_engine.errors import FailureCode
from rvc_engine.events import Metric, Progress
from rvc_train.schemas.work.leases import EventsReport, OutcomeReport
from rvc_train.schemas.work.protocol import LEASE_KEY_HEADER, PROTOCOL, PROTOCOL_HEADER, WORKER_KEY_HEADER
from rvc_train.schemas.work.workers import HeldLease, JobClaim, WorkerBeat, WorkerRegistration

LOSSES = ("loss/gen", "loss/disc", "loss/mel", "loss/kl", "loss/fm", "grad_norm/g", "grad_norm/d", "learning_rate")


@dataclass(frozen=True)
class Pace:
    """Seconds between what a worker does."""

    beat: float
    report: float
    job: float


@dataclass
class Work:
    """Measurements of all workers."""

    claims: list[float] = field(default_factory=list)
    """Seconds that each claim took."""
    answers: list[float] = field(default_factory=list)
    """Seconds of all other requests."""
    leases: Counter[str] = field(default_factory=Counter)
    """Number of times that each lease was given, which may be 1."""
    num_lost: int = 0
    """Leases that ran out, because the server answered heartbeats too late."""
    num_reports: int = 0


class ScriptedWorker:
    """A worker that runs nothing."""

    def __init__(self, url: str, number: int, pace: Pace, work: Work) -> None:
        parts = httpx.URL(url)
        self._connection = Connection(parts.host, parts.port or 80, TOKEN)
        self._number, self._pace, self._work = number, pace, work
        self._path, self._key = "", {}  # type: str, dict[str, str]

    async def _register(self) -> None:
        worker = WorkerRegistration(
            name=f"worker {self._number}",
            pid=self._number,
            host="here",
            device="cuda:0",
            device_name="made up",
            version="1",
            heartbeat_seconds=self._pace.beat,
            serves_conversions=False,
            num_gpus=1,
        )
        registered = await self._ask("POST", "/v1/worker/workers", {}, worker.model_dump_json())
        self._path = f"/v1/worker/workers/{registered['worker_id']}"
        self._key = {WORKER_KEY_HEADER: registered["key"]}

    async def run(self) -> None:
        """Register and run jobs until cancelled."""
        await asyncio.sleep(random.uniform(0, self._pace.job))
        await self._register()
        while True:
            began = time.monotonic()
            claimed = await self._ask("POST", f"{self._path}/claims", self._key, JobClaim().model_dump_json())
            self._work.claims.append(time.monotonic() - began)
            if (lease := claimed["lease"]) is None:
                await asyncio.sleep(1)
                continue
            self._work.leases[lease["lease_id"]] += 1
            await self._run(f"/v1/worker/leases/{lease['lease_id']}", lease, began + self._pace.job)

    async def _run(self, path: str, lease: dict[str, Any], end: float) -> None:
        key = {LEASE_KEY_HEADER: lease["key"]}
        beat = WorkerBeat(lease=HeldLease(lease_id=lease["lease_id"], key=lease["key"])).model_dump_json()
        next_beat, next_report, number = time.monotonic(), time.monotonic() + self._pace.report, 0
        while (now := time.monotonic()) < end:
            if now >= next_beat:
                next_beat += self._pace.beat
                answer = await self._timed(f"{self._path}/heartbeat", self._key, beat)
                if answer["lost"] is not None:
                    self._work.num_lost += 1
                    return
            elif now >= next_report:
                next_report, number = next_report + self._pace.report, number + 1
                await self._timed(f"{path}/events", key, _report(number))
                self._work.num_reports += 1
            else:
                await asyncio.sleep(min(next_beat, next_report, end) - now)
        report = OutcomeReport(outcome="failure", code=FailureCode.INVALID_CONFIG, message="made up")
        await self._timed(f"{path}/finish", key, report.model_dump_json())

    async def _timed(self, path: str, headers: dict[str, str], body: str) -> Any:
        began = time.monotonic()
        answer = await self._ask("POST", path, headers, body)
        self._work.answers.append(time.monotonic() - began)
        return answer

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: str) -> Any:
        headers = {PROTOCOL_HEADER: str(PROTOCOL), **headers}
        status, _, content = await self._connection.ask(method, path, headers, body.encode())
        assert status < 300 or status == 409, (path, status, content)  # 409: what is sent under a lost lease
        return json.loads(content) if content else None


def _report(number: int) -> str:
    """A report of one step, as an engine's."""
    share = {"stage_progress": 0.5, "progress": 0.5, "epoch": 1, "step": number, "step_seconds": 0.5}
    events = [
        Progress(stage="train", eta_seconds=1000.0, total_epochs=100, total_steps=10_000, **share),
        Metric(step=number, epoch=1, values=dict.fromkeys(LOSSES, number / 3)),
    ]
    return EventsReport(number=number, events=[event.model_dump(mode="json") for event in events]).model_dump_json()


async def measure(server: ServerProcess, num_workers: int, pace: Pace, seconds: float) -> tuple[Work, float]:
    """Delays of the workers while all were busy, and the share of a core that the server took."""
    work = Work()
    workers = [ScriptedWorker(server.url, number, pace, work) for number in range(num_workers)]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(worker.run()) for worker in workers]
        await asyncio.sleep(pace.job)
        work.claims.clear()
        work.answers.clear()
        began, before = time.monotonic(), server.cpu_seconds
        await asyncio.sleep(seconds)
        cores = (server.cpu_seconds - before) / (time.monotonic() - began)
        for task in running:
            task.cancel()
    return work, cores


def _bytes(engine: sa.Engine) -> int:
    """Size of the database."""
    is_sqlite = engine.dialect.name == "sqlite"
    size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    with engine.connect() as connection:
        return int(
            connection.exec_driver_sql(
                size if is_sqlite else "SELECT pg_database_size(current_database())"
            ).scalar_one()
        )


def main() -> None:
    """Print the figures as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--owners", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--job-seconds", type=float, default=120)
    parser.add_argument("--beat-seconds", type=float, default=10)
    parser.add_argument("--report-seconds", type=float, default=30)
    options = parser.parse_args()
    pace = Pace(options.beat_seconds, options.report_seconds, options.job_seconds)
    with databases(options.database) as new_database, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = new_database(folder)
        jobs, _, _ = filled(url, folder, options.queued, options.ended, options.owners)
        claimed: Counter[str] = Counter()
        for number in options.workers:
            with serving(folder, DATABASE_URL=url, MAX_OPEN_REQUESTS="100000") as server:
                before = _bytes(jobs.engine)
                work, cores = asyncio.run(measure(server, number, pace, options.seconds))
                grown = _bytes(jobs.engine) - before
                claimed += work.leases
                notes = f"{options.database}, {options.queued} queued of {options.owners} owners, {options.ended} ended"
                load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
                print_line(
                    f"{number} busy workers: claim",
                    percentiles(work.claims)["p99"],
                    "ms",
                    f"{notes}, {pace}, load {load}",
                    p50=percentiles(work.claims)["p50"],
                    num_claims=len(work.claims),
                    num_lost=work.num_lost,
                    claimed_twice=sum(times > 1 for times in claimed.values()),
                    other_requests_p50=percentiles(work.answers)["p50"],
                    other_requests_p99=percentiles(work.answers)["p99"],
                    other_requests_a_second=round(len(work.answers) / options.seconds, 1),
                    cores=round(cores, 3),
                    peak_mib=round(server.peak_bytes / 2**20),
                    grown_bytes_a_report=round(grown / max(1, work.num_reports)),
                )


if __name__ == "__main__":
    main()
