"""`python -m server`: serve until SIGTERM or Ctrl-C."""

import os
import signal
import sys
from types import FrameType

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
"""For requests under way when the server is asked to stop."""
LOCK_WAIT_SECONDS = 15
"""For a server before us that is just stopping."""


class Server(uvicorn.Server):
    """Uvicorn, which also tells followers at the first signal: it would wait for their streams for ever."""

    def __init__(self, config: uvicorn.Config, context: AppContext) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._context.stopping.set()
        super().handle_exit(sig, frame)


def main() -> int:
    """Read the settings, refuse what is unsafe or cannot be, serve."""
    os.umask(UMASK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)  # uvicorn has its own while it serves, and hands the signal on when it has ended
    try:
        settings = ServerSettings()
        settings.check_exposure()
        set_up_logging(settings.log_level)
        check_pairing(settings.data_folder, settings.url)  # before anything is made, the lock's file included
        app = create_app(settings)
        lock = app.state.context.storage.lock(LOCK_WAIT_SECONDS)
        open_instance(app.state.context.engine, app.state.context.storage)
        for sentence in restrict_data_folder(app.state.context.storage.root):
            logger.warning(sentence)
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
    """Being asked to end is no failure: exit code 0."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
