"""Run a program with limits: `python -m server.datasets.sandbox CPU_SECONDS MEMORY_BYTES FILE_BYTES PROGRAM...`.

A separate process sets the limits and becomes the program, because setting them between fork and exec is unsafe in a
process with threads. Imports are kept few.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Constant of Linux' `prctl.h`."""
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
"""Constants of Linux' `sched.h`."""


def main(arguments: list[str]) -> None:
    """Set the limits and become the program."""
    cpu_seconds, memory_bytes, file_bytes = map(int, arguments[:3])
    # The hard limit on CPU time is a little higher: SIGXCPU, which is recognisable, comes before SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    if sys.platform.startswith("linux"):
        leave_the_network()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the program ends with a killed server
    program = arguments[3:]
    os.execvp(program[0], program)  # noqa: S606 - no shell is the point


def leave_the_network() -> bool:
    """Enter a network namespace without interfaces, so that a compromised decoder has no network.

    Possible as root, or where users may create namespaces. Returns whether it succeeded.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib is a long import
                file.write(text)
        except OSError:  # files may then belong to the overflow user, but stay readable
            return True
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
