"""Child processes on the system that the tests run on: groups, requests to stop, ends, predecessors."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from rvc_engine.child_processes import inherited_environment
from rvc_engine.environment.processes import NO_INPUT, PIPE, ProcessGroup, describe_exit, end_process, process_identity
from rvc_engine.environment.windows_jobs import EXIT_CPU_TIME, Limits
from tests.systems import IS_WINE

on_windows = pytest.mark.skipif(sys.platform != "win32", reason="job objects and consoles are of Windows")
enforced = pytest.mark.skipif(IS_WINE, reason="Wine keeps no limits of job objects")
SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
WITH_CHILD = f"import subprocess, sys, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(300)"
STOPPING = """
import sys, threading
from rvc_engine.environment.processes import on_end_of_input
stop = threading.Event()
on_end_of_input(stop.set)
print("ready", flush=True)
stop.wait()
print("saved", flush=True)
"""
PARENT = f"""
import os, sys, time
from rvc_engine.environment.processes import PIPE, ProcessGroup
child = ProcessGroup([sys.executable, "-c", {STOPPING!r}], os.environ, stdin=PIPE, stdout=PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(300)
"""


def group(code: str, *, limits: Limits | None = None, stdin: int = PIPE) -> ProcessGroup:
    command = [sys.executable, "-c", code]
    return ProcessGroup(command, inherited_environment(os.environ), stdin=stdin, stdout=PIPE, limits=limits or Limits())


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(20)


def eventually(is_so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return process_identity(pid) is None


def test_the_end_of_a_group_is_the_end_of_what_its_child_started() -> None:
    child = group(WITH_CHILD)
    grandchild = int(line(child))
    assert not is_gone(grandchild)
    child.end_group()
    close(child)
    assert child.returncode != 0
    eventually(lambda: is_gone(grandchild))


def test_a_program_that_is_asked_to_stop_ends_by_itself() -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN){STOPPING}"
    child = group(code)
    assert line(child) == "ready"
    child.ask_to_stop()
    assert line(child) == "saved"
    close(child)
    assert child.returncode == 0


def test_a_group_does_not_outlive_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=PIPE, env=inherited_environment(os.environ))
    child = int(line(parent))
    assert not is_gone(child)
    parent.kill()
    close(parent)
    eventually(lambda: is_gone(child))


def test_the_group_of_a_predecessor_is_found_by_its_pid_and_start_and_ended() -> None:
    child = group(WITH_CHILD)
    grandchild = int(line(child))
    identity = process_identity(child.pid)
    assert identity is not None
    assert not end_process(child.pid, f"{identity} of another", 0)
    assert not is_gone(grandchild)
    reaper = threading.Thread(target=child.wait)  # its parent, which on Linux has to take its exit code
    reaper.start()
    assert end_process(child.pid, identity, 0.2)
    reaper.join(20)
    close(child)
    eventually(lambda: is_gone(grandchild))
    assert not end_process(child.pid, identity, 0)


def test_an_exit_code_is_described_in_words() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(0xC0000005) == "was ended by Windows with code 0xC0000005 (access violation)"
    if sys.platform != "win32":
        assert describe_exit(-9) == "was killed by the signal SIGKILL (often the system's out-of-memory killer)"


@on_windows
@enforced
def test_a_job_keeps_its_limits() -> None:
    starts = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', '']))"
    for code, limits in ((starts, Limits(num_processes=1)), ("bytearray(10**9)", Limits(memory_bytes=300 * 2**20))):
        child = group(code, limits=limits, stdin=NO_INPUT)
        close(child)
        assert child.returncode == 1
    child = group("while True: pass", limits=Limits(cpu_seconds=1), stdin=NO_INPUT)
    close(child)
    assert child.returncode == EXIT_CPU_TIME


@on_windows
def test_a_job_runs_what_stays_within_its_limits() -> None:
    child = group("print('done')", limits=Limits(60, 2**30, 1, is_low_priority=True), stdin=NO_INPUT)
    assert line(child) == "done"
    close(child)
    assert child.returncode == 0


@on_windows
@pytest.mark.parametrize("event", [2, 5, 6])
def test_the_end_of_a_console_requests_a_stop_and_leaves_the_program_its_time(event: int) -> None:
    code = (
        "import threading, time; from rvc_engine.environment import processes; stop = threading.Event()\n"
        "processes.on_console_end(stop.set)\n"
        "handler = processes._console_handlers[0]; results = []\n"
        f"threading.Thread(target=lambda: results.append(handler({event})), daemon=True).start()\n"
        "assert stop.wait(20); time.sleep(0.5); print('saved', results, handler(0), flush=True)"
    )
    child = group(code, stdin=NO_INPUT)
    assert line(child) == "saved [] 0"  # it has not returned, at which Windows would end the program
    close(child)
    assert child.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there are sessions elsewhere alone")
def test_a_group_is_no_part_of_its_parents_group() -> None:
    child = group(WITH_CHILD)
    line(child)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert psutil.Process(child.pid).ppid() == os.getpid()
    child.end_group()
    close(child)
