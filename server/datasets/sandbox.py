"""Run a program with limits: `sandbox CPU_SECONDS MEMORY_BYTES FILE_BYTES DATA_FOLDER OUTPUT_FOLDER PROGRAM...`.

A separate process sets the limits and becomes the program, because setting them between fork and exec is unsafe in a
process with threads. Imports are kept few. On Windows, where no process becomes another one, it starts the program in a
job object with the limits, and ends with it.

The program decodes recordings of strangers. It may write into the output folder, and read the interpreter, libraries
and what its command line names: nothing else of the data folder. It has no network. Linux has three means for this, any
of which may be missing: a network namespace (`leave_the_network`), Landlock (`server.datasets.landlock`) and seccomp
(`server.datasets.seccomp`). `rvc-train admin doctor` shows which are in force. macOS and Windows have the limits alone.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from server.datasets import landlock, seccomp

PR_SET_PDEATHSIG = 1
"""Constant of Linux' `prctl.h`."""
CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
"""Constants of Linux' `sched.h`."""
Rule = tuple[str, int]
"""A path, and Landlock's rights to all below it."""
SHOW_CONFINEMENT = "--show-confinement"
_LIBRARIES = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/gnu/store")
_SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/kernel", "/proc/sys/vm"),
    *("/sys/devices/system", "/dev/urandom", "/dev/random", "/dev/zero"),
)
_PACKAGES = ("rvc_engine", "rvc_train", "server")


def main(arguments: list[str]) -> None:
    """Set the limits and become the program."""
    if arguments[0] == SHOW_CONFINEMENT:
        rules = rules_for(arguments[1], arguments[1], ["true"])
        print(*map(int, (leave_the_network(), landlock.restrict(rules), seccomp.restrict())))  # noqa: T201
        return
    cpu_seconds, memory_bytes, file_bytes = map(int, arguments[:3])
    data_folder, output, program = arguments[3], arguments[4], arguments[5:]
    if sys.platform == "win32":
        run_in_job(cpu_seconds, memory_bytes, output, program)
    else:
        set_limits(cpu_seconds, memory_bytes, file_bytes)
    leave_the_network()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the program ends with a killed server
    landlock.restrict(rules_for(data_folder, output, program))
    seccomp.restrict()  # the last, because it refuses what the others need
    os.environ["TMPDIR"] = output
    os.execvp(program[0], program)  # noqa: S606 - no shell is the point


if sys.platform == "win32":

    def run_in_job(cpu_seconds: int, memory_bytes: int, output: str, program: Sequence[str]) -> NoReturn:
        """Run the program in a job with the limits, which ends with this process, and exit with its exit code.

        There is no limit on the size of its files. It may start no program: a virtual environment's `python.exe` is one
        that starts another, the interpreter, so that there are two processes.
        """
        from rvc_engine.environment.processes import ProcessGroup
        from rvc_engine.environment.windows_jobs import Limits

        num_processes = 1 if sys.prefix == sys.base_prefix else 2
        limits = Limits(cpu_seconds, memory_bytes, num_processes, is_low_priority=True)
        environment = os.environ | {"TEMP": output, "TMP": output}
        child = ProcessGroup(program, environment, stdin=subprocess.DEVNULL, limits=limits)
        code = child.wait()
        sys.exit(code if code < 2**31 else code - 2**32)  # as the C type that it becomes

else:

    def set_limits(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
        """Set the limits of this process."""
        import resource

        # The hard limit on CPU time is a little higher: SIGXCPU, which is recognisable, comes before SIGKILL.
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        except (ValueError, OSError):
            if sys.platform == "linux":  # macOS refuses what is less than the libraries have mapped already
                raise
        os.nice(10)


def rules_for(data_folder: str, output: str, program: Sequence[str]) -> Iterator[Rule]:
    """Paths that the program may use."""
    yield output, landlock.WRITE
    yield "/dev/null", landlock.WRITE
    for path in (*_LIBRARIES, *_SYSTEM_FILES, f"/etc/python{sys.version_info.major}.{sys.version_info.minor}"):
        yield path, landlock.READ
    ours, hidden = os.path.realpath(f"{__file__}/../../.."), os.path.realpath(data_folder)
    folders = [sys.prefix, sys.exec_prefix, sys.base_prefix, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    for folder in map(os.path.realpath, filter(None, [*folders, *sys.path])):
        if folder == ours:  # a checkout, whose other files need not be read
            yield ours, landlock.LIST
            yield from ((f"{ours}/{name}", landlock.READ) for name in _PACKAGES)
        else:
            yield from _except(folder, hidden)
    yield from ((path, landlock.READ) for path in (shutil.which(program[0]) or "", *program) if path)


def _except(folder: str, hidden: str) -> Iterator[Rule]:
    """Rules for all of a folder but what lies in another one."""
    if not f"{hidden}/".startswith(f"{folder}/"):
        yield folder, landlock.READ
        return
    yield folder, landlock.LIST
    if folder != hidden and os.access(folder, os.R_OK):
        for entry in os.scandir(folder):
            yield from _except(entry.path, hidden)


def leave_the_network() -> bool:
    """Enter a network namespace without interfaces, so that a compromised decoder has no network.

    Possible as root, or where users may create namespaces. Returns whether it succeeded.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is a long import
                file.write(text)
        except OSError:  # files may then belong to the overflow user, but stay readable
            return True
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
