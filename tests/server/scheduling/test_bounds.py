"""Places in the queue and waits are bounds; a job that nobody can take says what is lacking, over HTTP too."""

from typing import Any

from rvc_train.schemas.jobs import JobCreate, JobPublic, Range, Resources
from server.database.engine import read_session
from server.estimates.estimates import Estimator
from server.job_store.liveness import WorkerLiveness
from server.jobs.serializers import jobs_public, queue_public


def submit(bench: Any, owner: str, **fields: Any) -> str:
    request = JobCreate(name="anna", dataset_id=bench.dataset(), **fields)
    return str(bench.jobs.submit(request, owner=owner).job_id)


def seen(bench: Any, *job_ids: str) -> list[JobPublic]:
    with read_session(bench.jobs.engine) as session:
        return jobs_public(session, [bench.jobs.get(each) for each in job_ids], Estimator(), bench.clock())


def test_a_place_is_the_last_one_that_shares_allow(bench: Any) -> None:
    many = [submit(bench, "many") for _ in range(4)]
    late = [submit(bench, "late") for _ in range(2)]
    assert [job.queue_position for job in seen(bench, *many)] == [1, 4, 5, 6], "as if all of late went first"
    assert [job.queue_position for job in seen(bench, *late)] == [2, 6]
    lease = bench.claim()
    assert lease.job_id == many[0]
    assert [job.queue_position for job in seen(bench, late[0])] == [1], "many has GPU time now"
    urgent = submit(bench, "many", priority=1)
    assert [job.queue_position for job in seen(bench, urgent, late[0])] == [1, 2]
    order = [bench.claim().job_id for _ in range(3)]
    assert order[:2] == [urgent, late[0]]


def test_a_wait_is_at_least_and_at_most_what_the_orders_give(bench: Any) -> None:
    for _ in range(3):
        submit(bench, "many")
    bench.worker()
    (first,) = (submit(bench, "late"),)
    found = seen(bench, first)[0]
    assert found.starts_in is None, "the jobs before it may take any time"
    bench.claim()
    bench.worker()
    assert seen(bench, first)[0].starts_in == Range(low=0, likely=0, high=0), "it is the next one, for a free worker"


def test_a_job_that_no_worker_can_take_says_so_and_holds_no_wait_up(bench: Any) -> None:
    lost = submit(bench, "a", resources=Resources(labels={"pool": "x"}))
    behind = submit(bench, "a")
    assert [job.lacking for job in seen(bench, lost)] == [[]], "no worker at all: that is another message"
    bench.worker()
    found = seen(bench, lost, behind)
    sentence = "the job needs a worker with the label pool=x, and no running worker has it"
    assert [job.lacking for job in found] == [[sentence], []]
    assert [job.starts_in for job in found] == [None, Range(low=0, likely=0, high=0)]
    with read_session(bench.jobs.engine) as session:
        queue = queue_public(session, Estimator(), bench.clock(), WorkerLiveness(60))
    assert [(entry.id, entry.lacking) for entry in queue.queued] == [(lost, [sentence]), (behind, [])]


def test_requirements_and_what_is_lacking_are_told_over_http(live: Any) -> None:
    bench = live.bench
    bench.jobs.register_worker("gpu", 1, "here", "cuda:0", num_gpus=1, gpu_memory_bytes=8 * 10**9, labels={"a": "b"})
    dataset = bench.dataset()
    wanted = {"gpu_memory_bytes": 24 * 10**9, "labels": {"a": "b"}}
    body = {"name": "anna", "dataset_id": dataset, "resources": wanted}
    with live.client() as http:
        made = http.post("/v1/jobs", json=body).json()
        assert made["resources"] == wanted | {"gpus": 1}
        sentence = "the job needs 24.0 GB of GPU memory, and the GPU of no running worker has more than 8.0 GB"
        assert made["lacking"] == [sentence]
        estimate = http.post("/v1/jobs:estimate", json=body).json()
        assert sentence in estimate["warnings"]
        assert estimate["starts_in"] is None
        worker = http.get("/v1/workers").json()["data"][0]
        assert (worker["num_gpus"], worker["gpu_memory_bytes"], worker["labels"]) == (1, 8 * 10**9, {"a": "b"})
        refused = http.post("/v1/jobs", json=body | {"resources": {"gpu": 1}})
        assert refused.status_code == 422
        http.post(f"/v1/jobs/{made['id']}/cancel")
        again = http.post(f"/v1/jobs/{made['id']}/retry", json={"from": "start"}).json()
        assert again["resources"] == made["resources"]
