"""Options of the dispatcher."""

from pydantic import BaseModel, ConfigDict, Field

from worker.settings import GIB, Labels


class DispatcherOptions(BaseModel):
    """Resources that each worker reserves on the cluster, and the most workers."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    address: str = "auto"
    """Address of the Ray cluster; `auto`: the one that this machine belongs to."""
    gpus_per_job: float = Field(default=1, ge=0, le=1)
    """GPUs of a job that asks for none or one: a fraction puts several on a GPU, 0 uses CPUs alone."""
    cpus_per_job: int = Field(default=2, ge=1)
    """CPUs of a job, and threads of its engine."""
    memory_per_job: float | None = Field(default=None, gt=0)
    """GiB of main memory of a job; None: it is not reserved."""
    gpus_per_node: int | None = Field(default=None, ge=0)
    """Most GPUs that a node may have, with those that the autoscaler can start; None: those of the present nodes."""
    labels: Labels = {}
    """Labels that the workers have besides those of their nodes."""
    max_workers: int = Field(default=1000, ge=1)
    """Most workers at a time."""
    max_waiting: int = Field(default=20, ge=1)
    """Most workers for which Ray looks for a place at a time: what waits there keeps no order of priority."""
    poll_seconds: float = Field(default=2, gt=0)
    """Interval at which the queue is read."""

    @property
    def memory_bytes(self) -> int | None:
        """Main memory of a job."""
        return None if self.memory_per_job is None else int(self.memory_per_job * GIB)
