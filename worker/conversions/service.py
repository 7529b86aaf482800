"""Loop of the conversions' thread: claim one, run it, end an idle engine, until the worker stops."""

import threading
from collections.abc import Callable

import structlog

from rvc_train.schemas.voices.conversions import ConversionFailure
from worker.conversions.engines import ConversionEngines
from worker.conversions.run import ConversionRun
from worker.engine.workspaces import Workspaces
from worker.gateway.errors import LeaseLost, SchemaChanged, first_line, is_transient
from worker.gateway.interface import ConversionLease, RegisteredWorker
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

BUSY_POLL_SECONDS = 0.3
"""Longest interval of looking for the next conversion while an engine is there: someone is trying a voice."""
JOIN_SECONDS = 30


class ConversionService:
    """Conversions of one worker, on a thread beside its jobs."""

    def __init__(
        self,
        settings: WorkerSettings,
        worker: RegisteredWorker,
        workspaces: Workspaces,
        engines: ConversionEngines,
        is_draining: Callable[[], bool],
    ) -> None:
        """`is_draining`: whether the worker is asked to hand its work back."""
        self._settings, self._worker, self._workspaces = settings, worker, workspaces
        self._engines, self._is_draining = engines, is_draining
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="conversions", daemon=True)
        self.is_busy = False
        """Whether a conversion runs."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread: a running conversion is given back, and the engine ended."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)
        self._engines.close()

    def _must_stop(self) -> bool:
        return self._is_over.is_set() or self._is_draining()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                lease = self._claim()
                if lease is not None:
                    self.is_busy = True
                    self._serve(lease)
                    self.is_busy = False
                    continue
                self._engines.keep_room()
                self._engines.end_if_idle()
            except Exception:
                logger.exception("conversions: an unexpected error; they go on")
            poll_seconds = self._settings.poll_seconds
            self._is_over.wait(min(BUSY_POLL_SECONDS, poll_seconds) if self._engines.is_running else poll_seconds)

    def _claim(self) -> ConversionLease | None:
        if self._must_stop():
            return None
        try:
            return self._worker.claim_conversion(may_wait=not self._engines.is_running)
        except SchemaChanged:  # which the loop of jobs logs
            return None
        except Exception as error:
            if not (is_transient(error) or isinstance(error, OSError)):
                raise
            logger.warning("no conversion is claimed; it is tried again", reason=first_line(error))
            return None

    def _serve(self, lease: ConversionLease) -> None:
        """Run one conversion. An unexpected error fails it, and ends neither the thread nor the worker."""
        logger.info("conversion claimed", conversion_id=lease.conversion_id, voice=lease.voice)
        try:
            ConversionRun(self._settings, self._workspaces, self._engines, lease, self._must_stop).run()
        except LeaseLost as error:
            logger.warning("the lease was lost", conversion_id=lease.conversion_id, reason=str(error))
        except Exception as error:
            logger.exception("unexpected worker error", conversion_id=lease.conversion_id)
            message = f"unexpected worker error ({type(error).__name__}: {error}); see its log"
            try:
                retry_until_available(lambda: lease.fail(ConversionFailure.INTERNAL, message), give_up=self._must_stop)
            except LeaseLost:
                logger.warning("the lease was lost meanwhile", conversion_id=lease.conversion_id)
