"""Slow disks, name servers, receivers and readers delay nobody but those who wait for them, and no shutdown."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from rvc_engine.environment.processes import kill_group
from server.database.engine import create_engine, read_session
from server.storage.instances import open_instance
from server.storage.local import Storage
from tests.systems import signals

TOKEN = "the-first-token-of-all"
FOLDER = Path(__file__).parent
SYNC_SECONDS = 3
SLOW_DISK = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
SLOW_DISK += ["-e", f"inject=fsync,fdatasync:delay_enter={SYNC_SECONDS * 1_000_000}"]
pytestmark = signals
QUICK = (5.0, 2.0, 30.0)
"""Seconds for which a server is watched, the p99 of its answers, and the time to stop, on a machine that is busy."""
LONG = (60.0, 0.1, 10.0)

LIMITS = pytest.mark.parametrize(
    ("seconds", "limit", "to_stop"), [QUICK, pytest.param(*LONG, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)


@contextlib.contextmanager
def serving(folder: Path, *command: str, **settings: str) -> Iterator[tuple[httpx.Client, Callable[[], float]]]:
    """A server process on a prepared data folder: a client, and a function that ends it and returns the seconds."""
    engine = create_engine(f"sqlite:///{folder / 'rvc-train.db'}")
    open_instance(engine, Storage(folder))
    engine.dispose()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings |= {"DATA_FOLDER": str(folder), "PORT": str(port), "TOKEN": TOKEN, "DISK_RESERVE_BYTES": "0"}
    settings |= {"REPORT_COMMAND": json.dumps([sys.executable, str(FOLDER / "fake_report.py")])}
    settings |= {"REQUESTS_PER_MINUTE": "1e9"}
    environment = os.environ | {f"RVC_TRAIN_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = str(FOLDER.parents[1])  # a script has its own folder there
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log, start_new_session=True)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    limits = httpx.Limits(max_connections=None)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120, limits=limits)

    def stop() -> float:
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)  # strace passes its own on to nobody
        process.wait(60)
        return time.monotonic() - began

    try:
        with client:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    client.get("/livez").raise_for_status()
                    break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield client, stop
    finally:
        if process.poll() is None:
            kill_group(process.pid)
            process.wait()


def waits(client: httpx.Client, path: str, seconds: float) -> list[float]:
    """Seconds that each answer took."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        client.get(path).raise_for_status()
        found.append(time.monotonic() - began)
        time.sleep(0.04)
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def watched(client: httpx.Client, seconds: float) -> dict[str, float]:
    """The p99 of both addresses, asked at the same time."""
    with ThreadPoolExecutor(2) as pool:
        paths = ("/livez", "/v1/jobs")
        found = pool.map(lambda path: waits(client, path, seconds), paths)
        return {path: p99(values) for path, values in zip(paths, found, strict=True)}


def repeated(function: Callable[[], object], ended: threading.Event) -> None:
    """Call again and again; the server ends meanwhile."""
    while not ended.is_set():
        with contextlib.suppress(httpx.TransportError, RuntimeError):  # a client that is closed is the latter
            function()
        time.sleep(0.05)


@pytest.fixture
def busy() -> Iterator[Callable[[int, Callable[[], object]], None]]:
    """`busy(number, function)`: that many threads call it again and again."""
    ended, threads = threading.Event(), []

    def start(number: int, function: Callable[[], object]) -> None:
        for _ in range(number):
            threads.append(threading.Thread(target=repeated, args=(function, ended), daemon=True))
            threads[-1].start()

    yield start
    ended.set()


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(empty_database, data / "rvc-train.db")
    return data


@pytest.mark.sqlite
@pytest.mark.skipif(shutil.which("strace") is None, reason="slows syncs down with strace, which is not installed")
@LIMITS
def test_a_disk_whose_sync_takes_seconds_delays_no_reader_and_no_shutdown(
    folder: Path, busy: Any, seconds: float, limit: float, to_stop: float
) -> None:
    with serving(folder, *SLOW_DISK, sys.executable, "-m", "server") as (client, stop):
        busy(8, lambda: client.put("/v1/datasets/anna/content", content=b"RIFF" + os.urandom(1000)))
        busy(30, lambda: client.post("/v1/tokens", json={"owner": "anna", "scopes": ["read"]}))
        time.sleep(0.5)
        found = watched(client, seconds)
        assert max(found.values()) < limit, found
        assert stop() < to_stop


@pytest.mark.sqlite
@LIMITS
def test_slow_names_receivers_and_readers_delay_nobody_else_and_no_shutdown(
    folder: Path, busy: Any, seconds: float, limit: float, to_stop: float
) -> None:
    dawdling = socket.create_server(("127.0.0.1", 0), backlog=100)
    with (
        dawdling,
        serving(
            folder,
            sys.executable,
            str(FOLDER / "server_with_hanging_names.py"),
            OUTBOUND_NETWORKS="127.0.0.1",
            CHECKPOINT_SECONDS="0.5",
        ) as (client, stop),
    ):
        threading.Thread(target=byte_a_second, args=(dawdling,), daemon=True).start()
        slow = {"url": f"http://127.0.0.1:{dawdling.getsockname()[1]}/"}
        hooks = [client.post("/v1/webhooks", json=slow).raise_for_status().json()["id"] for _ in range(3)]
        engine = create_engine(f"sqlite:///{folder / 'rvc-train.db'}")
        with read_session(engine) as session:
            session.execute(sa.text("SELECT count(*) FROM jobs"))
            busy(30, lambda: client.post("/v1/webhooks", json={"url": "https://one.hang.example/"}))
            busy(2, lambda: [client.post(f"/v1/webhooks/{hook}/test") for hook in hooks] and time.sleep(0.3))
            time.sleep(0.5)
            found = watched(client, seconds)
            session.execute(sa.text("SELECT count(*) FROM jobs"))
        engine.dispose()
        assert max(found.values()) < limit, found
        assert stop() < to_stop


def byte_a_second(listening: socket.socket) -> None:
    """Begin a response on each connection, and never end it."""

    def dawdle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                connection.sendall(b"x")
                time.sleep(1)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=dawdle, args=(listening.accept()[0],), daemon=True).start()
