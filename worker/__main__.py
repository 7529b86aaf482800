"""Entry point of `python -m worker`: settings from the environment, signal handlers, and the loop."""

import _thread
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

import structlog
from pydantic import ValidationError

from rvc_engine.child_processes import engine_environment, variable_names
from rvc_engine.environment.processes import on_stop_signals, stop_with_parent
from rvc_engine.translation.program_errors import describe_os_error, errors_reported
from server.setting_names import check_setting_names
from server.settings import ServerSettings
from server.storage.permissions import UMASK
from worker.gateway.errors import SettingsRefused
from worker.gateway.interface import WorkerGateway
from worker.hardware.devices import check_gpus
from worker.loop import HeartbeatDied, work
from worker.settings import WorkerSettings, default_engine_command

logger = structlog.get_logger(__name__)


def main() -> int:
    """Run a worker until SIGTERM, SIGINT or its limits; returns the exit code.

    2 for wrong settings, 1 for a fault; otherwise as in `worker.limits.ExitCode`.
    """
    os.umask(UMASK)
    try:
        settings = with_scratch(WorkerSettings())
    except ValidationError as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 2
    set_up_logging(settings.log_level)
    try:
        return _run(settings)
    except SettingsRefused as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 2
    except HeartbeatDied as error:
        sys.stderr.write(f"the worker ends: {error}\n")
        return 1


def _run(settings: WorkerSettings) -> int:
    """Run the loop until a signal or a limit. Raises SettingsRefused."""
    others = ServerSettings.model_fields
    for sentence in check_setting_names(os.environ, WorkerSettings.model_fields, "worker", others, "server"):
        logger.info(sentence)
    stop = threading.Event()

    on_stop_signals(stop_handler(stop), stop.set)
    stop_with_parent(sys.argv, stop.set)
    try:
        if settings.engine_command == default_engine_command():
            check_gpus(
                settings.device, engine_environment(os.environ, variable_names(settings.engine_environment or ""))
            )
        gateway = _connect(settings, stop)
    except OSError as error:  # of the data folder
        raise SettingsRefused(describe_os_error(error)) from error
    try:
        return work(settings, gateway, stop)
    finally:
        gateway.close()


def _connect(settings: WorkerSettings, stop: threading.Event) -> WorkerGateway:
    """The gateway to the server. Only for one on this machine are the database's libraries imported."""
    if settings.worker_server is not None:
        from worker.gateway.remote import HttpGateway

        return HttpGateway.connect(settings, stop)
    from worker.gateway.local import LocalGateway

    return LocalGateway.connect(settings)


def with_scratch(settings: WorkerSettings) -> WorkerSettings:
    """The settings, with the data folder as scratch folder of a worker on another machine than its server."""
    if settings.worker_server is None or settings.scratch_folder is not None:
        return settings
    return settings.model_copy(update={"scratch_folder": settings.data_folder})


def stop_handler(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    """A signal handler that sets `stop`, in another thread.

    The event's lock is not reentrant, and the interrupted thread may hold it: it waits for the event while it is idle.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _thread.start_new_thread(stop.set, ())

    return handle


def set_up_logging(level: str) -> None:
    """Log readable lines to standard error, coloured on a terminal.

    When the reading end is closed (the parent process was killed), lines are lost and the worker continues.
    """
    logging.raiseExceptions = False
    logging.basicConfig(level=level.upper(), format="%(message)s", stream=sys.stderr)
    for chatty in ("alembic", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


if __name__ == "__main__":
    with errors_reported(shows_traceback=True):
        sys.exit(main())
