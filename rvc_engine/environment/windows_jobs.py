"""Job objects of Windows: what is started in one ends with it, and stays within its limits.

A job ends its processes when its last handle closes, so also when the process that made it is killed.
See https://learn.microsoft.com/windows/win32/procthread/job-objects. Used by `processes` alone, on Windows alone.
"""

import ctypes
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a job. None: without one."""

    cpu_seconds: int | None = None
    """CPU time of all its processes together; Windows ends them with EXIT_CPU_TIME."""
    memory_bytes: int | None = None
    """Memory of each process: more is refused to it."""
    num_processes: int | None = None
    """Number of processes at once; a further one cannot be started."""
    is_low_priority: bool = False


EXIT_CPU_TIME = 1816
"""Exit code of a process whose job used all of its CPU time (ERROR_NOT_ENOUGH_QUOTA)."""
EXIT_ENDED = 1
"""Exit code of a process whose job was ended by `Job.end`."""

if sys.platform == "win32":
    from ctypes import wintypes

    _ACTIVE_PROCESS, _JOB_TIME, _PRIORITY, _PROCESS_MEMORY, _KILL_ON_CLOSE = 0x8, 0x4, 0x20, 0x100, 0x2000
    """Flags of the limits in force."""
    _EXTENDED_LIMITS = 9
    _BELOW_NORMAL = 0x4000

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("process_time", ctypes.c_int64),
            ("job_time", ctypes.c_int64),
            ("flags", wintypes.DWORD),
            ("minimum_working_set", ctypes.c_size_t),
            ("maximum_working_set", ctypes.c_size_t),
            ("num_processes", wintypes.DWORD),
            ("affinity", ctypes.c_size_t),
            ("priority", wintypes.DWORD),
            ("scheduling", wintypes.DWORD),
        )

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = (
            ("basic", _BasicLimits),
            ("io", ctypes.c_uint64 * 6),
            ("process_memory", ctypes.c_size_t),
            ("job_memory", ctypes.c_size_t),
            ("peak_process_memory", ctypes.c_size_t),
            ("peak_job_memory", ctypes.c_size_t),
        )

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _ntdll = ctypes.WinDLL("ntdll")
    _kernel.CreateJobObjectW.argtypes = [wintypes.LPVOID, wintypes.LPCWSTR]
    _kernel.CreateJobObjectW.restype = wintypes.HANDLE
    _kernel.SetInformationJobObject.argtypes = [wintypes.HANDLE, ctypes.c_int, wintypes.LPVOID, wintypes.DWORD]
    _kernel.AssignProcessToJobObject.argtypes = [wintypes.HANDLE, wintypes.HANDLE]
    _kernel.TerminateJobObject.argtypes = [wintypes.HANDLE, wintypes.UINT]
    _kernel.CloseHandle.argtypes = [wintypes.HANDLE]
    _ntdll.NtResumeProcess.argtypes = [wintypes.HANDLE]

    class Job:
        """A job object, whose processes end with the last handle to it: with this process at the latest."""

        def __init__(self, limits: Limits) -> None:
            """Raises OSError."""
            self._handle: int | None = _checked(_kernel.CreateJobObjectW(None, None))
            information = _ExtendedLimits()
            basic = information.basic
            basic.flags = _KILL_ON_CLOSE
            if limits.cpu_seconds is not None:
                basic.flags |= _JOB_TIME
                basic.job_time = limits.cpu_seconds * 10_000_000  # of 100 ns
            if limits.num_processes is not None:
                basic.flags |= _ACTIVE_PROCESS
                basic.num_processes = limits.num_processes
            if limits.is_low_priority:
                basic.flags |= _PRIORITY
                basic.priority = _BELOW_NORMAL
            if limits.memory_bytes is not None:
                basic.flags |= _PROCESS_MEMORY
                information.process_memory = limits.memory_bytes
            size = ctypes.sizeof(information)
            _checked(_kernel.SetInformationJobObject(self._handle, _EXTENDED_LIMITS, ctypes.byref(information), size))

        def add_suspended(self, process: int) -> None:
            """Take in a process that was created suspended, by its handle, and let it run. Raises OSError."""
            _checked(_kernel.AssignProcessToJobObject(self._handle, process))
            if _ntdll.NtResumeProcess(process) != 0:
                raise OSError("a process that was just started cannot be resumed")

        def end(self) -> None:
            """End all its processes at once."""
            if self._handle is not None:
                _kernel.TerminateJobObject(self._handle, EXIT_ENDED)

        def close(self) -> None:
            """Close the handle, which ends what still runs."""
            handle, self._handle = self._handle, None
            if handle is not None:
                _kernel.CloseHandle(handle)

        def __del__(self) -> None:
            self.close()

    def _checked(result: int | None) -> int:
        """The result, unless it reports a failure. Raises OSError."""
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result
