"""The base of the job service's parts: one database, one clock, and the transitions."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from server.auth.quotas import Quotas
from server.database.clock import utc_now
from server.job_store.transitions import Transitions


class JobStore:
    """The base of `server.jobs.service.JobService` and its parts. Each call of theirs is one transaction."""

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], datetime] = utc_now,
        *,
        retry_delay_seconds: float = 10,
        max_recoveries: int = 5,
        quotas: Quotas | None = None,
    ) -> None:
        """`clock` gives the present time, with its zone; the two numbers are as in `ServerSettings`.

        `quotas`: what owners may have, for the service that accepts submissions.
        """
        self.engine = engine
        self._clock = clock
        self._transitions = Transitions(clock)
        self._retry_delay_seconds = retry_delay_seconds
        self._max_recoveries = max_recoveries
        self._quotas = quotas
