"""Requirements of jobs, and whether a worker meets them."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rvc_train.schemas.jobs import Resources
from server.database.tables import Worker


@dataclass(frozen=True)
class Needs:
    """All requirements of a job."""

    gpus: int = 0
    """Least number of GPUs; 0: the CPU of a worker without GPUs will do."""
    gpu_memory_bytes: int | None = None
    """Least memory of each of the worker's GPUs, if it has any."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As in the column `Job.needs`: jobs that need the same have the same text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


@functools.lru_cache(maxsize=1024)
def parse_needs(text: str) -> Needs:
    """The requirements in a job's row; none in that of a job before schema 0030."""
    return Needs(**json.loads(text)) if text else Needs()


def needs_of(given: Resources, estimated_memory_bytes: int) -> Needs:
    """The requirements of a job: what was given, and `estimated_memory_bytes` where that leaves the memory out."""
    has_memory = given.gpu_memory_bytes is not None
    gpus = given.gpus if given.gpus is not None else int(bool(given.gpu_memory_bytes))
    memory = given.gpu_memory_bytes if has_memory else estimated_memory_bytes
    return Needs(gpus, memory or None, dict(given.labels))


def fits(needs: Needs, worker: Worker) -> bool:
    """Whether a worker meets the requirements."""
    return not any(_unmet(needs, worker))


def lacking(needs: Needs, workers: Sequence[Worker]) -> list[str]:
    """Sentences on what none of the workers has; none where one of them meets all, and without workers."""
    if not workers or any(fits(needs, worker) for worker in workers):
        return []
    unmet_by_all = frozenset.intersection(*(frozenset(_unmet(needs, worker)) for worker in workers))
    sentences = [_sentence(needs, what, workers) for what in sorted(unmet_by_all)]
    return sentences or [f"each running worker lacks a part of what the job needs: {_in_words(needs)}"]


def _unmet(needs: Needs, worker: Worker) -> Iterator[str]:
    """Names of the requirements that a worker does not meet; those of labels are `label:<key>`."""
    num_gpus = gpus_of(worker)
    if needs.gpus > num_gpus:
        yield "gpus"
    memory = worker.gpu_memory_bytes
    if num_gpus and needs.gpu_memory_bytes is not None and memory is not None and memory < needs.gpu_memory_bytes:
        yield "gpu_memory_bytes"
    yield from (f"label:{key}" for key, value in needs.labels.items() if worker.labels.get(key) != value)


def gpus_of(worker: Worker) -> int:
    """Number of GPUs that a worker trains on."""
    if worker.num_gpus is not None:
        return worker.num_gpus
    return 0 if worker.device == "cpu" else 1 + worker.device.count("+")


def _sentence(needs: Needs, what: str, workers: Sequence[Worker]) -> str:
    if what == "gpus":
        if needs.gpus == 1:
            return "the job needs a GPU, and no running worker has one"
        most = max(map(gpus_of, workers))
        return f"the job needs {needs.gpus} GPUs in one worker, and no running worker has more than {most}"
    if what == "gpu_memory_bytes":
        wanted, most = needs.gpu_memory_bytes or 0, max(worker.gpu_memory_bytes or 0 for worker in workers)
        return (
            f"the job needs {wanted / 1e9:.1f} GB of GPU memory, and the GPU of no running worker has more than "
            f"{most / 1e9:.1f} GB"
        )
    key = what.removeprefix("label:")
    return f"the job needs a worker with the label {key}={needs.labels[key]}, and no running worker has it"


def _in_words(needs: Needs) -> str:
    parts = [f"{key}={value}" for key, value in sorted(needs.labels.items())]
    if needs.gpu_memory_bytes is not None:
        parts.insert(0, f"{needs.gpu_memory_bytes / 1e9:.1f} GB GPU")
    if needs.gpus:
        parts.insert(0, f"{needs.gpus} GPU")
    return ", ".join(parts)
