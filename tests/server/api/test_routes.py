"""The routes of jobs and of the server itself, and the form of every error."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from typer.testing import CliRunner

import server.api.jobs.jobs
from rvc_engine.events import Metric
from rvc_train.cli.main import app
from rvc_train.client import Client
from rvc_train.schemas.datasets import DatasetStatus
from rvc_train.schemas.jobs import JobPublic
from rvc_train.schemas.system import Problem
from server.admin import doctor
from server.database.engine import write_session
from server.database.tables import Job
from server.settings import ServerSettings


def test_a_job_is_submitted_looked_at_listed_and_cancelled(http, live):
    dataset_id = live.bench.dataset()
    request = {"name": "anna", "dataset_id": dataset_id, "config": {"total_epochs": 3}, "labels": {"for": "me"}}
    answer = http.post("/v1/jobs", json=request)
    assert answer.status_code == 202
    job = JobPublic.model_validate_json(http.get(answer.headers["location"]).content)
    assert (job.status, job.config["total_epochs"], job.labels, job.attempt) == ("queued", 3, {"for": "me"}, 0)
    assert job.queue_position is not None
    listed = http.get("/v1/jobs", params={"status": ["queued", "running"], "dataset": dataset_id}).json()
    assert [each["id"] for each in listed["data"]] == [job.id]
    assert http.get("/v1/jobs", params={"status": "running", "dataset": dataset_id}).json()["data"] == []
    assert http.post(f"/v1/jobs/{job.id}/cancel").status_code == 200
    again = http.post(f"/v1/jobs/{job.id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


def test_only_a_finished_job_can_be_deleted_and_its_files_go_with_it(http, live, finished):
    job_id = finished(b"voice")
    home = live.context.storage.job_home(job_id)
    assert home.exists()
    assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 409
    waiting = live.bench.job()
    assert http.delete(f"/v1/jobs/{waiting.id}").status_code == 409
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert not home.exists()
    assert http.get(f"/v1/jobs/{job_id}").status_code == 404
    http.post(f"/v1/jobs/{waiting.id}/cancel")


def test_the_same_idempotency_key_submits_once(http, live):
    request = {"name": "anna", "dataset_id": live.bench.dataset()}
    key = {"Idempotency-Key": "a key"}
    first, second = (http.post("/v1/jobs", json=request, headers=key).json()["id"] for _ in range(2))
    assert first == second
    assert http.post("/v1/jobs", json=request | {"name": "bob"}, headers=key).status_code == 422
    http.post(f"/v1/jobs/{first}/cancel")


def test_a_config_that_cannot_work_is_422_with_a_pointer_to_each_fault(http, live):
    config = {"batch_size": 0, "sample_rate": "44k", "no_such": 1, "seed": True}
    answer = http.post("/v1/jobs", json={"name": "", "dataset_id": "x", "config": config, "priority": "1"})
    problem = Problem.model_validate_json(answer.content)
    pointers = {error.pointer for error in problem.errors}
    fields = {f"/config/{name}" for name in config}
    assert (answer.status_code, pointers) == (422, fields | {"/name", "/priority"})


def test_a_combination_that_cannot_work_says_so_in_the_configs_own_words(http, live):
    request = {"name": "a", "dataset_id": "x", "config": {"content": "whisper-tiny", "version": "v1"}}
    (error,) = http.post("/v1/jobs", json=request).json()["errors"]
    assert (error["pointer"], "use version=v2" in error["detail"]) == ("/config", True)


def test_a_job_with_a_choice_that_this_version_does_not_know_is_still_shown(http, live):
    job = live.bench.job()
    with write_session(live.context.engine) as session:
        config = job.config | {"a_newer_choice": 1, "content": "another-encoder"}
        session.execute(sa.update(Job).where(Job.number == job.number).values(config=config))
    shown = JobPublic.model_validate_json(http.get(f"/v1/jobs/{job.id}").content)
    assert (shown.config["a_newer_choice"], "another-encoder" in shown.content_notice) == (1, True)
    assert http.get("/v1/jobs").status_code == 200
    assert http.post(f"/v1/jobs/{job.id}/cancel").status_code == 200


def test_a_voice_that_rvc_will_not_convert_with_rightly_says_so(http, live):
    request = {"name": "a", "dataset_id": live.bench.dataset()}
    assert http.post("/v1/jobs", json=request).json()["content_notice"] is None
    embedded = http.post("/v1/jobs", json=request | {"config": {"content": "whisper-tiny"}}).json()
    assert "only with `rvc-engine convert`" in embedded["content_notice"]
    spin = http.post("/v1/jobs", json=request | {"config": {"content": "spin"}}).json()
    assert "Applio does where spin is chosen as its embedder model" in spin["content_notice"]


def test_speakers_are_given_as_json_and_as_text_alike(http, live):
    request = {"name": "a", "dataset_id": live.bench.dataset()}
    for said in ({"anna": 0, "bob": 1}, "anna=0,bob=1"):
        job = http.post("/v1/jobs", json=request | {"config": {"speakers": said}}).json()
        assert job["config"]["speakers"] == {"anna": 0, "bob": 1}
    (error,) = http.post("/v1/jobs", json=request | {"config": {"speakers": {"anna": 109}}}).json()["errors"]
    assert (error["pointer"], "from 0 to 108" in error["detail"]) == ("/config/speakers", True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/job_none", 404),
        ("POST", "/v1/jobs/job_none/cancel", 404),
        ("DELETE", "/v1/jobs/job_none", 404),
        ("GET", "/v1/jobs/job_none/events", 404),
        ("GET", "/v1/jobs/job_none/logs", 404),
        ("GET", "/v1/jobs/job_none/metrics", 404),
        ("GET", "/v1/jobs/job_none/artifacts", 404),
        ("GET", "/v1/jobs/job_none/artifacts/a.pth", 404),
        ("GET", "/v1/jobs?after=job_none", 422),
        ("GET", "/v1/jobs?statuss=failed", 422),
        ("GET", "/v1/datasets/..%2f..%2fetc", 404),
        ("DELETE", "/v1/datasets/ds_none", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/jobs/", 404),
        ("PATCH", "/v1/queue", 405),
        ("GET", "/v1/jobs?limit=0", 422),
        ("GET", "/v1/jobs?limit=x", 422),
        ("GET", "/v1/jobs?status=done", 422),
        ("POST", "/v1/jobs", 422),
    ],
)
def test_every_error_is_problem_json_with_a_request_id(http, method, path, status):
    answer = http.request(method, path)
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.request_id == answer.headers["x-request-id"] != ""
    assert problem.detail


def test_an_address_with_a_slash_too_many_is_told_so(http):
    assert "leave out the slash at its end" in http.get("/v1/jobs/").json()["detail"]


def test_a_405_names_every_method_that_is_possible(http):
    assert http.patch("/v1/datasets/ds_x").headers["allow"] == "GET, HEAD, DELETE, OPTIONS"
    assert http.post("/v1/jobs/job_x/artifacts/a").headers["allow"] == "GET, HEAD, OPTIONS"


def test_options_names_the_methods_of_any_path_without_a_token(live):
    for path, methods in {"/v1/jobs": "GET, HEAD, POST, OPTIONS", "/livez": "GET, HEAD, OPTIONS"}.items():
        answer = httpx.options(live.url + path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, methods, b"")


def test_a_body_that_is_no_json_or_too_large_is_refused(http):
    headers = {"Content-Type": "application/json"}
    answer = http.post("/v1/jobs", content=b'{"name": ', headers=headers)
    assert (answer.status_code, "not valid JSON" in answer.json()["detail"]) == (422, True)
    answer = http.post("/v1/jobs", content=b'{"name": "' + b"x" * 2**20 + b'"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("query", ["events?after", "metrics?since_step"])
def test_a_number_that_the_database_cannot_hold_is_422(http, live, query):
    assert http.get(f"/v1/jobs/{live.bench.job().id}/{query}={2**63}").status_code == 422


def test_a_mistake_of_ours_is_500_without_a_traceback(http, live, monkeypatch):
    monkeypatch.setattr(server.api.jobs.jobs, "find_job", lambda session, job_id: 1 / 0)
    answer = http.get("/v1/jobs/job_x", headers={"X-Request-ID": "mine-1"})
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.code, problem.request_id) == (500, "internal", "mine-1")
    assert "division" not in answer.text


@pytest.mark.parametrize(
    "error",
    [OperationalError("SELECT", {}, Exception("database is locked")), PoolTimeout("QueuePool limit reached")],
    ids=["locked", "all connections in use"],
)
def test_a_database_that_does_not_answer_is_503_and_worth_a_retry(http, live, monkeypatch, error):
    def fail(session, job_id):
        raise error

    monkeypatch.setattr(server.api.jobs.jobs, "find_job", fail)
    answer = http.get("/v1/jobs/job_x")
    assert (answer.status_code, answer.json()["retryable"], answer.headers["retry-after"]) == (503, True, "5")


def test_metrics_are_series_by_key(http, live):
    job = live.bench.job(priority=100)
    lease = live.bench.claim()
    live.context.jobs.record_events(
        lease, [Metric(step=i, epoch=1, values={"a": 1.0 / i, "b": 2.0}) for i in range(1, 21)]
    )
    everything = http.get(f"/v1/jobs/{job.id}/metrics").json()["data"]
    assert [(series["key"], series["num_points"]) for series in everything] == [("a", 20), ("b", 20)]
    query = {"key": "a", "since_step": 10, "max_points": 5}
    (series,) = http.get(f"/v1/jobs/{job.id}/metrics", params=query).json()["data"]
    assert (series["steps"], series["values"][-1]) == ([12, 14, 16, 18, 20], 1 / 20)
    live.context.jobs.force_fail(job.id, "done with")


def test_metrics_are_a_table_in_csv_for_spreadsheets_and_the_command(http, live, authorized, tmp_path):
    job = live.bench.job(name="=anna, 安娜", priority=100)
    lease = live.bench.claim()
    values = [{"loss/mel": 5.5, "loss/kl": math.nan}, {"loss/mel": 5.25}, {"loss/mel": 5.0, "loss/kl": 1.5}]
    live.context.jobs.record_events(
        lease, [Metric(step=step, epoch=1, values=each) for step, each in enumerate(values, 1)]
    )
    answer = http.get(f"/v1/jobs/{job.id}/metrics", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    table = [["step", "loss/kl", "loss/mel"], ["1", "", "5.5"], ["2", "", "5.25"], ["3", "1.5", "5.0"]]
    assert list(csv.reader(answer.text.splitlines())) == table

    client = Client(http)
    assert client.metrics_csv(job.id, key="loss/mel", since_step=2) == "step,loss/mel\r\n3,5.0\r\n"
    token = authorized["Authorization"].removeprefix("Bearer ")
    words = ["metrics", job.id, "--server", live.url, "--token", token]
    shown = CliRunner().invoke(app, [*words, "--key", "loss/mel"])
    assert (shown.exit_code, shown.output) == (0, "step,loss/mel\n1,5.5\n2,5.25\n3,5.0\n")
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "losses.csv")]).exit_code == 0
    assert list(csv.reader((tmp_path / "losses.csv").read_text().splitlines())) == table

    refused = http.get(f"/v1/jobs/{job.id}/metrics", params={"format": "csv", "after": "x"})
    assert refused.status_code == 422
    assert http.get(f"/v1/jobs/{job.id}/metrics", params={"format": "xml"}).status_code == 422
    live.context.jobs.force_fail(job.id, "done with")


def test_the_queue_and_the_workers_tell_what_runs_and_what_waits(tmp_path, serve):
    with serve(tmp_path) as server, server.client() as http:
        bench = server.bench
        running, second, first = bench.job(name="running"), bench.job(), bench.job(priority=3)
        bench.job(DatasetStatus.VALIDATING)
        worker = bench.jobs.register_worker("gpu-0", 7, "box", "cuda:0")
        idle = bench.jobs.register_worker("gpu-1", 8, "box", "cuda:1")
        bench.jobs.deregister_worker(bench.worker())
        with_priority = bench.jobs.claim(worker)
        bench.jobs.release(with_priority, "back")
        bench.jobs.cancel(first.id)
        assert bench.jobs.claim(worker).job_id == running.id
        queue = http.get("/v1/queue").json()
        assert [each["id"] for each in queue["running"]] == [running.id]
        assert [(each["id"], each["queue_position"]) for each in queue["queued"]] == [(second.id, 1)]
        assert (queue["num_queued"], queue["num_validating"], queue["num_workers"]) == (1, 1, 2)
        workers = {each["id"]: each for each in http.get("/v1/workers").json()["data"]}
        assert (workers[worker]["status"], workers[worker]["job_id"]) == ("busy", running.id)
        assert workers[idle]["status"] == "idle"
        assert sorted(each["status"] for each in workers.values()) == ["busy", "idle", "stopped"]


def test_the_server_tells_what_it_is_and_that_it_is_ready(http):
    system = http.get("/v1/system").json()
    assert (system["name"], system["needs_token"]) == ("rvc-train", True)
    assert "text" in [rule["code"] for rule in system["file_rules"]]
    assert http.get("/livez").json()["status"] == "ok"
    assert http.get("/readyz").json() == {"status": "ok", "checks": {"database": "ok", "disk": "ok"}}
    assert "learning_rate" in http.get("/v1/config-schema").json()["properties"]
    assert "rvc-train" in http.get("/").text


@pytest.mark.sqlite
def test_readiness_fails_when_the_database_cannot_be_written(http, live, monkeypatch):
    monkeypatch.setattr("server.database.engine.CHECK_TIMEOUT_MS", 50)
    monkeypatch.setattr("server.admin.readiness.FRESH_SECONDS", 0)
    with live.context.engine.connect() as connection, connection.begin():
        answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["disk"]) == (503, "ok")
    assert "does not answer" in answer.json()["checks"]["database"]
    assert http.get("/readyz").status_code == 200


def test_the_interface_is_described_with_problems_and_without_a_foreign_error_form(http):
    document = http.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document)
    assert "application/problem+json" in document["paths"]["/v1/jobs"]["post"]["responses"]["422"]["content"]


def test_the_system_and_doctor_name_a_gpu_that_lies_idle(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = "this machine has the GPU X, but the installed PyTorch cannot use it"
    monkeypatch.setattr("server.api.system.gpu_advice", lambda: advice)
    assert advice in http.get("/v1/system").json()["warnings"]
    facts = {"python": "3.11", "cores": 2, "libraries": {}, "ffmpeg": {}, "cuda_build": None, "devices": []}
    answer = SimpleNamespace(returncode=0, stdout=json.dumps({**facts, "advice": advice}).encode(), stderr=b"")
    monkeypatch.setattr("server.admin.doctor.subprocess.run", lambda *_, **__: answer)
    findings = [(each.what, each.text) for each in doctor._engine(ServerSettings(data_folder=tmp_path))]
    assert ("gpu", advice) in findings
