"""What some tests need and Windows has not: one reason each, by which `make test-windows` counts its skips."""

import sys

import pytest

IS_WINDOWS = sys.platform == "win32"

links = pytest.mark.skipif(IS_WINDOWS, reason="Windows makes symbolic links for administrators alone")
modes = pytest.mark.skipif(IS_WINDOWS, reason="Windows has access lists in place of modes")
named_pipes = pytest.mark.skipif(IS_WINDOWS, reason="Windows has no named pipes in folders")
proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
scripts = pytest.mark.skipif(IS_WINDOWS, reason="its program is a shell script")
signals = pytest.mark.skipif(IS_WINDOWS, reason="no signal asks a program to stop on Windows")
orphans = pytest.mark.skipif(IS_WINDOWS, reason="an engine on Windows ends with its killed worker")
