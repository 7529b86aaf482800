"""The transition table: which status may follow which.

A committed success wins over a cancel. In `pausing`, a lost worker, a drain or a retryable failure gives `paused`; in
`cancelling`, every end but success gives `cancelled`. An admin's force-fail goes from any state that is not terminal.
"""

from rvc_train.schemas.jobs import LEASED_STATUSES, JobStatus

_S = JobStatus

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _S.VALIDATING: frozenset({_S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.CANCELLED, _S.FAILED}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.QUEUED, _S.CANCELLING, _S.PAUSING}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.SUCCEEDED, _S.CANCELLING, _S.FAILED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.CANCELLED, _S.FAILED}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.SUCCEEDED, _S.FAILED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""`paused -> failed` and `cancelling -> failed` happen by an admin's force-fail alone."""

RUNNABLE_STATUSES = frozenset({_S.VALIDATING, _S.QUEUED, _S.PAUSED}) | LEASED_STATUSES
"""Not terminal: the job still needs its dataset."""


def may_follow(before: JobStatus, after: JobStatus) -> bool:
    """Whether a job may go from one status to the other."""
    return after in TRANSITIONS[before]
