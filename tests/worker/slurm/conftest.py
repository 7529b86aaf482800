"""Slurm's own programs in a folder of the tests: one node with two made-up GPUs, and preemption by partition."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rvc_train.cli.services import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")


class Slurm:
    """A cluster of one node. Its users are those of the machine, unchecked (`auth/none`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        (folder / "gres.conf").write_text("AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        (folder / "slurm.conf").write_text(
            f"""ClusterName=rvc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=ordinary Nodes=one PriorityTier=1 Default=YES MaxTime=INFINITE
PartitionName=urgent Nodes=one PriorityTier=2 MaxTime=INFINITE
"""
        )
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        path = f"{os.environ['PATH']}:/usr/sbin"
        self._daemons = [self._start(path, "slurmctld"), self._start(path, "slurmd", "-N", "one")]
        self.wait_until(lambda: self.run("sinfo", "--noheader", "--format=%T").startswith("idle"), "the node", 60)

    def _start(self, path: str, name: str, *options: str) -> subprocess.Popen[bytes]:
        program = shutil.which(name, path=path)
        assert program is not None
        with (self.folder / f"{name}.out").open("wb") as log:
            command = [program, "-D", "-f", self.environment["SLURM_CONF"], *options]
            return subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)

    def run(self, program: str, *words: str, **variables: str) -> str:
        """What one of Slurm's commands, or one that calls them, prints. AssertionError when it fails."""
        done = subprocess.run(
            [program, *words],
            env=os.environ | self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """The state of one of Slurm's jobs, such as PENDING."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.partition("=")[::2] for word in words)["JobState"]

    def start_again_now(self, job: str) -> None:
        """Begin a job that was put back into Slurm's queue. Slurm waits for two minutes; within a second it cannot."""
        self.wait_until(lambda: self.state(job) == "PENDING", "the job in Slurm's queue again", 60)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}\n{self.words()}"
            time.sleep(0.2)

    def words(self) -> str:
        """The last words of Slurm and of its jobs."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    def close(self) -> None:
        subprocess.run(["scancel", "--me"], env=os.environ | self.environment, check=False, timeout=30)
        time.sleep(1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(30)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} of Slurm not found; on Debian: apt-get install slurmctld slurmd slurm-client"
        )
    made = Slurm(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()
