"""Resources that a job's worker reserves on the cluster."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rvc_train.schemas.work.queue import WaitingJob
from worker.ray.options import DispatcherOptions

NODE_ID = "ray.io/node-id"
"""Label that Ray gives each node."""
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?" + _VALUE.pattern)


class NoPlace(Exception):
    """No node could take the job, for the reason in the message."""


@dataclass(frozen=True)
class Placement:
    """Resources of a worker, in Ray's terms."""

    num_gpus: float
    num_cpus: int
    memory: int | None
    """Bytes of main memory."""
    label_selector: Mapping[str, str]
    """Labels that its node must have."""


def place(job: WaitingJob, options: DispatcherOptions, most_gpus: int | None, avoided: Collection[str]) -> Placement:
    """The placement of a job. Raises NoPlace.

    `most_gpus`: of the largest node; None: unknown. `avoided`: ids of nodes that turned out not to fit.
    """
    num_gpus = job.gpus if job.gpus > 1 else options.gpus_per_job or job.gpus
    if most_gpus is not None and num_gpus > most_gpus:
        raise NoPlace(
            f"the job needs {job.gpus} GPUs on one node, and the largest has {most_gpus}; submit it with fewer, or "
            "start a larger node (--gpus-per-node is for nodes that the autoscaler can start)"
        )
    wanted = {key: value for key, value in job.labels.items() if options.labels.get(key) != value}
    for key, value in wanted.items():
        if not (_KEY.fullmatch(key) and _VALUE.fullmatch(value)):
            raise NoPlace(
                f"the job needs a node with the label {key}={value}, which is none that Ray allows; where all nodes "
                "have it, start the dispatcher with --label"
            )
    if avoided:
        wanted[NODE_ID] = f"!in({','.join(sorted(avoided))})"
    return Placement(num_gpus, options.cpus_per_job, options.memory_bytes, wanted)
