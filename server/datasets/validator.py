"""Validation of new datasets, one of each owner at once, by turns: a sandboxed child reports on the recordings.

A validation that the server's stop interrupted starts again at the next start, because the dataset is still validating.
"""

import os
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog
import tenacity
from pydantic import ValidationError

from rvc_engine.child_processes import program_environment, python_command
from rvc_train.schemas.datasets import DatasetReport
from server.datasets.service import DatasetService
from server.settings import ServerSettings
from server.storage.local import Storage

logger = structlog.get_logger(__name__)

MAX_REPORT_BYTES = 64 * 2**20
TRIES = 2
NUM_CHILDREN = 3
NUM_THREADS = 1 + NUM_CHILDREN
_POLL_SECONDS = 0.1


class ValidationFailed(Exception):
    """The report program produced no report; the message has the reason."""


class TookTooLong(ValidationFailed):
    """The report program was ended by a limit, and would be again."""


class DatasetValidator:
    """Thread that hands datasets to the few threads that validate them."""

    def __init__(
        self,
        dataset_service: DatasetService,
        storage: Storage,
        settings: ServerSettings,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`leads`: whether this server, of several on one database, is the one that validates."""
        self._leads = leads
        self._datasets = dataset_service
        self._storage = storage
        self._settings = settings
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, ValidationFailed) and not isinstance(error, TookTooLong)
            ),
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_when_event_set(self._stopping),
            reraise=True,
        )
        self._owners_running: set[str] = set()
        self._turns: dict[str, int] = {}
        """Number of the turn in which each owner had the last dataset begun."""
        self._thread = threading.Thread(target=self._work, name="dataset-validator", daemon=True)

    def start(self) -> None:
        """Start, with the datasets that are waiting."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Notify the thread of a new dataset."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the threads and their children."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        with ThreadPoolExecutor(NUM_CHILDREN, "dataset-validator") as threads:
            while not self._stopping.is_set():
                self._wake.wait(timeout=5)
                self._wake.clear()
                try:
                    while len(self._owners_running) < NUM_CHILDREN and (chosen := self._next()) is not None:
                        self._owners_running.add(chosen[0])
                        threads.submit(self._validate_one, *chosen)
                except Exception:
                    logger.exception("no dataset could be chosen for validation; retrying soon")

    def _next(self) -> tuple[str, str] | None:
        """The owner who has waited longest for a turn, and the id of his oldest dataset; None when none waits."""
        busy = set(self._owners_running)  # before the query, whose answer may have the dataset that ends meanwhile
        found = self._datasets.first_unvalidated() if self._leads() and not self._stopping.is_set() else {}
        waiting = {owner: dataset_id for owner, dataset_id in found.items() if owner not in busy}
        if not waiting:
            return None
        owner = min(waiting, key=lambda each: (self._turns.get(each, 0), waiting[each]))
        self._turns[owner] = 1 + max(self._turns.values(), default=0)
        return owner, waiting[owner]

    def _validate_one(self, owner: str, dataset_id: str) -> None:
        try:
            self._validate(dataset_id)
        except Exception:
            logger.exception("validation of a dataset failed; retrying soon", dataset_id=dataset_id)
            self._stopping.wait(1)
        finally:
            self._owners_running.discard(owner)
            self._wake.set()

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
                status = self._run(self._storage.dataset_folder(dataset_id), output, stdout.fileno())
                stdout.seek(max(0, stdout.seek(0, os.SEEK_END) - 4000))
                output_tail = stdout.read().decode(errors="replace").strip()
            if status != 0:
                logger.info("report program failed", dataset_id=dataset_id, status=status, stdout=output_tail)
                raise self._failure(status)
            try:
                return DatasetReport.model_validate_json(read_report(output))
            except (OSError, ValidationError) as error:
                raise ValidationFailed("the report program wrote no report; see the server's log") from error

    def _run(self, dataset: Path, output: Path, log: int) -> int:
        settings = self._settings
        limits = [settings.report_cpu_seconds, settings.report_memory_bytes, MAX_REPORT_BYTES]
        folders = [self._storage.root, output.parent]
        sandbox = python_command("server.datasets.sandbox", *map(str, [*limits, *folders]))
        child = subprocess.Popen(
            [*sandbox, *settings.report_command, str(dataset), "--output", str(output)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_child_environment(),
            start_new_session=True,
        )
        waited = 0.0
        while child.poll() is None:
            if self._stopping.wait(_POLL_SECONDS) or waited > settings.report_timeout_seconds:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            waited += _POLL_SECONDS
        return child.returncode

    def _failure(self, status: int) -> ValidationFailed:
        match -status:
            case signal.SIGXCPU:
                return TookTooLong(f"it took more than {self._settings.report_cpu_seconds} s of CPU time")
            case signal.SIGKILL:
                seconds = self._settings.report_timeout_seconds
                return TookTooLong(f"it took more than {seconds:.0f} s, or too much memory")
            case number if number > 0:
                reason = f"a recording crashed the decoder (signal {number}); try to upload the files in smaller parts"
                return ValidationFailed(reason)
            case _:
                return ValidationFailed(f"the report program failed with exit code {status}; see the server's log")


def read_report(path: Path) -> bytes:
    """The report, from a plain file only: a program that was taken over may leave a link or a pipe. Raises OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a plain file")
        return file.read(MAX_REPORT_BYTES)


def _child_environment() -> dict[str, str]:
    """Environment of the report program: what it needs to start, and one thread per library."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return program_environment(os.environ) | threads | {"MALLOC_ARENA_MAX": "2"}
