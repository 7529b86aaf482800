"""Jobs on a Ray cluster: each ends once, on a node that fits, whatever is killed meanwhile."""

import os
from typing import Any

import psutil
import pytest

from rvc_train.schemas.jobs import JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]  # warnings are Ray's

NUM_JOBS = int(os.environ.get("RVC_TRAIN_TEST_CLUSTER_JOBS", "20"))
QUEUED, RUNNING, SUCCEEDED, CANCELLED = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED, JobStatus.CANCELLED


@pytest.fixture(autouse=True)
def nothing_is_left(site: Any) -> Any:
    yield
    site.end_all()


def test_a_job_waits_for_a_cluster_without_nodes_and_runs_when_one_joins(site: Any) -> None:
    with site.dispatcher():
        job = site.submit(["train", 3, 0.05, 1])
        site.wait_until(lambda: f"{job}.0" in site.dispatchers_words(), "a worker to be asked for", 60)
        assert site.statuses([job]) == {job: QUEUED}
        site.add_node("first", num_gpus=1)
        site.wait_for([job], SUCCEEDED, 90)
    ((token, outcome, name, _),) = site.attempts(job)
    assert (token, outcome, name) == (1, SUCCEEDED, "first")


def test_four_jobs_share_a_gpu_in_quarters_and_a_fifth_waits(site: Any, tmp_path: Any) -> None:
    site.add_node("shared", num_gpus=1)
    with site.dispatcher(gpus_per_job=0.25):
        jobs = [site.submit(["wait_for_file", str(tmp_path / "go")]) for _ in range(5)]
        site.wait_until(lambda: list(site.statuses(jobs).values()).count(RUNNING) == 4, "four to run", 300)
        assert sorted(site.statuses(jobs).values()) == [QUEUED, RUNNING, RUNNING, RUNNING, RUNNING]
        assert not any(site.token in " ".join(arguments(process)) for process in psutil.process_iter())
        (tmp_path / "go").touch()
        site.wait_for(jobs, SUCCEEDED, 300)
    assert {name for job in jobs for _, _, name, _ in site.attempts(job)} == {"shared"}


def test_a_job_that_needs_more_gpus_than_any_node_has_is_told_so_and_a_cancelled_one_is_withdrawn(site: Any) -> None:
    site.add_node("small", num_gpus=2)
    with site.dispatcher():
        large = site.submit(gpus=3)
        elsewhere = site.submit(labels={"place": "nowhere"})
        site.wait_until(lambda: f"{elsewhere}.0" in site.dispatchers_words(), "a worker to be asked for", 60)
        site.wait_until(lambda: "3 GPUs on one node, and the largest has 2" in site.dispatchers_words(), "it", 30)
        assert f"{large}.0" not in site.dispatchers_words()
        for job in (large, elsewhere):
            site.shop.jobs.cancel(job)
        site.wait_until(lambda: "not to be run any more" in site.dispatchers_words(), "its withdrawal", 30)


def test_what_is_killed_in_the_middle_loses_nothing_and_runs_nothing_twice(site: Any) -> None:
    site.add_node("a", num_gpus=2, kind="small")
    site.add_node("b", num_gpus=2, kind="large")
    site.add_node("c", num_gpus=1, kind="large")
    dispatcher = site.start_dispatcher()
    script = ["train", 25, 0.2, 2]
    wanted = [{}, {"labels": {"kind": "small"}}, {"labels": {"kind": "large"}}, {"gpus": 2}]
    jobs = {
        site.submit(script, owner=("ann", "ben", "cat")[number % 3], **wanted[number % 4]): wanted[number % 4]
        for number in range(NUM_JOBS)
    }
    ids = list(jobs)

    def num_ended() -> int:
        return list(site.statuses(ids).values()).count(SUCCEEDED)

    site.wait_until(lambda: num_ended() >= NUM_JOBS // 8, "the first jobs to end", 300)
    site.kill(dispatcher)
    dispatcher = site.start_dispatcher()
    site.wait_until(lambda: num_ended() >= NUM_JOBS // 4, "more jobs to end", 300)
    site.kill_server()
    site.start_server()
    site.wait_until(lambda: runs_on(site, ids, "c"), "a job on the node that is lost", 300)
    site.lose_node("c")
    site.wait_for(ids, SUCCEEDED, 600)
    site.kill(dispatcher)
    for job, resources in jobs.items():
        attempts = site.attempts(job)
        assert [outcome for *_, outcome, _, _ in attempts].count(SUCCEEDED) == 1
        assert [token for token, *_ in attempts] == list(range(1, len(attempts) + 1))
        assert all(name == "c" for _, _, name, _ in attempts[:-1]), attempts  # only a lost node costs an attempt
        assert all(labels.items() >= resources.get("labels", {}).items() for *_, labels in attempts)
        nodes = {"small": "a", "large": "bc"}.get(resources.get("labels", {}).get("kind"), "abc")
        assert all(name in nodes.replace("c", "" if "gpus" in resources else "c") for _, _, name, _ in attempts)
        assert site.shop.event_types(job).count("succeeded") == 1
        assert len(site.shop.artifacts(job)) == 2
    again = [job for job in ids if len(site.attempts(job)) > 1]
    assert again
    assert all("going on from step" in site.shop.log(job) for job in again)


def test_the_token_is_in_none_of_rays_logs(site: Any) -> None:
    from pathlib import Path

    logs = [path for path in Path(site.cluster.head_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert logs
    assert not [path for path in logs if site.token.encode() in path.read_bytes()]


def test_a_lost_head_costs_what_runs_nothing_and_what_waits_runs_in_the_cluster_that_follows(site: Any) -> None:
    site.add_node("before", num_gpus=1)
    dispatcher = site.start_dispatcher()
    script = ["train", 40, 0.2, 5]
    running = site.submit(script)
    site.wait_until(lambda: runs_on(site, [running], "before"), "a job on the node", 120)
    site.lose_head()
    waiting = site.submit(script)
    site.wait_for([running], SUCCEEDED, 90)
    site.wait_until(lambda: not site.processes("RVC_TRAIN_WORKER_NAME=before"), "the end of the node", 90)
    site.start_head()
    site.add_node("after", num_gpus=1)
    site.wait_for([waiting], SUCCEEDED, 180)
    assert dispatcher.poll() is None
    for job, node in ((running, "before"), (waiting, "after")):
        assert [(token, name) for token, _, name, _ in site.attempts(job)] == [(1, node)]


def runs_on(site: Any, jobs: list[str], node: str) -> bool:
    """Whether a job that has a checkpoint runs on a node."""
    running = [job for job, status in site.statuses(jobs).items() if status == RUNNING]
    on_it = [job for job in running if (attempts := site.attempts(job)) and attempts[-1][2] == node]
    return any("checkpoint_saved" in site.shop.event_types(job) for job in on_it)


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
