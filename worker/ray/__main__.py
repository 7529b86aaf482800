"""Entry point of `python -m worker.ray OPTIONS`, which `rvc-train ray` starts; OPTIONS are `DispatcherOptions` as JSON.

Ray ends a process whose cluster is gone for long. So this process starts another one, which is connected, and starts it
again when it ends.
"""

import os
import subprocess
import sys
import threading

import structlog
from pydantic import ValidationError

from rvc_engine.child_processes import inherited_environment, python_command
from rvc_engine.environment.processes import STOPS_WITH_PARENT, ask_to_stop, on_stop_signals, stop_with_parent
from rvc_engine.translation.program_errors import errors_reported
from worker.__main__ import set_up_logging, stop_handler
from worker.gateway.connection import Connection
from worker.gateway.errors import SettingsRefused, first_line
from worker.ray.dispatcher import Dispatcher
from worker.ray.options import DispatcherOptions
from worker.ray.server import ServerQueue
from worker.reporting.retry import retry_until_available
from worker.settings import WorkerSettings

logger = structlog.get_logger(__name__)

DONE, FAULT, REFUSED = 0, 1, 2
"""Exit codes."""
CONNECTED = "--connected"
"""Argument of the process that is connected to Ray."""
PAUSE_SECONDS = 3.0
"""Before that process is started again."""


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or Ctrl-C; returns the exit code."""
    try:
        settings = WorkerSettings()
        options = DispatcherOptions.model_validate_json(arguments[0])
    except ValidationError as error:
        sys.stderr.write(f"the dispatcher cannot start: {error}\n")
        return REFUSED
    set_up_logging(settings.log_level)
    stop = threading.Event()
    try:
        if CONNECTED in arguments:
            return _dispatch(settings, options, stop)
        on_stop_signals(stop_handler(stop), stop.set)
        stop_with_parent(arguments, stop.set)
        return _keep_connected(arguments[0], stop)
    except SettingsRefused as error:
        sys.stderr.write(f"the dispatcher cannot start: {error}\n")
        return REFUSED


def _keep_connected(options: str, stop: threading.Event) -> int:
    """Run the connected process, again when it ends by itself."""
    command = python_command("worker.ray", options, CONNECTED, STOPS_WITH_PARENT)
    while True:
        process = subprocess.Popen(command, env=inherited_environment(os.environ), stdin=subprocess.PIPE)
        while process.poll() is None and not stop.wait(0.2):
            pass
        ask_to_stop(process)
        code = process.wait()
        if stop.is_set() or code in {DONE, REFUSED}:
            return DONE if stop.is_set() else code
        logger.warning("the connection to Ray ended; what runs there goes on, and it is made again", exit_code=code)
        if stop.wait(PAUSE_SECONDS):
            return DONE


def _dispatch(settings: WorkerSettings, options: DispatcherOptions, stop: threading.Event) -> int:
    """Connect, and compare queue and cluster until `stop` is set. Raises SettingsRefused, and errors of Ray."""
    if settings.worker_server is None or settings.token is None:
        raise SettingsRefused("name the server with --server, and give a token with the scope work in RVC_TRAIN_TOKEN")
    from worker.ray.cluster import RayCluster

    connection = Connection(settings.worker_server, settings.token.get_secret_value())
    queue = ServerQueue(connection)
    stop_with_parent(sys.argv, stop.set)
    instance_id = retry_until_available(queue.instance_id, give_up=stop.is_set)
    if instance_id is None:
        return DONE
    try:
        cluster = RayCluster(options.address, f"rvc-train-{instance_id}")
    except (ConnectionError, RuntimeError) as error:
        logger.error("there is no connection to the Ray cluster", address=options.address, reason=first_line(error))
        return FAULT
    on_stop_signals(stop_handler(stop), stop.set)  # Ray has handlers of its own
    logger.info("dispatcher ready", server=settings.worker_server, address=options.address)
    dispatcher = Dispatcher(settings.worker_server, settings.token, queue, cluster, options)
    while not stop.is_set():
        retry_until_available(dispatcher.turn, give_up=stop.is_set)
        stop.wait(options.poll_seconds)
    cluster.close()
    connection.close()
    return DONE


if __name__ == "__main__":
    with errors_reported(shows_traceback=True):
        sys.exit(main(sys.argv[1:]))
