"""Run a program with limits: `python -m server.limited CPU_SECONDS MEMORY_BYTES FILE_BYTES PROGRAM...`.

A process of its own sets the limits and becomes the program, because setting them between fork and exec is not safe in
a process with threads. This module imports next to nothing.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From Linux' `prctl.h`."""


def main(arguments: list[str]) -> None:
    """Set the limits and become the program."""
    cpu_seconds, memory_bytes, file_bytes = map(int, arguments[:3])
    # The hard limit on CPU time is a little higher: first a signal that can be told apart, then a kill.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    if sys.platform.startswith("linux"):  # a server that is killed leaves no program behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    program = arguments[3:]
    os.execvp(program[0], program)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
