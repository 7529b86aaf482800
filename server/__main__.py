"""`python -m server`: serve until SIGTERM or Ctrl-C."""

import _thread
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from server.app import create_app
from server.context import AppContext
from server.errors import SettingsRefused
from server.logging import set_up_logging
from server.settings import ServerSettings
from server.storage.instances import check_pairing, open_instance
from server.storage.permissions import UMASK, restrict_data_folder

logger = structlog.get_logger(__name__)

GRACE_SECONDS = 5
"""Time for open requests to finish when the server is stopped."""
LOCK_WAIT_SECONDS = 15
"""Wait for a previous server that is still stopping."""


class Server(uvicorn.Server):
    """Uvicorn, ending open event streams at the first signal; it would wait for them for ever."""

    def __init__(self, config: uvicorn.Config, context: AppContext) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown.

        The event is set in another thread: its lock is not reentrant, and this thread may hold it when a signal comes,
        for one when a second signal interrupts the handler of the first.
        """
        _thread.start_new_thread(self._context.stopping.set, ())
        super().handle_exit(sig, frame)


def main() -> int:
    """Read and check the settings, then serve. Returns the exit code: 2 for settings or a machine that do not work."""
    os.umask(UMASK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)  # uvicorn installs its own while it serves, and raises the signal again afterwards
    try:
        settings = ServerSettings()
        settings.check_exposure()
        set_up_logging(settings.log_level)
        check_pairing(settings.data_folder, settings.url)  # before any file is created, the lock's included
        app = create_app(settings)
        lock = app.state.context.storage.lock(LOCK_WAIT_SECONDS)
        open_instance(app.state.context.engine, app.state.context.storage)
        for warning in restrict_data_folder(app.state.context.storage.root):
            logger.warning(warning)
    except (ValidationError, SettingsRefused) as error:
        sys.stderr.write(f"rvc-train server: {error}\n")
        return 2
    except (OSError, SQLAlchemyError, ImportError) as error:  # of the data folder, the database, its driver
        sys.stderr.write(f"rvc-train server: cannot start: {str(error).splitlines()[0]}\n")
        return 2
    with lock:
        return _serve(app, settings)


def _serve(app: FastAPI, settings: ServerSettings) -> int:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
    )
    server = Server(config, app.state.context)
    server.run()
    return 0 if server.started else 1


def _exit(_number: int, _frame: FrameType | None) -> None:
    """Exit with code 0: a requested stop is not a failure."""
    sys.exit(0)


def run() -> NoReturn:
    """Serve and exit, without waiting for threads that wait for a disk or a name server.

    Work that such a thread had begun is as after a power cut: complete, or repeated by the client or the next start.
    """
    try:
        code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
