"""What the dispatcher asks for, withdraws and waits with, on a cluster that only remembers; and what jobs reserve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import structlog
from pydantic import SecretStr
from structlog.testing import capture_logs

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.queue import WaitingJob
from worker.limits import ExitCode
from worker.ray.dispatcher import Dispatcher
from worker.ray.one_shot import Ended, Order
from worker.ray.options import DispatcherOptions
from worker.ray.placement import NODE_ID, NoPlace, Placement, place

TOKEN = SecretStr("the token of the workers")


def job(job_id: str = "job_1", token: int = 0, **changed: object) -> WaitingJob:
    fields = {"attempts": token, "priority": 0, "gpus": 0, "gpu_memory_bytes": None, "labels": {}}
    return WaitingJob.model_validate(fields | {"job_id": job_id, "token": token} | changed)


@dataclass
class Remembered:
    """A queue, and a cluster on which nothing gets a place by itself."""

    jobs: list[WaitingJob] = field(default_factory=list)
    ended: dict[str, JobStatus] = field(default_factory=dict)
    placed: dict[str, Placement] = field(default_factory=dict)
    waiting_names: set[str] = field(default_factory=set)
    ends: dict[str, Ended] = field(default_factory=dict)
    gpus: int = 2

    @property
    def names(self) -> set[str]:
        return set(self.placed)

    @property
    def waiting(self) -> set[str]:
        return self.waiting_names & self.names

    def most_gpus(self) -> int:
        return self.gpus

    def update(self) -> Mapping[str, Ended]:
        ends, self.ends = self.ends, {}
        for name in ends:
            self.withdraw(name)
        return ends

    def start(self, name: str, placement: Placement, order: Order) -> None:
        assert name not in self.placed
        self.placed[name] = placement
        self.waiting_names.add(name)

    def withdraw(self, name: str) -> None:
        del self.placed[name]


@dataclass
class Jobs:
    of: Remembered

    def waiting(self) -> Sequence[WaitingJob]:
        return self.of.jobs

    def statuses(self, job_ids: Sequence[str]) -> Mapping[str, JobStatus]:
        return {job_id: self.of.ended.get(job_id, JobStatus.QUEUED) for job_id in job_ids}


def dispatcher(site: Remembered, **options: object) -> Dispatcher:
    return Dispatcher("http://server", TOKEN, Jobs(site), site, DispatcherOptions.model_validate(options))


def test_a_job_gets_one_worker_for_each_of_its_leases_also_from_a_new_dispatcher() -> None:
    site = Remembered([job(token=0)])
    for _ in range(2):
        dispatcher(site).turn()
    assert site.names == {"job_1.0"}
    site.jobs = [job(token=1)]  # its node was lost
    dispatcher(site).turn()
    assert site.names == {"job_1.0", "job_1.1"}


def test_a_worker_that_left_its_job_is_followed_by_another_later_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("worker.ray.dispatcher.time.monotonic", lambda: now[0])
    site = Remembered([job()])
    made = dispatcher(site)
    made.turn()
    site.ends = {"job_1.0": Ended(ExitCode.NOTHING_RUN, "the GPU has too little memory", "node-1")}
    made.turn()
    assert site.names == set()
    now[0] += 6
    made.turn()
    assert site.placed["job_1.0"].label_selector == {NODE_ID: "!in(node-1)"}


def test_the_worker_of_a_job_that_was_ended_is_withdrawn_while_it_waits_and_no_other() -> None:
    site = Remembered([job("job_1"), job("job_2"), job("job_3")])
    made = dispatcher(site)
    made.turn()
    site.waiting_names.remove("job_3.0")  # it has its place: the worker itself gets the end with its next heartbeat
    site.jobs = []  # more than an answer has
    site.ended = {"job_1": JobStatus.CANCELLED, "job_3": JobStatus.CANCELLED}
    made.turn()
    assert site.names == {"job_1.0", "job_2.0", "job_3.0"}  # it may have its place since
    made.turn()
    assert site.names == {"job_2.0", "job_3.0"}


def test_few_wait_for_a_place_and_a_higher_priority_takes_one_of_theirs() -> None:
    site = Remembered([job(f"job_{number}") for number in range(5)])
    made = dispatcher(site, max_waiting=2)
    made.turn()
    assert site.names == {"job_0.0", "job_1.0"}
    site.jobs = [job("job_9", priority=5), *site.jobs]
    made.turn()
    assert "job_9.0" in site.names
    assert len(site.names) == 2
    site.waiting_names.clear()
    made.turn()
    assert len(site.names) == 4


def test_a_job_without_a_place_is_told_once_and_starts_when_a_larger_node_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Remembered([job(gpus=4)])
    made = dispatcher(site)
    with capture_logs() as lines:
        monkeypatch.setattr("worker.ray.dispatcher.logger", structlog.get_logger())  # none that was bound before
        for _ in range(2):
            made.turn()
    assert str(lines).count("4 GPUs on one node, and the largest has 2") == 1
    site.gpus = 4
    made.turn()
    assert site.placed["job_1.0"].num_gpus == 4


@pytest.mark.parametrize(
    ("gpus", "gpus_per_job", "reserved"),
    [(0, 1, 1), (1, 0.25, 0.25), (0, 0.25, 0.25), (2, 0.25, 2), (0, 0, 0), (1, 0, 1)],
)
def test_a_job_reserves_its_gpus_or_its_share_of_one(gpus: int, gpus_per_job: float, reserved: float) -> None:
    options = DispatcherOptions(gpus_per_job=gpus_per_job, cpus_per_job=3, memory_per_job=2)
    assert place(job(gpus=gpus), options, None, ()) == Placement(reserved, 3, 2 * 2**30, {})


def test_labels_of_a_job_are_those_of_its_node_but_for_what_all_nodes_have() -> None:
    options = DispatcherOptions(labels={"site": "north"})
    wanted = job(labels={"site": "north", "kind": "large"})
    assert place(wanted, options, 1, ()).label_selector == {"kind": "large"}
    with pytest.raises(NoPlace, match="none that Ray allows"):
        place(job(labels={"kind": "!in(large)"}), options, 1, ())


def test_the_worker_has_the_settings_of_its_node_and_the_token_is_not_shown() -> None:
    order = Order("http://server", TOKEN, "job_1", "kind=large", 2)
    node = {"CUDA_VISIBLE_DEVICES": "3,5", "OMP_NUM_THREADS": "1", "RVC_TRAIN_CONVERSIONS": "true"}
    environment = order.environment(node, 2)
    assert environment["RVC_TRAIN_DEVICE"] == "cuda:0+cuda:1"
    assert environment["RVC_TRAIN_CONVERSIONS"] == "true"
    assert environment["RVC_TRAIN_TOKEN"] == TOKEN.get_secret_value()
    assert "OMP_NUM_THREADS" not in environment
    assert order.environment({}, 0)["RVC_TRAIN_DEVICE"] == "cpu"
    assert TOKEN.get_secret_value() not in repr(order)
