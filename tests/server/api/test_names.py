"""Names of fields: with their units, beside the old names, which are marked as deprecated."""

from collections.abc import Callable
from typing import Any

import httpx


def test_sizes_and_forecasts_have_names_with_units_beside_the_old_ones(
    http: httpx.Client, live: Any, finished: Callable[..., str]
) -> None:
    (file,) = http.get(f"/v1/jobs/{finished(b'voice')}/artifacts").json()["data"]
    dataset = http.put("/v1/datasets/mine/content", content=b"RIFFone").json()
    usage, weights = http.get("/v1/me").json()["usage"], http.get("/v1/weights/hubert").json()
    assert (file["size_bytes"], dataset["size_bytes"]) == (file["size"], dataset["size"]) == (5, 7)
    assert usage["stored_bytes"] == usage["bytes"] > 0
    assert (weights["size_bytes"], weights["size_here_bytes"]) == (weights["size"], weights["size_here"])
    job = http.get(f"/v1/jobs/{live.bench.job().id}").json()
    assert (job["starts_in_seconds"], job["ends_in_seconds"]) == (job["starts_in"], job["eta"])


def test_a_job_shows_when_it_was_queued_and_last_changed(http: httpx.Client, live: Any) -> None:
    path = f"/v1/jobs/{live.bench.job().id}"
    job = http.get(path).json()
    events = http.get(f"{path}/events").json()["data"]
    queued = next(event for event in events if event["type"] == "queued")
    assert job["created_at"] <= queued["created_at"] <= job["queued_at"]
    assert job["updated_at"] == events[-1]["created_at"]
    http.post(f"{path}/pause")
    paused = http.get(path).json()
    assert paused["updated_at"] > job["updated_at"]
    http.post(f"{path}/cancel")


def test_old_names_are_marked_in_the_document(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    deprecated = {
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if value.get("deprecated")
    }
    sized = {f"{name}.size" for name in ("Artifact", "Dataset", "PreviewFile", "Removal", "Weights", "WeightsFile")}
    forecasts = {f"{name}.{field}" for name in ("Job", "QueueEntry") for field in ("eta", "starts_in")}
    assert deprecated == {*sized, *forecasts, "Usage.bytes", "Weights.size_here"}
