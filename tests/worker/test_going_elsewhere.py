"""Jobs that go from one worker to another: over the storage, by a drain, and never back to an older state."""

import json
import shutil
from typing import Any

import pytest
from sqlmodel import select

from rvc_train.schemas.jobs import JobRetry
from rvc_train.schemas.workers import Drain
from server.database.engine import read_session
from server.database.tables import Worker
from server.jobs.retry import RetryService
from server.results.checkpoints import StoredCheckpoints


def busy_worker(shop: Any, job_id: str) -> str:
    shop.wait_until(lambda: shop.job(job_id).worker_id is not None, "a worker")
    return shop.job(job_id).worker_id


def steps_in(folder: Any, job_id: str) -> list[int]:
    path = folder / job_id / "workspace" / "steps.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []


def stored_step(shop: Any, job_id: str) -> int:
    run = StoredCheckpoints(shop.storage, job_id).latest()
    return 0 if run is None else run.newest.step


def test_a_worker_with_another_scratch_folder_goes_on_where_the_first_one_was(shop, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    job_id = shop.submit([["train", 60, 0.05, 4], *shop.MAKE_VOICE])
    with shop.worker(scratch_folder=here):
        shop.wait_until(lambda: len(steps_in(here, job_id)) >= 5, "five steps")
    done = steps_in(here, job_id)
    assert stored_step(shop, job_id) == done[-1]
    with shop.worker(scratch_folder=there):
        shop.wait_until(lambda: len(steps_in(there, job_id)) >= 2, "steps elsewhere")
        assert steps_in(there, job_id)[0] == done[-1] + 1
        shop.wait_for(job_id, "succeeded")
        shop.wait_until(lambda: not (there / job_id).exists(), "the end of the scratch folder")
    assert f"restored the checkpoint of step {done[-1]} from the storage" in shop.log(job_id)
    assert not shop.storage.workspace(job_id).exists()
    assert (shop.job(job_id).failures, shop.job(job_id).claims) == (0, 2)


def test_a_workspace_that_is_older_than_the_storage_gives_way_to_it(shop, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    job_id = shop.submit([["train", 60, 0.05, 2], *shop.MAKE_VOICE])
    for folder, count in ((here, 3), (there, 3)):
        with shop.worker(scratch_folder=folder):
            shop.wait_until(lambda f=folder, n=count: len(steps_in(f, job_id)) >= n, "three steps")
    last = steps_in(there, job_id)[-1]
    with shop.worker(scratch_folder=here):
        shop.wait_until(lambda: last + 1 in steps_in(here, job_id), "a step behind the other worker's last")
        assert steps_in(here, job_id)[0] == last + 1  # the old workspace was cleared
        shop.wait_for(job_id, "succeeded")


def test_checkpoints_in_the_storage_are_links_of_the_last_two_and_survive_the_workspace(shop):
    go = shop.folder / "go"
    script = [
        ["train", 4, 0.02, 2],
        ["wait_for_file", str(go)],
        ["train", 6, 0.02, 2],
        ["log", "trained"],
        ["sleep", 60],
    ]
    job_id = shop.submit(script)
    with shop.worker():
        shop.wait_until(lambda: stored_step(shop, job_id) == 4, "the copy of the one before")
        go.touch()
        shop.wait_until(lambda: stored_step(shop, job_id) == 6, "the copy of the last checkpoint")
        run = StoredCheckpoints(shop.storage, job_id).latest()
        assert [entry.step for entry in run.entries] == [4, 6]
        files = [entry.file for entry in run.entries]
        # The manifest is written before what it no longer names is deleted.
        shop.wait_until(lambda: sorted(path.name for path in run.folder.glob("*.pt")) == files, "two copies alone")
        assert all((run.folder / entry.file).stat().st_nlink == 2 for entry in run.entries)
    shutil.rmtree(shop.storage.workspace(job_id))
    shop.script.write_text(json.dumps([["train", 8, 0.02, 2], *shop.MAKE_VOICE]))
    with shop.worker():
        shop.wait_for(job_id, "succeeded")
    assert shop.steps(job_id) == [7, 8]


def test_a_damaged_copy_is_passed_over_and_with_none_left_the_job_fails_and_does_not_begin_anew(shop, tmp_path):
    job_id = shop.submit([["train", 20, 0.03, 2], *shop.MAKE_VOICE])
    with shop.worker(scratch_folder=tmp_path / "here"):
        shop.wait_until(lambda: stored_step(shop, job_id) >= 4, "copies")
    shutil.rmtree(tmp_path / "here")
    run = StoredCheckpoints(shop.storage, job_id).latest()
    for entry in run.entries:
        (run.folder / entry.file).write_bytes(b"half")
    with shop.worker(scratch_folder=tmp_path / "there"):
        job = shop.wait_for(job_id, "failed", "succeeded")
    assert (job.status, job.error_code) == ("failed", "incompatible_checkpoint")
    assert "from the start" in job.error_message
    assert steps_in(tmp_path / "there", job_id) == []


@pytest.mark.parametrize("start_from", ["checkpoint", "start"])
def test_a_retry_goes_on_from_the_checkpoint_or_begins_anew_as_it_is_told(shop, start_from):
    old = shop.submit([["train", 6, 0.01, 3], ["fail", "diverged", "the losses are no numbers"]])
    with shop.worker():
        shop.wait_for(old, "failed")
        shop.script.write_text(json.dumps([["train", 9, 0.01, 3], *shop.MAKE_VOICE]))
        request = JobRetry(**{"from": start_from})
        new = RetryService(shop.jobs, shop.storage).retry(old, request, visible_owner=None).job_id
        shop.wait_for(new, "succeeded")
    assert shop.steps(new) == (list(range(7, 10)) if start_from == "checkpoint" else list(range(1, 10)))
    assert (shop.job(new).retry_of, shop.job(new).retry_from) == (old, start_from)


def test_a_drained_worker_hands_its_job_back_at_once_and_ends_while_another_goes_on(shop):
    job_id = shop.submit([["train", 60, 0.05, 1000], *shop.MAKE_VOICE])
    with shop.worker() as first:
        worker_id = busy_worker(shop, job_id)
        shop.wait_until(lambda: len(shop.steps(job_id)) >= 2, "two steps")
        assert shop.jobs.drain_worker(worker_id, Drain.HAND_BACK)
        assert not shop.jobs.drain_worker(worker_id, Drain.HAND_BACK)
        shop.wait_until(lambda: is_stopped(shop, worker_id), "the worker's end")
        assert not first.is_set()
        job = shop.job(job_id)
        assert (job.status, job.failures) == ("queued", 0)
    with shop.worker():
        shop.wait_for(job_id, "succeeded")
    assert shop.steps(job_id) == list(range(1, 61))


def test_a_worker_that_may_finish_finishes_its_job_and_takes_no_other(shop):
    job_id, next_id = (shop.submit([["train", 8, 0.05, 1000], *shop.MAKE_VOICE]) for _ in range(2))
    with shop.worker():
        worker_id = busy_worker(shop, job_id)
        shop.jobs.drain_worker(worker_id, Drain.FINISH)
        shop.wait_until(lambda: is_stopped(shop, worker_id), "the worker's end")
    assert (shop.job(job_id).status, shop.job(job_id).claims) == ("succeeded", 1)
    assert shop.job(next_id).status == "queued"


def is_stopped(shop: Any, worker_id: str) -> bool:
    with read_session(shop.engine) as session:
        return session.exec(select(Worker.stopped_at).where(Worker.id == worker_id)).one() is not None


def test_pace_and_stages_of_an_attempt_are_written_down(shop):
    job_id = shop.submit([["train", 3, 0.01, 1000], *shop.MAKE_VOICE])
    with shop.worker():
        shop.wait_for(job_id, "succeeded")
    attempt = shop.attempts(job_id)[0]
    assert (attempt.step_seconds, attempt.stage_seconds) == (0.01, {"train": pytest.approx(0.03)})
    assert attempt.device_name
