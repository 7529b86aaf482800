"""Jobs keep the saves that they can be continued from and sound best, unless they ask for others."""

from typing import Any

import httpx
import pytest


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, ("best", 1)),
        ({"num_best_saves": 3}, ("best", 3)),
        ({"keep_saves": "all"}, ("all", 1)),
        ({"evaluate": "never"}, ("latest", 1)),
        ({"keep_saves": "latest"}, ("latest", 1)),
    ],
)
def test_a_job_keeps_the_latest_and_the_best_save_unless_told_otherwise(
    http: httpx.Client, live: Any, config: dict[str, Any], kept: tuple[str, int]
) -> None:
    body = {"name": "anna", "dataset_id": live.bench.dataset(), "config": config}
    made = http.post("/v1/jobs", json=body).json()["config"]
    assert (made["keep_saves"], made["num_best_saves"]) == kept


def test_the_schema_has_the_defaults_of_jobs_and_the_estimate_their_disk(http: httpx.Client, eventually: Any) -> None:
    properties = http.get("/v1/config-schema").json()["properties"]
    assert (properties["keep_saves"]["default"], properties["num_best_saves"]["default"]) == ("best", 1)
    dataset_id = http.put("/v1/datasets/anna/content", content=b"RIFFone").json()["id"]
    eventually(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "ready")
    disk = {}
    for keep_saves in (None, "all"):
        config = {"total_epochs": 500} | ({} if keep_saves is None else {"keep_saves": keep_saves})
        answer = http.post("/v1/jobs:estimate", json={"dataset_id": dataset_id, "config": config}).json()
        disk[keep_saves] = answer["disk_bytes"]["high"]
    assert disk[None] < disk["all"]
