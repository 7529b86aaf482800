"""The dispatcher: compares the queue with the workers on the cluster, and starts and withdraws workers.

It keeps nothing that matters: what runs is in Ray, what waits in the server's queue. A worker's name is its job's id
and the number of the job's last lease, so that none is started twice, and a job whose lease ran out gets a new one.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from pydantic import SecretStr

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.queue import WaitingJob
from worker.limits import ExitCode
from worker.ray.one_shot import Ended, Order
from worker.ray.options import DispatcherOptions
from worker.ray.placement import NoPlace, Placement, place

logger = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
"""Before another worker for a job that the last one did not take; doubled each time."""


class Queue(Protocol):
    """The server's part: jobs that are due, and statuses."""

    def waiting(self) -> Sequence[WaitingJob]:
        """The first jobs that are due."""

    def statuses(self, job_ids: Sequence[str]) -> Mapping[str, JobStatus]:
        """Statuses of those jobs that there are."""


class Cluster(Protocol):
    """Ray's part; see `worker.ray.cluster`."""

    @property
    def names(self) -> set[str]: ...
    @property
    def waiting(self) -> set[str]: ...
    def most_gpus(self) -> int: ...
    def update(self) -> Mapping[str, Ended]: ...
    def start(self, name: str, placement: Placement, order: Order) -> None: ...
    def withdraw(self, name: str) -> None: ...


@dataclass
class _Failed:
    """Workers that ended and left their job in the queue as it was."""

    number: int = 0
    retry_at: float = 0.0
    avoided: set[str] = field(default_factory=set)
    """Nodes that turned out not to have what the job needs."""


@dataclass
class Dispatcher:
    """Dispatcher of one server's jobs to one cluster."""

    server: str
    token: SecretStr
    queue: Queue
    cluster: Cluster
    options: DispatcherOptions
    _failed: dict[str, _Failed] = field(default_factory=dict)
    """By the names of workers."""
    _unwanted: set[str] = field(default_factory=set)
    """Waiting workers whose jobs were not in the queue at the last turn."""
    _told: dict[str, str] = field(default_factory=dict)
    """Why a job has no place, as it was last logged."""

    def turn(self) -> None:
        """Compare once. The queue is read first: a worker that takes its job meanwhile is not taken for unwanted."""
        jobs = {_name(job): job for job in self.queue.waiting()}
        ended = self.cluster.update()
        for name, end in ended.items():
            self._note(name, end, is_queued=name in jobs)
        self._failed = {name: failed for name, failed in self._failed.items() if name in jobs}
        self._told = {name: sentence for name, sentence in self._told.items() if name in jobs}
        self._withdraw_unwanted(jobs)
        for name, job in jobs.items():
            # One that has just ended may have run its job since the queue was read.
            if name not in self.cluster.names and name not in ended and self._is_due(name):
                self._start(name, job, jobs)

    def _note(self, name: str, end: Ended, *, is_queued: bool) -> None:
        is_as_usual = not is_queued or end.exit_code == ExitCode.HANDED_BACK
        fields = {"worker": name, "exit_code": end.exit_code, "node": end.node_id, "last_lines": end.last_lines}
        if is_as_usual:
            logger.info("worker ended", **fields)
        else:
            logger.warning("worker ended, and its job still waits", **fields)
        if not is_as_usual:
            failed = self._failed.setdefault(name, _Failed())
            pause = min(FIRST_PAUSE_SECONDS * 2**failed.number, LONGEST_PAUSE_SECONDS)
            failed.number, failed.retry_at = failed.number + 1, time.monotonic() + pause
            if end.exit_code == ExitCode.NOTHING_RUN and end.node_id is not None:
                failed.avoided.add(end.node_id)

    def _is_due(self, name: str) -> bool:
        return name not in self._failed or self._failed[name].retry_at <= time.monotonic()

    def _withdraw_unwanted(self, jobs: Mapping[str, WaitingJob]) -> None:
        """Withdraw the workers without a place whose jobs are no longer to be run, at two turns in a row."""
        candidates = {name: _job_id(name) for name in self.cluster.waiting - set(jobs)}
        if candidates:
            statuses = self.queue.statuses(list(candidates.values()))
            queued_again = {job.job_id for job in jobs.values()}  # under another number
            candidates = {
                name: job_id
                for name, job_id in candidates.items()
                if job_id in queued_again or statuses.get(job_id) is not JobStatus.QUEUED
            }
        for name in self._unwanted & set(candidates):
            logger.info("worker withdrawn: its job is not to be run any more", worker=name)
            self.cluster.withdraw(name)
        self._unwanted = set(candidates)

    def _start(self, name: str, job: WaitingJob, jobs: Mapping[str, WaitingJob]) -> None:
        avoided = self._failed[name].avoided if name in self._failed else ()
        most_gpus = self.options.gpus_per_node or self.cluster.most_gpus() or None
        try:
            placement = place(job, self.options, most_gpus, avoided)
        except NoPlace as error:
            if self._told.get(name) != str(error):
                self._told[name] = str(error)
                logger.warning("a job has no place on the cluster", job_id=job.job_id, reason=str(error))
            return
        if not self._has_room(job, jobs):
            return
        labels = ",".join(f"{key}={value}" for key, value in (self.options.labels | job.labels).items())
        order = Order(self.server, self.token, job.job_id, labels, self.options.cpus_per_job)
        self.cluster.start(name, placement, order)
        logger.info("worker asked for", worker=name, num_gpus=placement.num_gpus, labels=labels, priority=job.priority)

    def _has_room(self, job: WaitingJob, jobs: Mapping[str, WaitingJob]) -> bool:
        """Whether one more may wait, if need be in place of a waiting one of lower priority."""
        waiting = self.cluster.waiting
        if len(waiting) < self.options.max_waiting and len(self.cluster.names) < self.options.max_workers:
            return True
        lower = [name for name in waiting if name in jobs and jobs[name].priority < job.priority]
        if not lower:
            return False
        last = min(lower, key=lambda name: jobs[name].priority)
        logger.info("worker withdrawn: a job of higher priority goes first", worker=last)
        self.cluster.withdraw(last)
        return True


def _name(job: WaitingJob) -> str:
    return f"{job.job_id}.{job.token}"


def _job_id(name: str) -> str:
    return name.rpartition(".")[0]
