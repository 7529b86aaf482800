"""Requests whose client has left are given up while they wait; a write that has begun is completed."""

import socket
import threading
from typing import Any

import pytest

from server.http.threads import NUM_READERS

NUM_MORE = 10
TOKEN = "the-first-token-of-all"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def begun(url: str, request: str) -> socket.socket:
    """A connection on which this request was sent."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"{request} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n".encode())
    connection.sendall(f"Authorization: Bearer {TOKEN}\r\n\r\n".encode())
    return connection


def test_a_waiting_request_whose_client_left_is_not_carried_out_when_its_turn_comes(
    serve: Any, tmp_path: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, calls, left = threading.Event(), [], []
    monkeypatch.setattr("server.middleware.departures.logger.info", lambda *_, **more: left.append(more["path"]))
    with serve(tmp_path, token=TOKEN) as server, server.client(**HEADERS) as http:
        find = server.context.datasets.list

        def slow(**filters: Any) -> Any:
            calls.append(threading.get_ident())
            release.wait(60)
            return find(**filters)

        monkeypatch.setattr(server.context.datasets, "list", slow)
        busy = [begun(server.url, "GET /v1/datasets") for _ in range(NUM_READERS)]
        eventually(lambda: len(calls) == NUM_READERS)
        waiting = [begun(server.url, "GET /v1/datasets") for _ in range(NUM_MORE)]
        assert http.get("/livez").status_code == 200
        for connection in waiting:
            connection.close()
        eventually(lambda: len(left) == NUM_MORE, 60)
        release.set()
        assert http.get("/v1/datasets").status_code == 200
        for connection in busy:
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
            connection.close()
    assert len(calls) == NUM_READERS + 1


def test_a_write_that_has_begun_is_completed_when_its_client_leaves(
    serve: Any, tmp_path: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, release = threading.Event(), threading.Event()
    with serve(tmp_path, token=TOKEN) as server, server.client(**HEADERS) as http:
        job = server.bench.job()
        cancel = server.context.jobs.cancel

        def slow(job_id: str) -> Any:
            began.set()
            release.wait(30)
            return cancel(job_id)

        monkeypatch.setattr(server.context.jobs, "cancel", slow)
        connection = begun(server.url, f"POST /v1/jobs/{job.id}/cancel")
        assert began.wait(20)
        connection.close()
        release.set()
        eventually(lambda: http.get(f"/v1/jobs/{job.id}").json()["status"] == "cancelled")
