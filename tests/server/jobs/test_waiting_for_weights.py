"""Jobs that wait for missing weights, which the server downloads from a hub on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import missing_files, published_base_weights, published_preparation
from rvc_engine.weights import catalogue
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from server.admin.job_weights import JobWeights
from server.admin.weights import WeightsFetcher
from server.datasets.service import DatasetService
from server.jobs.service import JobService
from server.storage.local import Storage
from tests.weights_hub import CONTENT, Hub, published

USABLE = DatasetReport(usable=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(catalogue, "published_files", published)
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()


@pytest.fixture
def server(hub: Hub, tmp_path: Path, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve(tmp_path) as server:
        yield server


def submit(http: httpx.Client, dataset_id: str, **fields: object) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset_id, "fetch_weights": True} | fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_waits_for_the_weights_that_it_asked_for_and_then_for_a_worker(
    hub: Hub, server: Any, eventually: Callable[..., None]
) -> None:
    with server.client() as http:
        job = submit(http, server.bench.dataset())
        assert (job["status"], job["waiting_for"], job["weights_progress"]) == ("validating", ["weights"], 0)
        hub.is_open.set()
        eventually(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued")
        job = http.get(f"/v1/jobs/{job['id']}").json()
        assert (job["waiting_for"], job["weights_progress"]) == ([], None)
        assert sorted(hub.asked) == ["f0D40k.pth", "f0G40k.pth", "model.bin"], "each once, and no more than needed"
        assert submit(http, server.bench.dataset())["status"] == "queued", "they are here now"


def test_a_job_that_did_not_ask_is_queued_at_once_and_downloads_nothing(hub: Hub, server: Any) -> None:
    with server.client() as http:
        job = submit(http, server.bench.dataset(), fetch_weights=False)
        assert (job["status"], job["waiting_for"]) == ("queued", [])
        assert hub.asked == []


def test_a_job_whose_weights_can_not_be_had_fails_with_the_reason_and_can_be_tried_again(
    hub: Hub, server: Any, eventually: Callable[..., None]
) -> None:
    hub.is_open.set()
    hub.lacks.add("f0D40k.pth")
    with server.client() as http:
        job = submit(http, server.bench.dataset())
        eventually(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "failed")
        error = http.get(f"/v1/jobs/{job['id']}").json()["error"]
        assert error["code"] == "missing_weights"
        assert "pretrained-v2-40k/f0D40k.pth" in error["message"]
        assert "404" in error["message"]
        hub.lacks.clear()
        again = http.post(f"/v1/jobs/{job['id']}/retry", json={"from": "start"}).json()
        assert again["waiting_for"] == ["weights"], "as the job before"
        eventually(lambda: http.get(f"/v1/jobs/{again['id']}").json()["status"] == "queued")


def test_a_job_can_be_cancelled_while_it_waits_for_weights(hub: Hub, server: Any) -> None:
    with server.client() as http:
        job = submit(http, server.bench.dataset())
        cancelled = http.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert (cancelled["status"], cancelled["waiting_for"]) == ("cancelled", [])


def test_the_download_begins_again_after_a_restart(
    hub: Hub, tmp_path: Path, serve: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    with serve(tmp_path) as first, first.client() as http:
        job = submit(http, first.bench.dataset())
        eventually(lambda: hub.asked)
    with serve(tmp_path) as second, second.client() as http:
        assert http.get(f"/v1/jobs/{job['id']}").json()["waiting_for"] == ["weights"]
        hub.is_open.set()
        eventually(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued")


def test_a_job_is_queued_when_both_its_dataset_and_its_weights_are_there(
    hub: Hub, bench: Any, storage: Storage, eventually: Callable[..., None]
) -> None:
    bench.jobs = jobs = JobService(bench.jobs.engine, bench.clock, storage=storage)
    datasets = DatasetService(jobs, storage)
    waits = JobWeights(jobs, WeightsFetcher(storage.weights_folder), storage)
    for is_dataset_first in (False, True):
        for path in storage.weights_folder.rglob("*.*"):
            path.unlink()
        job = bench.job(DatasetStatus.VALIDATING, fetch_weights=True)
        assert (job.status, job.weights_progress) == ("validating", 0)
        hub.is_open.set()
        if is_dataset_first:
            datasets.finish_validation(job.dataset_id, USABLE)
            assert datasets.settle_waiting_jobs() == 0, "what waits for weights is no leftover"
            assert jobs.get(job.id).status == "validating"

        def is_settled(job_id: str = job.id) -> bool:
            waits.settle()
            return jobs.get(job_id).weights_progress is None

        eventually(is_settled)
        if not is_dataset_first:
            assert jobs.get(job.id).status == "validating"
            datasets.finish_validation(job.dataset_id, USABLE)
        assert jobs.get(job.id).status == "queued"


def test_the_estimate_names_what_is_missing_and_a_file_of_an_installation_is_taken_in(hub: Hub, server: Any) -> None:
    with server.client() as http:
        estimate = http.post("/v1/jobs:estimate", json={"dataset_id": server.bench.dataset()}).json()
        missing = {each["id"]: each for each in estimate["missing_weights"]}
        assert set(missing) == {"hubert", "pretrained-v2-40k"}
        assert sorted(missing["pretrained-v2-40k"]["files"]) == ["f0D40k.pth", "f0G40k.pth"]
        assert not estimate["has_gpu"]
        for key in ("hubert/model.bin", None):
            content = b"something else" if key is None else CONTENT[key]
            headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))}
            headers |= {"Content-Type": "application/offset+octet-stream"}
            upload = http.post("/v1/uploads", content=content, headers=headers).headers["Location"].rpartition("/")[2]
            answer = http.post("/v1/weights:import", json={"upload_id": upload})
            if key is None:
                assert answer.status_code == 422
                assert "not one of the published weights" in answer.json()["detail"]
            else:
                assert answer.json() == {"files": [key]}
            assert http.post("/v1/weights:import", json={"upload_id": upload}).status_code == 404, "it is deleted"
        estimate = http.post("/v1/jobs:estimate", json={"dataset_id": server.bench.dataset()}).json()
        assert [each["id"] for each in estimate["missing_weights"]] == ["pretrained-v2-40k"]


def test_a_mirror_that_is_named_is_used_and_kept_for_later_downloads(
    hub: Hub, server: Any, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.is_open.set()
    with server.client() as http:
        assert http.post("/v1/weights/hubert/fetch", json={"mirror": "file:///etc"}).status_code == 422
        http.post("/v1/weights/hubert/fetch", json={"mirror": f"{hub.url}/"})
        eventually(lambda: http.get("/v1/weights/hubert").json()["is_present"])
        job = submit(http, server.bench.dataset())
        eventually(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued")


def test_only_what_a_run_needs_is_missing(hub: Hub, tmp_path: Path) -> None:
    config = TrainingConfig()
    machine = Machine(weights_folder=tmp_path)
    needed = [*published_preparation(config, machine), *published_base_weights(config, machine)]
    assert missing_files(config, tmp_path) == needed
    assert missing_files(TrainingConfig(content="whisper-tiny", pretrained="none"), tmp_path) == []
