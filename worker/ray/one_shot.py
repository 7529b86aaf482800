"""Actor that runs one worker for one job, as a child process on the node where Ray placed it."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import platformdirs
from pydantic import SecretStr

from rvc_engine.child_processes import inherited_environment, python_command
from rvc_engine.environment.processes import STOPS_WITH_PARENT

SECONDS_TO_COLLECT = 10
"""After the end of the worker, until the actor ends when no dispatcher has asked how it went."""
SECONDS_TO_WAIT = 60
_NUM_LINES = 3


@dataclass(frozen=True)
class Order:
    """Settings that a worker is started with. The token is not shown where Ray or Python write the order."""

    server: str
    token: SecretStr
    job_id: str
    labels: str
    """As in RVC_TRAIN_WORKER_LABELS."""
    num_threads: int

    def environment(self, node: Mapping[str, str], num_gpus: int) -> dict[str, str]:
        """Environment of the worker: that of its node, whose own settings stay, with those of the order."""
        inherited = inherited_environment(node)
        inherited.pop("OMP_NUM_THREADS", None)  # which Ray sets; the engine's threads are given below
        cuda = "+".join(f"cuda:{index}" for index in range(num_gpus))
        defaults = {
            "RVC_TRAIN_DEVICE": (cuda if node.get("CUDA_VISIBLE_DEVICES") else "auto") if num_gpus else "cpu",
            "RVC_TRAIN_CONVERSIONS": "false",  # a worker that stays serves them
            "RVC_TRAIN_CALIBRATE": "false",
            "RVC_TRAIN_ENGINES_PER_MACHINE": str(max(1, (os.cpu_count() or 1) // self.num_threads)),
            "RVC_TRAIN_DATA_FOLDER": str(platformdirs.user_data_path("rvc-train") / "remote-worker"),
        }
        own = {
            "RVC_TRAIN_WORKER_SERVER": self.server,
            "RVC_TRAIN_TOKEN": self.token.get_secret_value(),
            "RVC_TRAIN_WORKER_JOB": self.job_id,
            "RVC_TRAIN_WORKER_MAX_JOBS": "1",
            "RVC_TRAIN_WORKER_LABELS": self.labels,
        }
        return defaults | inherited | own


@dataclass(frozen=True)
class Ended:
    """End of a worker."""

    exit_code: int | None
    """As in `worker.limits.ExitCode`; negative: the number of a signal; None: with its node, or by Ray."""
    last_lines: str
    node_id: str | None


class OneShotWorker:
    """The actor. Its worker stops, with a checkpoint, when the actor's process ends."""

    def __init__(self, order: Order) -> None:
        """Start the worker, so that it runs without a dispatcher too."""
        import ray

        context = ray.get_runtime_context()
        self._node_id: str = context.get_node_id()
        self._itself = context.current_actor
        num_gpus = len(context.get_accelerator_ids().get("GPU", []))
        self._lines: deque[str] = deque(maxlen=_NUM_LINES)
        self._has_ended = threading.Event()
        self._process = subprocess.Popen(
            python_command("worker", STOPS_WITH_PARENT),
            env=order.environment(os.environ, num_gpus),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def node_id(self) -> str:
        """Id of its node: the answer comes once the actor has its place."""
        return self._node_id

    def wait(self) -> Ended | None:
        """Wait for the end of the worker; None where it goes on, after a time: the dispatcher may be gone."""
        if not self._has_ended.wait(SECONDS_TO_WAIT):
            return None
        return Ended(self._process.returncode, "\n".join(self._lines), self._node_id)

    def _watch(self) -> None:
        import ray

        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:  # into Ray's log of this actor
            sys.stdout.write(line)
            sys.stdout.flush()
            self._lines.append(line.rstrip())
        self._process.wait()
        self._has_ended.set()
        threading.Event().wait(SECONDS_TO_COLLECT)
        ray.kill(self._itself)
