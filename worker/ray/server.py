"""The queue, as a server answers for it."""

from collections.abc import Mapping, Sequence

from rvc_train.schemas.jobs import JobStatus
from rvc_train.schemas.work.protocol import is_compatible
from rvc_train.schemas.work.queue import WaitingJob, WaitingJobs
from rvc_train.schemas.work.workers import JobStatuses, StatusesWanted, WorkServer
from worker.gateway.connection import Connection
from worker.gateway.errors import SettingsRefused

MAX_JOBS = 100
"""Most jobs in an answer."""


class ServerQueue:
    """The queue of one server. Raises the gateway's errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def instance_id(self) -> str:
        """Id of the installation. SettingsRefused for a server of another version."""
        server = self._connection.ask(WorkServer, "GET", "/server", {})
        if not is_compatible(server.protocol):
            raise SettingsRefused(f"the server is rvc-train {server.version}; install that version here")
        return server.instance_id

    def waiting(self) -> Sequence[WaitingJob]:
        """The first jobs that are due."""
        return self._connection.ask(WaitingJobs, "GET", "/queue", {}, parameters={"limit": MAX_JOBS}).jobs

    def statuses(self, job_ids: Sequence[str]) -> Mapping[str, JobStatus]:
        """Statuses of those jobs that there are."""
        wanted = StatusesWanted(job_ids=list(job_ids)[:1000])
        return self._connection.ask(JobStatuses, "POST", "/statuses", {}, wanted).statuses
