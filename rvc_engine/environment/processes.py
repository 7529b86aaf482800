"""Child processes: started, stopped, ended and found again, with one meaning on Linux, macOS and Windows.

| | Linux and macOS | Windows |
| --- | --- | --- |
| group of its own | a session, which Ctrl-C does not reach | a job object and a console group, likewise |
| request to stop | SIGTERM and the end of standard input | the end of standard input: there is no signal for it |
| end of the group | SIGKILL to the process group | the end of the job |
| end of the parent | standard input ends: the child stops by itself | the same; a group's job ends it at once |

A program reads the end of its standard input with `on_end_of_input`. No other module depends on the system's processes;
job objects are in `windows_jobs`.
"""

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from rvc_engine.environment import windows_jobs
from rvc_engine.environment.windows_jobs import Limits

PIPE, NO_INPUT = subprocess.PIPE, subprocess.DEVNULL
KILL_SECONDS = 10
"""Longest wait for the end of a killed process."""
STOPS_WITH_PARENT = "--stop-at-end-of-input"
"""Argument of a program that stops when its standard input ends; without it, a service may have none."""
_POLL_SECONDS = 0.05
_PROC = Path("/proc")
_STATE, _START_TICKS = 0, 19
"""Fields of `/proc/<pid>/stat`, counted after the name of the program."""
_CONSOLE_END = (2, 5, 6)
"""Events of a Windows console: its window is closed, its user logs off, the system shuts down."""
_SECONDS_OF_CONSOLE_END = 60
"""Longer than Windows waits for a program after such an event: it ends the program as soon as the handler returns."""
FIRST_OF_WINDOWS = 0xC0000000
"""First exit code of those that Windows gives a program it ended, such as after an access violation."""
_WINDOWS_CODES = {
    0xC0000005: "access violation",
    0xC0000017: "no memory",
    0xC000001D: "illegal instruction",
    0xC00000FD: "stack overflow",
    0xC0000135: "a DLL is missing",
    0xC000013A: "its console was closed, or Ctrl-C",
    0xC0000374: "heap corruption",
    0xC0000409: "the program ended itself after an error",
}
"""Exit codes of programs that Windows ended."""

StopHandler = Callable[[int, FrameType | None], object]


class ProcessGroup(subprocess.Popen[bytes]):
    """A child in a group of its own, with all that it starts."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Start it. `limits`: kept on Windows alone; elsewhere the child sets its own. Raises OSError."""
        if sys.platform == "win32":
            self._job = windows_jobs.Job(limits)
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | _CREATE_SUSPENDED | no_window()
            super().__init__(
                list(command), env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr, creationflags=flags
            )
            try:
                self._job.add_suspended(int(self._handle))  # type: ignore[attr-defined]
            except OSError:
                self.kill()
                raise
        else:
            super().__init__(
                list(command), env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
            )

    def ask_to_stop(self) -> None:
        """Ask the child to stop: a program of ours saves a checkpoint first."""
        ask_to_stop(self)

    def end_group(self) -> None:
        """End the child and all that it started, at once."""
        if sys.platform == "win32":
            self._job.end()
        else:
            kill_group(self.pid)


def no_window() -> int:
    """Flag of `subprocess` for a child without a console window of its own, where this process has none to share."""
    if sys.platform == "win32":
        import ctypes

        return 0 if ctypes.WinDLL("kernel32").GetConsoleWindow() else subprocess.CREATE_NO_WINDOW
    return 0


_CREATE_SUSPENDED = 0x4
"""Flag of `CreateProcess`: the process is in its job before its first instruction."""


def ask_to_stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ask a child to stop: SIGTERM where there are signals, and the end of its standard input."""
    if sys.platform != "win32" and process.poll() is None:
        process.terminate()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def on_end_of_input(request_stop: Callable[[], object]) -> None:
    """Call `request_stop`, in a thread, when standard input ends: this process is to stop, or its parent is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None: a program without a console
            # Not sys.stdin.read: a thread blocked in its buffer makes the interpreter abort at exit.
            while os.read(sys.stdin.fileno(), 4096):
                pass
        request_stop()

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def stop_with_parent(arguments: Sequence[str], request_stop: Callable[[], object]) -> None:
    """Call `request_stop` when standard input ends, if the arguments have STOPS_WITH_PARENT."""
    if STOPS_WITH_PARENT in arguments:
        on_end_of_input(request_stop)


def stop_main_thread() -> None:
    """Run the handler of SIGTERM in the main thread, from another one."""
    _thread.interrupt_main(signal.SIGTERM)


def on_stop_signals(
    handler: StopHandler, request_stop: Callable[[], object] = stop_main_thread, *, is_ctrl_c_kept: bool = False
) -> None:
    """Call `handler` at SIGTERM, Ctrl-C and Ctrl-Break, and `request_stop`, in a thread, when a Windows console ends.

    `is_ctrl_c_kept`: Ctrl-C raises KeyboardInterrupt, as it does without a handler.
    """
    signal.signal(signal.SIGTERM, handler)
    if not is_ctrl_c_kept:
        signal.signal(signal.SIGINT, handler)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, handler)
    on_console_end(request_stop)


def on_console_end(request_stop: Callable[[], object]) -> None:
    """Call `request_stop`, in a thread, when the console's window is closed, at a log-off and at a shutdown.

    On Windows, which gives a program some five seconds then; elsewhere SIGHUP or SIGTERM comes.
    """
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        def handle(event: int) -> bool:
            if event not in _CONSOLE_END:
                return False  # Ctrl-C and Ctrl-Break: Python's own handler makes signals of them
            request_stop()
            time.sleep(_SECONDS_OF_CONSOLE_END)  # the main thread ends the process meanwhile
            return True

        callback = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(handle)
        _console_handlers.append(callback)
        ctypes.WinDLL("kernel32").SetConsoleCtrlHandler(callback, True)


_console_handlers: list[object] = []
"""Handlers that Windows may call: they must not be collected."""


def describe_exit(exit_code: int) -> str:
    """Describe a child's end by its exit code, or by the signal or fault that ended it."""
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = str(-exit_code)
        hint = " (often the system's out-of-memory killer)" if name == "SIGKILL" else ""
        return f"was killed by the signal {name}{hint}"
    if exit_code >= FIRST_OF_WINDOWS:
        meaning = _WINDOWS_CODES.get(exit_code)
        return f"was ended by Windows with code 0x{exit_code:08X}{f' ({meaning})' if meaning else ''}"
    return f"ended with exit code {exit_code}"


def lower_priority() -> None:
    """Give this process a low priority, and make it the first that a system out of memory ends: others do more work.

    On Windows the one that starts it sets its priority, by `Limits`.
    """
    if sys.platform != "win32":
        os.nice(10)
        with contextlib.suppress(OSError):  # not Linux
            (_PROC / "self/oom_score_adj").write_text("1000", encoding="utf-8")


def boot_id() -> str:
    """Text that is new at each start of the machine; empty where the system has none."""
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return ""


def process_identity(pid: int) -> str | None:
    """Text that no other process has, not even one that gets the same pid later; None when no such process runs.

    On Linux it does not depend on the wall clock, and differs between containers on one machine.
    """
    if sys.platform != "linux" or not (_PROC / "self/ns/pid").is_symlink():
        import psutil  # which the client alone, without server and engine, does not have

        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
        return None
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except OSError:
        return None
    if fields[_STATE] in {"Z", "X"}:
        return None
    return f"{boot_id()} {(_PROC / 'self/ns/pid').readlink()} {fields[_START_TICKS]}"


def end_process(pid: int, identity: str, grace_seconds: float) -> bool:
    """End a process that another one started, and its group: asked first, for `grace_seconds`. Whether it still ran.

    On Windows a program of ours stops by itself when its parent ends, and nothing else can ask it to.
    """
    if process_identity(pid) != identity:
        return False
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _wait_for_end(pid, identity, grace_seconds)
    kill_group(pid)
    _wait_for_end(pid, identity, KILL_SECONDS)
    return True


def kill_group(group: int) -> None:
    """End a process group, by the pid of the process that leads it, if it still exists."""
    if sys.platform == "win32":
        import psutil

        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(group)
            for process in (leader, *leader.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def _wait_for_end(pid: int, identity: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process_identity(pid) == identity and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
