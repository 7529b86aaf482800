import re
from pathlib import Path
from typing import Any

import httpx

from rvc_engine.errors import FailureCode
from rvc_train.schemas.voices.conversions import ConversionFailure, ConversionStatus
from server.metrics import METHODS, OUTCOMES


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
