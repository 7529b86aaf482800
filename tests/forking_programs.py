"""Programs that start at once: their modules are imported one time, and each start is a fork of this process.

A program of this project needs seconds of processor time for its imports, and the tests start hundreds. A line of
input is a JSON object `{"module", "arguments", "environment", "folder", "output", "errors"}`, with two files to append
to. Answers `started PID`, and `ended PID CODE` (below zero: a signal) when a program has ended.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import traceback
from typing import Any

PRELOADED = (
    "server.__main__",
    "server.admin.cli",
    "worker.__main__",
    "worker.gateway.local",
    "rvc_train.cli.main",
    "rvc_train.cli.commands.jobs",
    "server.database.migrate",
)


def run(request: dict[str, Any]) -> int:
    """Become the program, in a fork; its exit code."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, name in ((1, "output"), (2, "errors")):
        opened = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [request["module"], *request["arguments"]]
    forget(request["module"])
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
            return 1
        return end.code or 0
    except BaseException:  # noqa: BLE001 - the fork ends here, whatever it was
        traceback.print_exc()
        return 1
    return 0


def forget(module: str) -> None:
    """Make a module that is loaded ready to be run as `__main__`: runpy warns of a second copy."""
    for name in (module, f"{module}.__main__"):
        if name in PRELOADED:
            del sys.modules[name]


def reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            answer(f"ended {ended[0]} {os.waitstatus_to_exitcode(ended[1])}")


def answer(text: str) -> None:
    os.write(ANSWERS, f"{text}\n".encode())


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else each fork's collector would touch, and so copy, all that they share
    deaths, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unread = b""
    while True:
        ready, _, _ = select.select([REQUESTS, deaths], [], [])
        if deaths in ready:
            os.read(deaths, 4096)
            reap()
        if REQUESTS not in ready:
            continue
        received = os.read(REQUESTS, 65536)
        if not received:
            return
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            child = os.fork()
            if child == 0:
                for descriptor in (REQUESTS, ANSWERS, deaths, wakeup):
                    os.close(descriptor)
                code = run(json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
            answer(f"started {child}")


if __name__ == "__main__":
    REQUESTS, ANSWERS = os.dup(0), os.dup(1)
    main()
