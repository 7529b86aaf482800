"""Exit codes of `rvc-train`, for scripts."""

DONE = 0
"""Done; for `watch`: the job succeeded."""
ERROR = 1
"""The server refused the request, or another error."""
USAGE = 2
"""Wrong options, or a file or name that does not exist."""
NO_CONNECTION = 3
"""No answer from the server."""
JOB_FAILED = 4
"""The watched job failed."""
JOB_CANCELLED = 5
"""The watched job was cancelled."""
NOT_ALLOWED = 6
"""The token is missing, wrong, or lacks the necessary scope."""
WORKER_RAN_NOTHING = 7
"""A worker that was to end by itself ran no job."""
WORKER_HANDED_BACK = 8
"""A worker that was to end by itself left a job in the queue."""
INTERRUPTED = 130
"""Ctrl-C."""
