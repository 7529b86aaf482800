"""The Ray cluster: its nodes, and the actors that run workers there.

The actors are detached and have names, so that they go on without the dispatcher and the next one finds them. Ray
restarts none of them: retries are the server's, by its leases on jobs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray.exceptions import RayActorError, RayTaskError
from ray.util import list_named_actors

from worker.ray.one_shot import Ended, OneShotWorker, Order
from worker.ray.placement import Placement

logger = structlog.get_logger(__name__)

MAX_CALLS = 16
"""Calls of an actor at a time: each dispatcher that waits for the end of one takes a thread of it."""


@dataclass
class _Watched:
    actor: Any
    node: Any
    """Answer with the id of its node, once it has one."""
    end: Any
    """Answer once it has ended."""
    node_id: str | None = None


class RayCluster:
    """Workers on a cluster."""

    def __init__(self, address: str, namespace: str) -> None:
        """Connect. Raises ConnectionError without a cluster there, and RuntimeError for one of another version."""
        ray.init(address=address, namespace=namespace, log_to_driver=False)
        self._class = ray.remote(OneShotWorker)
        self._workers: dict[str, _Watched] = {}

    def most_gpus(self) -> int:
        """GPUs of the largest node."""
        return max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)

    @property
    def names(self) -> set[str]:
        """Names of the workers, as of the last update."""
        return set(self._workers)

    @property
    def waiting(self) -> set[str]:
        """Names of those that have no place yet."""
        return {name for name, worker in self._workers.items() if worker.node_id is None}

    def update(self) -> dict[str, Ended]:
        """Look how the workers are; those that have ended since, by their names. Finds those of other dispatchers."""
        for name in set(list_named_actors()) - set(self._workers):
            try:
                self._watch(name, ray.get_actor(name))
            except ValueError:  # it has ended meanwhile
                continue
        return dict(self._collect())

    def start(self, name: str, placement: Placement, order: Order) -> None:
        """Ask Ray to place a worker, as soon as there is room; nothing for a name that is there."""
        options = {
            "num_gpus": placement.num_gpus,
            "num_cpus": placement.num_cpus,
            "memory": placement.memory,
            "label_selector": dict(placement.label_selector) or None,
        }
        actor = self._class.options(
            name=name,
            lifetime="detached",
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=MAX_CALLS,
            **{key: value for key, value in options.items() if value is not None},
        )
        try:
            self._watch(name, actor.remote(order))
        except ValueError as error:
            if "already" not in str(error):
                raise
            logger.info("another dispatcher has started this worker", name=name)

    def withdraw(self, name: str) -> None:
        """Take back the request for a place of a worker."""
        ray.kill(self._workers.pop(name).actor)

    def close(self) -> None:
        """Disconnect; the workers go on."""
        ray.shutdown()

    def _watch(self, name: str, actor: Any) -> None:
        self._workers[name] = _Watched(actor, actor.node_id.remote(), actor.wait.remote())

    def _collect(self) -> Iterator[tuple[str, Ended]]:
        answers = [answer for worker in self._workers.values() for answer in (worker.node, worker.end)]
        ready = set(ray.wait(answers, num_returns=len(answers), timeout=0)[0]) if answers else set()
        for name, worker in list(self._workers.items()):
            try:
                if worker.node in ready and worker.node_id is None:
                    worker.node_id = ray.get(worker.node)
                if worker.end not in ready:
                    continue
                ended = ray.get(worker.end)
                if ended is None:
                    worker.end = worker.actor.wait.remote()
                    continue
                ray.kill(worker.actor)
            except RayActorError as error:
                ended = Ended(None, _reason(error), worker.node_id)
            except RayTaskError as error:  # its node has another version of this program
                ray.kill(worker.actor)
                ended = Ended(None, _reason(error), worker.node_id)
            del self._workers[name]
            yield name, ended


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(
        line for line in lines if not line.startswith(("class_name", "actor_id", "name", "namespace", "pid"))
    )
