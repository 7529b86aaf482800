"""`python -m worker`: settings from the environment, signals into a stop, and the loop."""

import logging
import os
import signal
import sys
import threading
from types import FrameType

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from rvc_engine.child_processes import engine_environment, variable_names
from server.database.engine import create_engine
from server.errors import SettingsRefused
from server.storage.permissions import UMASK
from worker.hardware.devices import check_gpus
from worker.loop import work
from worker.settings import WorkerSettings, default_engine_command


def main() -> int:
    """Run a worker until SIGTERM or SIGINT; 0 after a clean end, 2 for settings that are wrong."""
    os.umask(UMASK)
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 2
    set_up_logging(settings.log_level)
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    try:
        if settings.engine_command == default_engine_command():
            check_gpus(
                settings.device, engine_environment(os.environ, variable_names(settings.engine_environment or ""))
            )
        engine = create_engine(settings.url)
    except SettingsRefused as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 2
    except (OSError, SQLAlchemyError, ImportError) as error:  # of the data folder, the database's address or driver
        sys.stderr.write(f"the worker cannot start: {str(error).splitlines()[0]}\n")
        return 2
    try:
        work(settings, engine, stop)
    except SettingsRefused as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 2
    finally:
        engine.dispose()
    return 0


def set_up_logging(level: str) -> None:
    """Lines on standard error, readable, coloured on a terminal.

    Nobody has to read them: when the reader is gone (whoever started us was killed), lines are lost and work goes on.
    """
    logging.raiseExceptions = False
    logging.basicConfig(level=level.upper(), format="%(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
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
    sys.exit(main())
