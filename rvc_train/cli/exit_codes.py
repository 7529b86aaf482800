"""Exit codes of `rvc-train`, for scripts."""

DONE = 0
"""Done; for `watch`: the job succeeded."""
ERROR = 1
"""The server said no, or something else went wrong."""
USAGE = 2
"""Options that do not fit, or a file or name that does not exist."""
NO_CONNECTION = 3
"""The server does not answer."""
JOB_FAILED = 4
"""The job that was watched failed."""
JOB_CANCELLED = 5
"""The job that was watched was cancelled."""
NOT_ALLOWED = 6
"""The token is missing or wrong."""
INTERRUPTED = 130
"""Ctrl-C."""
