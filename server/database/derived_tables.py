"""Tables derived from others, so that a query need not read all jobs. Triggers of migration 0018 write most of them."""

from sqlmodel import Field

from server.database.base import Table


class JobLabel(Table, table=True):
    """A label of a job, to find jobs by it: a copy of `Job.labels`, kept by triggers."""

    __tablename__ = "job_labels"
    __table_args__ = ({"sqlite_with_rowid": False},)

    key: str = Field(primary_key=True)
    value: str = Field(primary_key=True)
    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True, index=True)


class CountChange(Table, table=True):
    """A change of a number of rows, written by triggers: the sum of all changes with a name and a label is the number.

    Names: `jobs` (label: status), `job_failures` (code), `attempts` (outcome), `stale_writes` (no label). A row each
    time, rather than one row that all transactions would wait for; `server.job_store.counts` sums them up.
    """

    __tablename__ = "count_changes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: int | None = Field(default=None, primary_key=True)
    name: str
    label: str
    change: int


class UnthinnedJob(Table, table=True):
    """A job that has ended, and whose progress and metric events are still all there."""

    __tablename__ = "unthinned_jobs"

    job_number: int = Field(foreign_key="jobs.number", ondelete="CASCADE", primary_key=True)
