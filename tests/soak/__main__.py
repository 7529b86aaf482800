"""The service used and abused for hours: `make soak SECONDS=3600`, or `python -m tests.soak --seconds 600 --seed 7`.

Four workers with scripted engines, three users, receivers of webhooks, and a server; all of them but the users are
killed at random. At the end nothing may be lost, left over or growing. Prints figures as JSON; exit code 1 for faults.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog

from tests.conftest import ROOT, Process, Station
from tests.soak.check import check
from tests.soak.measures import Measures, Slope
from tests.soak.receivers import Receivers
from tests.soak.users import TERMINAL, Record, User

TOKEN = "the-first-token-of-all"
NUM_WORKERS = 4
NUM_USERS = 3
STRIKE_SECONDS = (4.0, 12.0)
"""Time between two strikes at a worker."""
LIVES_OF_SERVER = 5
"""Number of servers, one after the other, each but the last ended by SIGKILL or SIGTERM. Longer lives show growth."""
WARM_UP_SECONDS = 25.0
"""Time after a process's start for which its memory is not looked at."""
DRAIN_SECONDS = 240.0
MAX_GROWTH = {"memory_mb": 1.0, "descriptors": 1.0}
"""Growth per minute, certain at two standard errors, from which on it is a fault."""
MAX_SHUTDOWN_SECONDS = 10.0
SCRIPTS: list[list[list[object]]] = [
    [["train", 12, 0.1, 4], ["artifact", "voice", 64_000], ["artifact", "index", 3200], ["succeed"]],
    [["train", 40, 0.15, 10], ["artifact", "voice", 320_000], ["artifact", "index", 32_000], ["succeed"]],
    [
        ["train", 6, 0.05, 2],
        ["evaluated", 6, 20.0, True],
        ["preview", 6, "hum"],
        ["artifact", "voice", 640],
        ["artifact", "index", 64],
        ["succeed"],
    ],
    [
        ["train", 8, 0.1, 3],
        ["crash_once"],
        ["train", 16, 0.1, 4],
        ["artifact", "voice", 6400],
        ["artifact", "index", 64],
        ["succeed"],
    ],
    [["train", 5, 0.1, 2], ["fail", "gpu_out_of_memory", "the device's memory is full"]],
    [
        ["flood", 300],
        ["train", 5, 0.1, 2],
        ["artifact", "voice", 640],
        ["artifact", "index", 640],
        ["lost_preview", 5],
        ["succeed"],
    ],
]


@dataclass
class Result:
    """Figures of a soak."""

    seed: int
    seconds: float
    faults: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class Soak:
    """One soak in a new folder."""

    def __init__(self, folder: Path, seconds: float, seed: int, lives_of_server: int = LIVES_OF_SERVER) -> None:
        self.seconds, self.seed, self.random = seconds, seed, random.Random(seed)
        self.lives_of_server = lives_of_server
        self.station = Station(folder, TOKEN)
        self.station.environment |= {
            "RVC_TRAIN_REPORT_COMMAND": json.dumps([sys.executable, str(ROOT / "tests" / "server" / "fake_report.py")]),
            "RVC_TRAIN_OUTBOUND_NETWORKS": "127.0.0.1",
            "RVC_TRAIN_REQUESTS_PER_MINUTE": "100000",
            "RVC_TRAIN_WRITES_PER_MINUTE": "100000",
            "RVC_TRAIN_MAX_RECOVERIES": "1000",
            "RVC_TRAIN_CHECKPOINT_SECONDS": "5",
            "RVC_TRAIN_DISK_RESERVE_BYTES": "0",
            "RVC_TRAIN_LOG_LEVEL": "info",
        }
        self.record, self.receivers = Record(), Receivers()
        self.server: Process | None = None
        self.workers: list[Process] = []
        self.frozen: dict[Process, float] = {}
        self.strikes: Counter[str] = Counter()
        self.longest_shutdown = 0.0

    def run(self) -> Result:
        """Run it, then check."""
        self._choose_script()
        self.server = self.station.start_server()
        self.workers = [self.station.start_worker() for _ in range(NUM_WORKERS)]
        users = [
            User(self.station.url, TOKEN, self.seed * 100 + number, self.record, self.receivers)
            for number in range(1, NUM_USERS + 1)
        ]
        measures = Measures(self._running, WARM_UP_SECONDS)
        for thread in (*users, measures):
            thread.start()
        self._strike_until(time.monotonic() + self.seconds)
        for user in users:
            user.stopping.set()
        for user in users:
            user.join(120)
        measures.stop()
        self._drain(users)
        self._stop_all()
        self.receivers.close()
        data = self.station.folder / "data"
        faults, figures = check(data, f"sqlite:///{data / 'rvc-train.db'}", self.record, self.receivers.accepted)
        slopes = measures.slopes()
        return Result(
            self.seed,
            self.seconds,
            [*self.record.faults, *faults, *self._growth(slopes), *self._of_logs()],
            figures
            | self._figures()
            | {"memory_mb_of_servers": measures.series("server")}
            | {kind: _shown(found) for kind, found in slopes.items()},
        )

    def _strike_until(self, end: float) -> None:
        life = self.seconds / self.lives_of_server
        next_of_server = time.monotonic() + life
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, self.random.uniform(*STRIKE_SECONDS)))
            self._choose_script()
            self._thaw()
            if time.monotonic() >= next_of_server and end - time.monotonic() > life / 2:
                self._end_server()
                next_of_server = time.monotonic() + life * self.random.uniform(0.7, 1.3)
            elif self.random.random() < 0.6:
                self._strike_worker()

    def _choose_script(self) -> None:
        """Choose the script of engines that start from now on."""
        temporary = self.station.folder / "script.new"
        temporary.write_text(json.dumps(self.random.choice(SCRIPTS)))
        if "RVC_TRAIN_ENGINE_COMMAND" not in self.station.environment:
            self.station.follow_script(["succeed"])
        temporary.replace(self.station.script_file)

    def _end_server(self) -> None:
        server = self.server
        assert server is not None
        how = self.random.choice([signal.SIGKILL, signal.SIGTERM])
        began = time.monotonic()
        server.send_signal(how)
        server.wait(60)
        if how == signal.SIGTERM:
            self.longest_shutdown = max(self.longest_shutdown, time.monotonic() - began)
        self.strikes[f"server {how.name}"] += 1
        time.sleep(self.random.uniform(0, 3))
        self.server = self.station.start_server()

    def _strike_worker(self) -> None:
        position = self.random.randrange(NUM_WORKERS)
        worker = self.workers[position]
        if worker in self.frozen:
            return
        how = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        worker.send_signal(how)
        self.strikes[f"worker {how.name}"] += 1
        if how == signal.SIGSTOP:
            self.frozen[worker] = time.monotonic() + self.random.uniform(1, 5)
            return
        worker.wait(60)
        self.workers[position] = self.station.start_worker()

    def _thaw(self, *, all_of_them: bool = False) -> None:
        for worker, until in list(self.frozen.items()):
            if all_of_them or time.monotonic() >= until:
                worker.send_signal(signal.SIGCONT)
                del self.frozen[worker]

    def _running(self) -> dict[int, str]:
        processes = {"server": [self.server], "worker": self.workers}
        return {
            process.pid: kind
            for kind, found in processes.items()
            for process in found
            if process is not None and process.poll() is None and process not in self.frozen
        }

    def _drain(self, users: list[User]) -> None:
        """Let every job come to its end, every stream to its last event, every good message to its receiver."""
        self._thaw(all_of_them=True)
        deadline = time.monotonic() + DRAIN_SECONDS
        http = self.station.http
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                jobs = [job for job in self._jobs() if job["status"] not in TERMINAL]
                for job in jobs:
                    if job["status"] == "paused":
                        http.post(f"/v1/jobs/{job['id']}/resume")
                following = [each for user in users for each in user.followers if each.is_alive()]
                if not jobs and not following and not self._has_pending_messages():
                    return
            time.sleep(0.5)
        self.record.faults.append(f"not all came to an end in {DRAIN_SECONDS:.0f} s")

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next_cursor": None, "has_more": True}
        while page["has_more"]:
            after = {} if page["next_cursor"] is None else {"after": page["next_cursor"]}
            page = self.station.http.get("/v1/jobs", params={"limit": 100} | after).raise_for_status().json()
            jobs += page["data"]
        return jobs

    def _has_pending_messages(self) -> bool:
        for hook in self.station.http.get("/v1/webhooks?limit=100").json()["data"]:
            if hook["url"] == self.receivers.good:
                sent = self.station.http.get(f"/v1/webhooks/{hook['id']}/deliveries?limit=100").json()["data"]
                if any(each["status"] == "pending" for each in sent):
                    return True
        return False

    def _stop_all(self) -> None:
        began = time.monotonic()
        assert self.server is not None
        self.server.terminate()
        self.server.wait(60)
        self.longest_shutdown = max(self.longest_shutdown, time.monotonic() - began)
        self.station.close()

    def _growth(self, slopes: dict[str, dict[str, Slope]]) -> list[str]:
        faults = [
            f"{kind}: {name} grows by {found.per_minute:.3f} ± {found.error:.3f} a minute"
            for kind, named in slopes.items()
            for name, found in named.items()
            if found.least > MAX_GROWTH[name]
        ]
        if self.longest_shutdown > MAX_SHUTDOWN_SECONDS:
            faults.append(f"the server took {self.longest_shutdown:.1f} s to stop")
        return faults

    def _of_logs(self) -> list[str]:
        """Exceptions in the processes' logs, each kind once, with the lines around the first."""
        found: Counter[str] = Counter()
        for log in self.station.folder.glob("*.log"):
            lines = log.read_text(errors="replace").splitlines()
            for number, line in enumerate(lines):
                if "Traceback" in line or line.startswith("Fatal") or '"level": "critical"' in line:
                    kind = f"{log.name}: {line[:200]}"
                    if kind not in found:
                        print(kind, *lines[max(0, number - 2) : number + 60], sep="\n", file=sys.stderr)
                    found[kind] += 1
        return [f"{line} ({count} times)" for line, count in found.items()]

    def _figures(self) -> dict[str, Any]:
        return {
            "submitted": len(self.record.jobs),
            "deleted": len(self.record.deleted),
            "datasets": len(self.record.datasets),
            "streams_followed": len(self.record.followed),
            "messages_accepted": len(self.receivers.accepted),
            "actions": dict(self.record.actions),
            "statuses": {str(key): value for key, value in sorted(self.record.statuses.items())},
            "strikes": dict(self.strikes),
            "longest_shutdown_seconds": round(self.longest_shutdown, 1),
        }


def _shown(found: dict[str, Slope]) -> dict[str, Any]:
    return {name: {key: round(value, 3) for key, value in asdict(each).items()} for name, each in found.items()}


def main() -> int:
    """Run a soak and print its figures. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SOAK_SEED", time.time_ns() % 100_000)))
    parser.add_argument("--folder", type=Path, help="keep everything here")
    parser.add_argument("--lives", type=int, default=LIVES_OF_SERVER, help="number of servers, one after the other")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for the figures
    with tempfile.TemporaryDirectory(prefix="rvc-soak-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = Soak(folder, options.seconds, options.seed, options.lives).run()
    print(json.dumps(asdict(result), indent=1))
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
