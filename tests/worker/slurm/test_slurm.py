"""The recipe for Slurm (deploy/slurm/), on a real one: workers that end with their job, are preempted and cancelled."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rvc_train.schemas.access import Scope, TokenCreate

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
RECIPE = Path(__file__).parents[3] / "deploy" / "slurm"


class Cluster(NamedTuple):
    """Slurm, a server, and what the recipe's file of settings names."""

    slurm: Any
    station: Any
    dataset: Any
    variables: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where the workers of the node keep the files of jobs."""
        return Path(self.variables["RVC_TRAIN_DATA_FOLDER"])

    def sbatch(self, *words: str) -> str:
        """Start a worker; the id of Slurm's job."""
        return self.slurm.run("sbatch", "--parsable", *words, str(RECIPE / "worker.sbatch"), **self.variables)

    def fill(self, most: int) -> str:
        return self.slurm.run(str(RECIPE / "fill.sh"), str(most), **self.variables)

    def steps(self, job: Any) -> list[int]:
        """The steps of a job's engine on the node, repeats included."""
        path = self.folder / job.id / "workspace" / "steps.txt"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.is_file() else []

    def train(self, *script: list[object]) -> Any:
        """A job that a worker of Slurm has begun, and the id of Slurm's job."""
        self.station.follow_script(*script, *self.station.MAKE_VOICE)
        job = self.station.submit(self.dataset)
        worker = self.sbatch()
        self.slurm.wait_until(lambda: len(self.steps(job)) >= 7, "seven steps", 60)
        return job, worker


@pytest.fixture(scope="module")
def cluster(slurm: Any, lasting_station: Any) -> Cluster:
    station = lasting_station
    station.environment["RVC_TRAIN_LEASE_SECONDS"] = "20"
    station.start_server()
    token = station.client.access.create_token(TokenCreate(owner="machines", scopes=[Scope.WORK])).secret
    settings = station.folder / "worker.env"
    settings.write_text(f"RVC_TRAIN_WORKER_SERVER={station.url}\nRVC_TRAIN_TOKEN={token}\n")
    settings.chmod(0o600)
    station.follow_script(*station.MAKE_VOICE)  # the command of the engine, in the environment
    of_worker = ("ENGINE_COMMAND", "HEARTBEAT_SECONDS", "WISH_SECONDS", "POLL_SECONDS", "RECORD_SECONDS", "DEVICE")
    variables = {name: station.environment[name] for name in map("RVC_TRAIN_{}".format, of_worker)}
    variables |= {
        "RVC_SETTINGS": str(settings),
        "RVC_TRAIN_DATA_FOLDER": str(station.folder / "node"),
        "RVC_TRAIN_CONVERSIONS": "false",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return Cluster(slurm, station, station.upload(station.samples / "vm-review.flac"), variables)


def test_a_worker_is_started_for_each_job_that_is_due_and_ends_with_it(cluster: Cluster) -> None:
    station, slurm = cluster.station, cluster.slurm
    station.follow_script(["train", 5, 0.1, 1], *station.MAKE_VOICE)
    jobs = [station.submit(cluster.dataset, name=name) for name in ("anna", "berta", "clara")]
    assert "Submitted batch job" in cluster.fill(20)
    assert len(slurm.run("squeue", "--noheader", "--array").splitlines()) == 3
    for job in jobs:
        assert station.wait_for(job, "succeeded", "failed", seconds=90).status == "succeeded", slurm.words()
    slurm.wait_until(lambda: slurm.run("squeue", "--noheader") == "", "the end of the workers", 30)
    assert cluster.fill(20) == ""
    token = (station.folder / "worker.env").read_text().split("TOKEN=")[1].strip()
    assert token not in slurm.words()


def test_a_preempted_worker_starts_again_and_its_job_goes_on_from_the_servers_checkpoint(cluster: Cluster) -> None:
    station, slurm = cluster.station, cluster.slurm
    job, worker = cluster.train(["train", 60, 0.1, 100])
    slurm.run("sbatch", "--partition=urgent", "--gres=gpu:2", "--wrap=sleep 2")
    slurm.wait_until(lambda: slurm.state(worker) == "PENDING", "the worker to be preempted", 60)
    assert station.client.job(job.id).status == "queued"
    shutil.rmtree(cluster.folder)  # the node that is next has nothing
    slurm.start_again_now(worker)
    ended = station.wait_for(job, "succeeded", "failed", seconds=90)
    assert (ended.status, ended.attempt) == ("succeeded", 2), slurm.words()
    (mel,) = station.client.metrics(job.id, key=["loss/mel"]).data
    assert mel.steps == list(range(1, 61))
    assert "going on from step" in station.client.logs(job.id)
    slurm.wait_until(lambda: slurm.state(worker) == "COMPLETED", "the end of the worker", 30)


def test_a_worker_at_the_end_of_its_time_starts_again(cluster: Cluster) -> None:
    station, slurm = cluster.station, cluster.slurm
    job, worker = cluster.train(["train", 40, 0.1, 100])
    slurm.run("scancel", "--batch", "--signal=USR1", worker)  # what --signal=B:USR1@300 has Slurm do
    slurm.start_again_now(worker)
    ended = station.wait_for(job, "succeeded", "failed", seconds=90)
    assert (ended.status, ended.attempt) == ("succeeded", 2), slurm.words()
    assert "going on from step" in station.client.logs(job.id)


def test_a_cancelled_worker_hands_its_job_back_and_stays_away(cluster: Cluster) -> None:
    station, slurm = cluster.station, cluster.slurm
    job, worker = cluster.train(["train", 200, 0.1, 100])
    slurm.run("scancel", worker)
    station.wait_for(job, "queued", seconds=30)
    slurm.wait_until(lambda: slurm.state(worker) == "CANCELLED", "the end of the worker", 30)
    assert slurm.run("squeue", "--noheader") == ""
    station.client.cancel(job.id)
