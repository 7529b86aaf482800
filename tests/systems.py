"""What some tests need and Windows has not: one reason each, by which `make test-windows` counts its skips."""

import ctypes
import os
import sys
from pathlib import Path

import psutil
import pytest

IS_WINDOWS = sys.platform == "win32"
IS_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
WAIT_FACTOR = 4 if IS_WINDOWS else 1
"""By how much tests wait longer there, where a program takes seconds to start."""

links = pytest.mark.skipif(IS_WINDOWS, reason="Windows makes symbolic links for administrators alone")
modes = pytest.mark.skipif(IS_WINDOWS, reason="Windows has access lists in place of modes")
named_pipes = pytest.mark.skipif(IS_WINDOWS, reason="Windows has no named pipes in folders")
proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
scripts = pytest.mark.skipif(IS_WINDOWS, reason="its program is a shell script")
full_device = pytest.mark.skipif(IS_WINDOWS, reason="writes to /dev/full")
ctrl_c = pytest.mark.skipif(IS_WINDOWS, reason="Ctrl-C comes from a console on Windows, and the tests have none")
forked = pytest.mark.skipif(IS_WINDOWS, reason="its engines are forks")
terminals = pytest.mark.skipif(IS_WINDOWS, reason="opens a pseudo-terminal")
signals = pytest.mark.skipif(IS_WINDOWS, reason="no signal asks a program to stop on Windows")
orphans = pytest.mark.skipif(IS_WINDOWS, reason="an engine on Windows ends with its killed worker")


def peak_bytes(pid: int | None = None) -> int:
    """The most that a process, or this one, has had in memory. Raises OSError, psutil.Error or StopIteration."""
    if sys.platform == "win32":
        return int(psutil.Process(pid).memory_info().peak_wset)
    lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
