"""`python -m server`: serve until SIGTERM or Ctrl-C."""

import _thread
import asyncio
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from rvc_engine.environment.processes import on_stop_signals, stop_main_thread, stop_with_parent
from rvc_engine.translation.program_errors import describe_os_error, errors_reported
from rvc_train.local_servers import address_key
from server.app import create_app
from server.auth.local_token import provide_local_token, release_address
from server.blobs.address import open_blobs
from server.context import AppContext
from server.errors import SettingsRefused
from server.http.connections import Connection, allow_many_connections
from server.http.threads import share_heaps
from server.logging import set_up_logging
from server.middleware.forwarded import ForwardedHeaders
from server.setting_names import WORKER_ONLY, check_setting_names
from server.settings import ServerSettings
from server.storage.instances import check_pairing, open_instance, prepare_folder
from server.storage.local import Storage
from server.storage.permissions import UMASK, restrict_data_folder
from server.transient_errors import first_line

logger = structlog.get_logger(__name__)

GRACE_SECONDS = 4
"""Time for open requests to finish when the server is stopped."""
LOCK_WAIT_SECONDS = 15
"""Wait for a previous server that is still stopping."""


class Server(uvicorn.Server):
    """Uvicorn, ending open event streams at the first signal; it would wait for them for ever."""

    def __init__(
        self, config: uvicorn.Config, context: AppContext, on_listening: Callable[[int], None] = lambda port: None
    ) -> None:
        """`on_listening`: called with the port, before any request on it is answered."""
        super().__init__(config)
        self._context = context
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._on_listening(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown.

        The event is set in another thread: its lock is not reentrant, and this thread may hold it when a signal comes,
        for one when a second signal interrupts the handler of the first.
        """
        _thread.start_new_thread(self._context.stopping.set, ())
        super().handle_exit(sig, frame)


class _ServerOfProcess(Server):
    """The server of this process, which ends with it."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve. A request whose thread still waits for a disk at the end is not waited for: see `run`."""
        try:
            await super().serve(sockets)
        finally:
            if len(asyncio.all_tasks()) > 1:
                _exit_now(0 if self.started else 1)


def main() -> int:
    """Read and check the settings, then serve. Returns the exit code: 2 for settings or a machine that do not work."""
    os.umask(UMASK)
    share_heaps()
    allow_many_connections()
    on_stop_signals(_exit)  # uvicorn installs its own while it serves, and raises the signal again afterwards
    stop_with_parent(sys.argv, stop_main_thread)
    try:
        settings = ServerSettings()
        settings.check_exposure()
        set_up_logging(settings.log_level)
        for sentence in check_setting_names(os.environ, ServerSettings.model_fields, "server", WORKER_ONLY, "worker"):
            logger.info(sentence)
        prepare_folder(Storage(settings.data_folder, open_blobs(settings.storage_url)))
        check_pairing(settings.data_folder, settings.url)  # before any file is created, the lock's included
        app = create_app(settings)
        lock = _lock(app.state.context)
        open_instance(app.state.context.engine, app.state.context.storage)
        for warning in restrict_data_folder(app.state.context.storage.root):
            logger.warning(warning)
    except (ValidationError, SettingsRefused) as error:
        sys.stderr.write(f"rvc-train server: {error}\n")
        return 2
    except (OSError, SQLAlchemyError, ImportError) as error:  # of the data folder, the database, its driver
        reason = describe_os_error(error) if isinstance(error, OSError) else first_line(error)
        sys.stderr.write(f"rvc-train server: cannot start: {reason}\n")
        return 2
    with lock:
        return _serve(app, settings)


def _lock(context: AppContext) -> AbstractContextManager[object]:
    """The lock of the data folder's one server. On PostgreSQL there may be several: one of them leads."""
    if context.engine.dialect.name == "sqlite":
        return context.storage.lock(LOCK_WAIT_SECONDS)
    return nullcontext()


def _serve(app: FastAPI, settings: ServerSettings) -> int:
    config = uvicorn.Config(
        # Starlette's type of an application is wider than uvicorn's.
        ForwardedHeaders(app, os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")),  # type: ignore[arg-type]
        proxy_headers=False,
        host=settings.host,
        port=settings.port,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
    )
    server = _ServerOfProcess(config, app.state.context, partial(_publish, app.state.context))
    server.run()
    return 0 if server.started else 1


def _publish(context: AppContext, port: int) -> None:
    """Let the clients of this user find the server's local token; without one, let none find another server's."""
    address = address_key(context.settings.host, port)
    if context.settings.token is None:
        for sentence in provide_local_token(context.tokens, address):
            sys.stderr.write(f"rvc-train server: {sentence}\n")  # not in the log: it may have the token
        sys.stderr.flush()
    else:
        release_address(address)


def _exit(_number: int, _frame: FrameType | None) -> None:
    """Exit with code 0: a requested stop is not a failure."""
    sys.exit(0)


def run() -> NoReturn:
    """Serve and exit, without waiting for threads that wait for a disk or a name server.

    Work that such a thread had begun is as after a power cut: complete, or repeated by the client or the next start.
    """
    try:
        with errors_reported(shows_traceback=True):
            code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        _exit_now(code)
    sys.exit(code)


def _exit_now(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    run()
