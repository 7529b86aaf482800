"""Validation of new datasets, one of each owner at once, by turns: a sandboxed child reports on the recordings.

A validation that the server's stop interrupted starts again at the next start, because the dataset is still validating.
"""

import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
import tenacity
from pydantic import ValidationError

from rvc_engine.child_processes import program_environment, python_command
from rvc_engine.environment.files import read_plain_file
from rvc_engine.environment.processes import FIRST_OF_WINDOWS, NO_INPUT, ProcessGroup
from rvc_engine.environment.windows_jobs import EXIT_CPU_TIME
from rvc_train.schemas.datasets import DatasetReport, DatasetStatus
from server.datasets.service import DatasetService
from server.datasets.turns import OwnerTurns
from server.settings import ServerSettings
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

MAX_REPORT_BYTES = 64 * 2**20
TRIES = 2
NUM_CHILDREN = 3
NUM_THREADS = 1 + NUM_CHILDREN
_POLL_SECONDS = 0.1
EXIT_KILLED = -9
"""Exit code of a program that SIGKILL ended, and that of one that took too long on any system."""
EXIT_OUT_OF_TIME = -getattr(signal, "SIGXCPU", 24)


class ValidationFailed(Exception):
    """The report program produced no report; the message has the reason."""


class TookTooLong(ValidationFailed):
    """The report program was ended by a limit, and would be again."""


class DatasetValidator(OwnerTurns):
    """Validation of the datasets whose recordings are ingested."""

    def __init__(
        self,
        dataset_service: DatasetService,
        storage: Storage,
        settings: ServerSettings,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this server, of several on one database, is the one that validates."""
        waiting = partial(dataset_service.oldest_by_owner, DatasetStatus.VALIDATING)
        super().__init__("dataset-validator", NUM_CHILDREN, waiting, self._validate, leads)
        self._datasets = dataset_service
        self._storage = storage
        self._settings = settings
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, ValidationFailed) and not isinstance(error, TookTooLong)
            ),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_when_event_set(self._stopping),
            reraise=True,
        )

    def _validate(self, dataset_id: str) -> None:
        try:
            report = self._retrying(self._report, dataset_id)
        except ValidationFailed as error:
            logger.warning("report failed", dataset_id=dataset_id, reason=str(error))
            report = DatasetReport(usable=False, reason=f"the recordings could not be examined: {error}")
        if self._stopping.is_set():
            return
        logger.info("dataset validated", dataset_id=dataset_id, usable=report.usable, reason=report.reason)
        self._datasets.finish_validation(dataset_id, report)

    def _report(self, dataset_id: str) -> DatasetReport:
        """Run the report program. Raises ValidationFailed."""
        with self._storage.incoming_folder() as folder:
            output = folder / "report.json"
            with tempfile.TemporaryFile() as stdout:
                status = self._run(self._storage.recordings(dataset_id), output, stdout.fileno())
                stdout.seek(max(0, stdout.seek(0, os.SEEK_END) - 4000))
                output_tail = stdout.read().decode(errors="replace").strip()
            if status != 0:
                logger.info("report program failed", dataset_id=dataset_id, status=status, stdout=output_tail)
                raise self._failure(status)
            try:
                return DatasetReport.model_validate_json(read_plain_file(output, MAX_REPORT_BYTES))
            except (OSError, ValidationError) as error:
                raise ValidationFailed("the report program wrote no report; see the server's log") from error

    def _run(self, dataset: Path, output: Path, log: int) -> int:
        settings = self._settings
        limits = [settings.report_cpu_seconds, settings.report_memory_bytes, MAX_REPORT_BYTES]
        folders = [self._storage.root, output.parent]
        sandbox = python_command("server.datasets.sandbox", *map(str, [*limits, *folders]))
        command = [*sandbox, *settings.report_command, str(dataset), "--output", str(output)]
        child = ProcessGroup(command, _child_environment(), stdin=NO_INPUT, stdout=log, stderr=log)
        waited = 0.0
        while child.poll() is None:
            if self._stopping.wait(_POLL_SECONDS) or waited > settings.report_timeout_seconds:
                child.end_group()
                child.wait()
                return EXIT_KILLED
            waited += _POLL_SECONDS
        return child.returncode

    def _failure(self, status: int) -> ValidationFailed:
        if status in {EXIT_OUT_OF_TIME, EXIT_CPU_TIME}:
            return TookTooLong(f"it took more than {self._settings.report_cpu_seconds} s of CPU time")
        if status == EXIT_KILLED:
            seconds = self._settings.report_timeout_seconds
            return TookTooLong(f"it took more than {seconds:.0f} s, or too much memory")
        if status < 0 or status >= FIRST_OF_WINDOWS:
            code = f"signal {-status}" if status < 0 else f"code 0x{status:08X}"
            reason = f"a recording crashed the decoder ({code}); try to upload the files in smaller parts"
            return ValidationFailed(reason)
        return ValidationFailed(f"the report program failed with exit code {status}; see the server's log")


def _child_environment() -> dict[str, str]:
    """Environment of the report program: what it needs to start, and one thread per library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return program_environment(os.environ) | threads | {"MALLOC_ARENA_MAX": "2"}
