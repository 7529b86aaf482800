"""Downloads for the jobs that wait for weights: what each lacks is fetched, and the job is enqueued or failed.

That a job waits is in its row, so the download begins again after a restart, on the server that leads then. It resumes
from the partial files. A job that is cancelled leaves a download to go on: its files serve the next job.
"""

from contextlib import suppress

from rvc_engine.config import TrainingConfig
from rvc_engine.pipeline.required_weights import missing_files
from rvc_engine.weights.catalogue import PublishedFile
from server.admin.weights import WeightsFetcher
from server.database.tables import Job
from server.errors import NotFound
from server.jobs.service import JobService
from server.storage.local import Storage

SECONDS = 1.0
"""Interval of `settle`."""


class JobWeights:
    """Jobs of one server that wait for weights, when `settle` is called every second."""

    def __init__(self, job_service: JobService, weights: WeightsFetcher, storage: Storage) -> None:
        self._jobs, self._weights, self._storage = job_service, weights, storage
        self._wanted: dict[str, list[PublishedFile]] = {}
        """The files that each job lacked when it was first seen, by the job's id."""

    def settle(self) -> None:
        """Request the downloads of new jobs, record the progress of the others, and end the wait of those that can."""
        waiting = self._jobs.waiting_for_weights()
        self._wanted = {job.id: self._wanted[job.id] for job in waiting if job.id in self._wanted}
        for job in waiting:
            self._settle(job)

    def _settle(self, job: Job) -> None:
        missing = missing_files(
            TrainingConfig.model_validate(job.config), self._storage.weights_folder, self._storage.start_files(job.id)
        )
        if not missing:
            self._finish(job, None)
        elif job.id not in self._wanted:
            self._wanted[job.id] = missing
            for file in missing:
                self._weights.fetch(file.key)
        else:
            states = [self._weights.get(file.key) for file in missing]
            errors = [state.fetch_error for state in states if state.fetch_state == "failed" and state.fetch_error]
            if errors:
                self._finish(job, errors[0])
                return
            for file in missing:
                self._weights.fetch(file.key)  # again, if it was damaged since; otherwise without effect
            self._record(job)

    def _record(self, job: Job) -> None:
        files = self._wanted[job.id]
        share = round(self._weights.size_here(files) / sum(file.size for file in files), 3)
        if share != job.weights_progress:
            self._jobs.record_weights_progress(job, share)

    def _finish(self, job: Job, reason: str | None) -> None:
        with suppress(NotFound):  # deleted meanwhile
            self._jobs.finish_fetch(job.id, reason)
