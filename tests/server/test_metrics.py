import errno
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_engine.errors import FailureCode
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from server.metrics import GPUS, METHODS, OUTCOMES, StorageError


def numbers(http: httpx.Client) -> dict[str, float]:
    text = http.get("/metrics").text
    found = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_prometheus_hears_of_jobs_workers_and_disk(http: httpx.Client, live: Any) -> None:
    before = numbers(http)
    bench = live.bench
    bench.job(name="waits", priority=-100)
    lease = bench.claim() if before['rvc_train_jobs{status="queued"}'] else None
    after = numbers(http)
    assert after['rvc_train_jobs{status="queued"}'] == before['rvc_train_jobs{status="queued"}'] + (lease is None)
    assert after['rvc_train_workers{state="busy"}'] == before['rvc_train_workers{state="busy"}'] + (lease is not None)
    assert after["rvc_train_disk_free_bytes"] > 0
    assert after["rvc_train_queue_age_seconds"] >= 0


def test_requests_are_counted_by_route_and_not_by_id(http: httpx.Client, live: Any) -> None:
    name = 'rvc_train_http_request_seconds_count{method="GET",route="/v1/jobs/{job_id}",status="404"}'
    before = numbers(http).get(name, 0)
    for number in range(3):
        http.get(f"/v1/jobs/job_{number}")
    after = numbers(http)
    assert after[name] == before + 3
    assert not any("job_1" in key for key in after)


def test_labels_have_values_from_fixed_sets(http: httpx.Client) -> None:
    """A series of its own for each word that a stranger sends as a method would fill the memory."""
    for number in range(3):
        http.request(f"WORD{number}", "/v1/jobs")
    found = {match for name in numbers(http) for match in re.findall(r'method="(\w+)"', name)}
    assert "other" in found
    assert found <= METHODS | {"other"}


def test_every_series_that_an_alert_needs_is_there_before_anything_happened(tmp_path: Path, serve: Any) -> None:
    """`delta` and `rate` are 0 over a series that begins with its first event."""
    with serve(tmp_path) as server, server.client() as http:
        found = numbers(http)
    assert {found.get(f'rvc_train_job_failures{{code="{code}"}}') for code in FailureCode} == {0}
    assert {found.get(f'rvc_train_attempts{{outcome="{outcome}"}}') for outcome in OUTCOMES} == {0}
    assert {found.get(f'rvc_train_conversions{{status="{status}"}}') for status in ConversionStatus} == {0}
    assert {found.get(f'rvc_train_conversion_failures{{code="{code}"}}') for code in ConversionFailure} == {0}
    assert found["rvc_train_http_server_errors_total"] == 0


def test_server_errors_are_counted(tmp_path: Path, serve: Any) -> None:
    with serve(tmp_path, disk_reserve_bytes=2**60) as server, server.client() as http:
        assert http.get("/readyz").status_code == 503
        assert numbers(http)["rvc_train_http_server_errors_total"] == 1


def test_the_queue_is_counted_by_what_jobs_need_and_whether_a_worker_has_it(tmp_path: Path, serve: Any) -> None:
    with serve(tmp_path) as server, server.client() as http:
        before = numbers(http)
        assert {before[f'rvc_train_queued_jobs{{gpus="{each}",has_worker="no"}}'] for each in GPUS} == {0}
        for resources in ({}, {"gpus": 1}, {"gpus": 5}):
            server.bench.job(resources=resources)
        server.context.jobs.register_worker("worker", 1, "here", "cuda:0", num_gpus=1)
        found = numbers(http)
    assert {key: value for key, value in found.items() if "queued_jobs" in key and value} == {
        'rvc_train_queued_jobs{gpus="0",has_worker="yes"}': 1,
        'rvc_train_queued_jobs{gpus="1",has_worker="yes"}': 1,
        'rvc_train_queued_jobs{gpus="more",has_worker="no"}': 1,
    }


def test_workers_are_counted_by_node_and_their_claims_together(tmp_path: Path, serve: Any) -> None:
    with serve(tmp_path) as server, server.client() as http:
        assert numbers(http)["rvc_train_claims"] == 0
        for _ in range(2):
            server.bench.job()
            lease = server.bench.claim()
        server.context.jobs.force_fail(lease.job_id, "stuck")
        server.context.jobs.register_worker("worker", 1, "there", "cpu")
        found = numbers(http)
    assert found["rvc_train_claims"] == 2
    assert {key: value for key, value in found.items() if "node_workers" in key and value} == {
        'rvc_train_node_workers{node="here",state="busy"}': 1,
        'rvc_train_node_workers{node="here",state="idle"}': 1,
        'rvc_train_node_workers{node="there",state="idle"}': 1,
    }


def test_nodes_beyond_a_number_share_their_series(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.metrics.MAX_NODES", 2)
    with serve(tmp_path) as server, server.client() as http:
        for number in range(5):
            server.context.jobs.register_worker("worker", 1, f"node-{number}", "cpu")
        found = {key: value for key, value in numbers(http).items() if "node_workers" in key and "idle" in key}
    assert len(found) == 3
    assert found['rvc_train_node_workers{node="other",state="idle"}'] == 3


def test_a_storage_that_is_full_or_fails_is_counted(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path, disk_reserve_bytes=2**60) as server, server.client() as http:
        assert {numbers(http)[f'rvc_train_storage_errors_total{{kind="{kind}"}}'] for kind in StorageError} == {0}
        assert http.put("/v1/datasets/anna/content", content=b"RIFF" + bytes(1000)).status_code == 507

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(type(server.context.job_queries), "metrics", fail)
        assert http.get(f"/v1/jobs/{server.bench.job().id}/metrics").status_code == 500
        found = numbers(http)
    assert {kind: found[f'rvc_train_storage_errors_total{{kind="{kind}"}}'] for kind in StorageError} == {
        "full": 1,
        "failed": 1,
    }
