"""What may be changed of a job after its submission: its labels at any time, its priority while it waits."""

import hashlib
import json
from typing import Any

from rvc_train.schemas.jobs import MAX_LABELS, JobPatch, JobStatus
from server.database.tables import Job
from server.errors import Conflict, Refused


def update_tag(job: Job) -> str:
    """Stands for what can be edited, as it is now: the first half of a job's ETag."""
    text = json.dumps([job.labels, job.priority], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply_patch(job: Job, patch: JobPatch) -> dict[str, Any]:
    """The columns that a patch changes. Conflict for a priority that no longer matters, Refused for too many labels."""
    changes: dict[str, Any] = {}
    if patch.labels is not None:
        labels = {key: value for key, value in (job.labels | patch.labels).items() if value is not None}
        if len(labels) > MAX_LABELS:
            raise Refused(f"the job would have {len(labels)} labels; {MAX_LABELS} at most", "/labels")
        changes["labels"] = labels
    if patch.priority is not None and patch.priority != job.priority:
        if job.status != JobStatus.QUEUED:
            raise Conflict(f"the job is {job.status}; its priority can be changed only while it is queued")
        changes["priority"] = patch.priority
    return {key: value for key, value in changes.items() if value != getattr(job, key)}
