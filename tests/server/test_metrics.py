import re
from typing import Any

import httpx


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
