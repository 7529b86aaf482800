"""Pause, resume, edit, retry, filters, ETags and idempotency keys, over HTTP."""

import threading
import time
from typing import Any

import httpx
import pytest
from sqlmodel import col, select

from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from rvc_engine.errors import FailureCode
from rvc_engine.events import CheckpointSaved, Progress, TrainingEnded
from rvc_train.schemas.jobs import JobPublic
from rvc_train.schemas.webhooks import WebhookCreate
from server.database.engine import read_session
from server.database.tables import Webhook
from server.errors import StillRunning
from server.job_store.idempotency import InFlightKeys
from server.results.checkpoints import StoredCheckpoints


def job_of(answer: httpx.Response) -> JobPublic:
    assert answer.is_success, answer.text
    return JobPublic.model_validate_json(answer.content)


def submitted(http: httpx.Client, live: Any, **request: object) -> JobPublic:
    fields = {"name": "anna", "dataset_id": live.bench.dataset()} | request
    return job_of(http.post("/v1/jobs", json=fields))


@pytest.fixture(autouse=True)
def empty_queue(http: httpx.Client):
    yield
    for job in http.get("/v1/jobs", params={"status": ["queued", "paused", "running"], "limit": 100}).json()["data"]:
        http.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_waiting_job_is_paused_and_resumed_at_once_and_saying_it_twice_is_200(http, live):
    job = submitted(http, live)
    seen = []
    for word in ("pause", "pause", "resume", "resume"):
        answer = http.post(f"/v1/jobs/{job.id}/{word}")
        seen.append((answer.status_code, answer.json()["status"]))
    assert seen == [(200, "paused"), (200, "paused"), (200, "queued"), (200, "queued")]
    http.post(f"/v1/jobs/{job.id}/cancel")
    assert [http.post(f"/v1/jobs/{job.id}/{word}").status_code for word in ("pause", "resume")] == [409, 409]
    assert http.post("/v1/jobs/job_none/pause").status_code == 404


def test_labels_are_set_and_taken_away_at_any_time_and_the_priority_only_while_queued(http, live):
    job = submitted(http, live, labels={"for": "me", "run": "1"})
    path = f"/v1/jobs/{job.id}"
    assert job_of(http.patch(path, json={"labels": {"run": None, "mood": "good"}})).labels == {
        "for": "me",
        "mood": "good",
    }
    assert job_of(http.patch(path, json={"priority": 9})).priority == 9
    http.post(f"{path}/cancel")
    assert job_of(http.patch(path, json={"labels": {"late": "yes"}})).labels["late"] == "yes"
    assert http.patch(path, json={"priority": 1}).status_code == 409
    assert http.patch(path, json={"labels": {f"l{n}": "x" for n in range(40)}}).status_code == 422
    assert http.patch(path, json={"name": "bob"}).status_code == 422


def test_a_raised_priority_changes_the_places_in_the_queue(http, live):
    first, second = submitted(http, live), submitted(http, live)
    http.patch(f"/v1/jobs/{second.id}", json={"priority": 5})
    places = {entry["id"]: entry["queue_position"] for entry in http.get("/v1/queue").json()["queued"]}
    assert places[second.id] < places[first.id]


def test_the_tag_of_a_job_changes_with_every_visible_change_and_answers_304_until_then(http, live):
    job = submitted(http, live, priority=100)
    path = f"/v1/jobs/{job.id}"
    etag = http.get(path).headers["etag"]
    tags = {etag}
    unchanged = http.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    lease = live.bench.claim()
    for change in (
        lambda: None,
        lambda: live.bench.jobs.record_events(
            lease, [Progress(stage="train", stage_progress=0.1, progress=0.2, step=1)]
        ),
        lambda: live.bench.jobs.record_events(lease, [CheckpointSaved(step=1, epoch=1, path="x")]),
        lambda: http.patch(path, json={"labels": {"a": "b"}}),
        lambda: http.post(f"{path}/cancel"),
    ):
        change()
        answer = http.get(path, headers={"If-None-Match": ", ".join(tags)})
        assert answer.status_code == 200
        tags.add(answer.headers["etag"])
    assert len(tags) == 6


def test_an_edit_with_if_match_is_refused_once_labels_have_changed_but_not_because_the_job_runs(http, live):
    job = submitted(http, live, priority=100)
    path = f"/v1/jobs/{job.id}"
    etag = http.get(path).headers["etag"]
    lease = live.bench.claim()
    live.bench.jobs.record_events(lease, [Progress(stage="train", stage_progress=0.1, progress=0.2, step=1)])
    assert http.patch(path, json={"labels": {"a": "1"}}, headers={"If-Match": etag}).status_code == 200
    late = http.patch(path, json={"labels": {"a": "2"}}, headers={"If-Match": etag})
    assert (late.status_code, late.json()["code"]) == (412, "precondition_failed")
    assert http.patch(path, json={"labels": {"a": "3"}}, headers={"If-Match": "*"}).status_code == 200


def test_jobs_are_found_by_label_name_and_the_beginning_of_an_id(http, live):
    a = submitted(http, live, name="zoe", labels={"team": "x", "a/b.c": "ü"})
    b = submitted(http, live, name="zoe", labels={"team": "y"})

    def found(**words: str) -> list[str]:
        return [job["id"] for job in http.get("/v1/jobs", params=words).json()["data"]]

    assert found(name="zoe") == [b.id, a.id]
    assert found(**{"label.team": "x"}) == [a.id]
    assert found(**{"label.team": "x", "label.a/b.c": "ü"}) == [a.id]
    assert found(**{"label.team": "x", "label.other": "y"}) == []
    assert found(id_prefix=a.id) == found(id_prefix=a.id.removeprefix("job_")) == [a.id]
    assert found(id_prefix="job_%") == []
    assert set(found(id_prefix=a.id[:8], name="zoe")) == {a.id, b.id}
    assert found(search="OE", id_prefix=a.id) == [a.id]
    assert found(search="o%") == []
    assert http.get("/v1/jobs", params={"label.-no": "x"}).status_code == 422


def failed_with_checkpoint(live: Any, **request: object) -> str:
    """A job that failed and left a checkpoint in the storage."""
    bench = live.bench
    job = bench.job(priority=100, **request)
    lease = bench.claim()
    bench.jobs.fail(lease, FailureCode.DIVERGED, "the losses are no numbers")
    leave_checkpoint(live, job, lease)
    return job.id


def leave_checkpoint(live: Any, job: Any, lease: Any) -> None:
    folder = live.context.storage.checkpoints(job.id, lease.token)
    folder.mkdir()
    (folder / "step_000000007.pt").write_bytes(b"nets")
    digest = "6ae0da8ceff3e2aab6fa2f4a3e0b3a0c5d2e0d1c2c9b1d4a5f7b6a1c0e9d8f7a"
    write_entries(folder, [CheckpointEntry("step_000000007.pt", 7, 1, 4, digest)])


def test_a_finished_training_is_continued_for_more_epochs_and_never_for_none(http, live):
    bench = live.bench
    job = bench.job(priority=100, config={"total_epochs": 3})
    lease = bench.claim()
    progress = Progress(stage="train", stage_progress=1, progress=0.9, step=7, epoch=3, total_epochs=3)
    bench.jobs.record_events(lease, [progress])
    leave_checkpoint(live, job, lease)
    bench.publish(lease)
    bench.jobs.succeed(lease)
    path = f"/v1/jobs/{job.id}/retry"
    for config in ({}, {"total_epochs": 2}):
        refused = http.post(path, json={"config": config})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/config/total_epochs"
        assert "has already trained 3 epochs" in refused.json()["detail"]
    assert http.post(path, json={"config": {"total_epochs": 4}}).status_code == 202
    assert http.post(path, json={"from": "start"}).status_code == 202


def test_a_training_that_ended_by_itself_shows_its_end_and_goes_on_only_with_a_larger_share_or_a_number(http, live):
    bench = live.bench
    job = bench.job(priority=100, config={"total_epochs": "auto", "stop_share": 0.4, "max_epochs": 500})
    assert http.get(f"/v1/jobs/{job.id}").json()["training_end"] is None
    lease = bench.claim()
    progress = Progress(stage="train", stage_progress=1, progress=0.9, step=700, epoch=70, total_epochs=500)
    end = {"reason": "no_better_save", "step": 700, "epoch": 70, "best_step": 420, "best_epoch": 42}
    bench.jobs.record_events(lease, [progress, TrainingEnded(**end)])
    leave_checkpoint(live, job, lease)
    bench.publish(lease)
    bench.jobs.succeed(lease)
    path = f"/v1/jobs/{job.id}"
    assert http.get(path).json()["training_end"] == end
    (event,) = http.get(f"{path}/events", params={"type": "training_ended"}).json()["data"]
    assert (event["data"], event["message"]) == (end, "training ended after 70 epochs: no better save since epoch 42")
    for config, option in (
        ({}, "stop_share"),
        ({"stop_share": 0.3}, "stop_share"),
        ({"total_epochs": 70}, "total_epochs"),
    ):
        refused = http.post(f"{path}/retry", json={"config": config})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"/config/{option}")
    limited = http.post(f"{path}/retry", json={"config": {"stop_share": 0.9, "max_epochs": 70}})
    assert limited.json()["errors"][0]["pointer"] == "/config/max_epochs"
    assert http.post(f"{path}/retry", json={"config": {"stop_share": 0.5}}).status_code == 202
    fixed = job_of(http.post(f"{path}/retry", json={"config": {"total_epochs": 100}}))
    assert (fixed.config["total_epochs"], fixed.config["stop_share"]) == (100, 0.3), "what auto goes by is dropped"


def test_a_retry_is_a_new_job_with_the_same_settings_the_checkpoint_and_what_is_changed(http, live):
    old = failed_with_checkpoint(live, labels={"for": "me"}, config={"total_epochs": 3, "batch_size": 2})
    answer = http.post(f"/v1/jobs/{old}/retry", json={"config": {"total_epochs": 9}})
    new = job_of(answer)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{new.id}"
    assert (new.retry_of, new.retry_from, new.labels) == (old, "checkpoint", {"for": "me"})
    assert (new.config["total_epochs"], new.config["batch_size"]) == (9, 2)
    stored = StoredCheckpoints(live.context.storage, new.id).latest()
    assert (stored.token, stored.newest.step) == (0, 7)
    assert http.delete(f"/v1/jobs/{old}").status_code == 204
    assert (stored.folder / "step_000000007.pt").read_bytes() == b"nets"


def test_what_no_checkpoint_can_follow_is_refused_and_leaves_nothing_behind(http, live):
    jobs = live.context.storage.root / "jobs"
    old = failed_with_checkpoint(live)
    before = sorted(jobs.iterdir())
    refused = http.post(f"/v1/jobs/{old}/retry", json={"config": {"width": 96, "pretrained": "none"}})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/config/pretrained")
    wrong = http.post(f"/v1/jobs/{old}/retry", json={"config": {"batch_size": 0}})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"][:18]) == (422, "/config/batch_size")
    assert http.post(f"/v1/jobs/{old}/retry", json={"from": "the middle"}).status_code == 422
    running = submitted(http, live)
    assert http.post(f"/v1/jobs/{running.id}/retry").status_code == 409
    http.post(f"/v1/jobs/{running.id}/cancel")
    none = http.post(f"/v1/jobs/{running.id}/retry", json={})
    assert (none.status_code, "from the start" in none.json()["detail"]) == (409, True)
    assert sorted(jobs.iterdir()) == before
    afresh = job_of(http.post(f"/v1/jobs/{running.id}/retry", json={"from": "start"}))
    assert (afresh.retry_of, afresh.retry_from) == (running.id, "start")


def test_a_key_gives_the_first_answer_again_word_for_word_even_when_the_job_has_gone_on(http, live):
    request = {"name": "anna", "dataset_id": live.bench.dataset()}
    key = {"Idempotency-Key": "first answers"}
    first = http.post("/v1/jobs", json=request, headers=key)
    job = job_of(first)
    http.post(f"/v1/jobs/{job.id}/cancel")
    again = http.post("/v1/jobs", json=request, headers=key)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    http.delete(f"/v1/jobs/{job.id}")
    assert job_of(http.post("/v1/jobs", json=request, headers=key)).id != job.id


def test_a_retry_that_comes_twice_under_a_key_makes_one_job(http, live):
    old = failed_with_checkpoint(live)
    key = {"Idempotency-Key": "again"}
    first, second = (http.post(f"/v1/jobs/{old}/retry", json={}, headers=key) for _ in range(2))
    assert first.content == second.content
    other = http.post(f"/v1/jobs/{old}/retry", json={"from": "start"}, headers=key)
    assert other.status_code == 422


def test_a_request_under_a_key_that_is_being_served_is_409_and_worth_another_try(http, live):
    request = {"name": "anna", "dataset_id": live.bench.dataset()}
    with live.context.in_flight_keys.exclusive("local", "slow"):
        answer = http.post("/v1/jobs", json=request, headers={"Idempotency-Key": "slow"})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (409, "still_running", True)
    assert answer.headers["retry-after"] == "1"
    assert http.post("/v1/jobs", json=request, headers={"Idempotency-Key": "slow"}).status_code == 202


def test_of_many_requests_at_once_under_one_key_one_makes_a_job_and_all_others_wait_or_hear_of_it(http, live):
    request = {"name": "anna", "dataset_id": live.bench.dataset()}
    answers: list[httpx.Response] = []

    def ask() -> None:
        with live.client() as client:
            answers.append(client.post("/v1/jobs", json=request, headers={"Idempotency-Key": "many"}))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1


def test_a_key_is_let_go_of_whatever_happens_and_is_its_owners_alone():
    in_flight = InFlightKeys()

    def serve(fault: type[Exception]) -> None:
        with in_flight.exclusive("a", "k"), in_flight.exclusive("b", "k"):
            raise fault

    with pytest.raises(OSError):  # noqa: PT011 - any
        serve(OSError)
    with in_flight.exclusive("a", "k"), pytest.raises(StillRunning):
        serve(OSError)


def test_a_worker_is_drained_over_http_and_claims_nothing_more(http, live):
    bench = live.bench
    worker = bench.worker()
    answer = http.post(f"/v1/workers/{worker}/drain")
    assert (answer.status_code, answer.json()["status"], answer.json()["drain_mode"]) == (202, "draining", "hand_back")
    assert http.post(f"/v1/workers/{worker}/drain").status_code == 202
    assert http.post(f"/v1/workers/{worker}/drain?mode=finish").status_code == 202  # it is going already, and faster
    submitted(http, live)
    assert bench.jobs.claim(worker) is None
    assert http.post("/v1/workers/wrk_none/drain").status_code == 404
    assert http.post(f"/v1/workers/{worker}/drain?mode=now").status_code == 422
    bench.jobs.deregister_worker(worker)
    assert http.post(f"/v1/workers/{worker}/drain").status_code == 409


def test_a_follower_that_names_an_event_which_never_was_is_told_so_at_once(http, live):
    job = submitted(http, live)
    started = time.monotonic()
    answer = http.get(
        f"/v1/jobs/{job.id}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": "99999"}, timeout=5
    )
    assert answer.status_code == 422
    assert "none has the number 99999" in answer.json()["detail"]
    assert time.monotonic() - started < 3


def test_a_retry_keeps_the_jobs_own_webhook_with_its_secret(http, live):
    secret = "whsec_" + "YWJj" * 8
    webhook = WebhookCreate(url="http://198.51.100.1/hook", events=["job.started", "job.failed"], secret=secret)
    old = live.bench.job(webhook=webhook)
    live.bench.jobs.cancel(old.id)
    new = http.post(f"/v1/jobs/{old.id}/retry", json={"from": "start"}).json()["id"]
    live.bench.jobs.cancel(new)
    again = http.post(f"/v1/jobs/{new}/retry", json={"from": "start"}).json()["id"]
    with read_session(live.context.engine) as session:
        hooks = {
            hook.job_id: hook for hook in session.exec(select(Webhook).where(col(Webhook.job_id).is_not(None))).all()
        }
    for job_id in (new, again):
        hook = hooks[job_id]
        assert (hook.url, hook.events, hook.secret) == (webhook.url, ["job.started", "job.failed"], secret)
        assert hook.id != hooks[old.id].id
    live.bench.jobs.cancel(again)
