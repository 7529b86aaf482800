"""The long form of `make test-windows` goes on behind a test that ends or stops pytest, and names it."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rvc_engine.environment.processes import process_identity
from tests.windows import long_form
from tests.windows.outcomes import BEGUN, FAILED, PASSED, SKIPPED

ROOT = Path(__file__).parents[1]
FIRST = """
import os, pytest

def test_good(): pass
def test_bad(): assert 2 == 3
def test_that_ends_the_process(): os._exit(3)
@pytest.mark.skip(reason="not here")
def test_left_out(): pass
"""
SECOND = """
import pathlib, subprocess, sys, time

def test_that_hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    pathlib.Path(__file__).with_name("pid").write_text(str(child.pid))
    time.sleep(300)

def test_that_nothing_runs(): pass
"""


class Started(subprocess.Popen[bytes]):
    """A pytest whose folder has no time left once its hanging test has begun."""

    def __init__(self, folder: Path, words: tuple[str, ...], variables: Mapping[str, str]) -> None:
        self.begun = folder / "pid"
        own = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        environment = os.environ | own | variables
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            "--rootdir",
            folder,
            "-p",
            "pytest_timeout",
            *words,
        ]
        super().__init__(command, cwd=folder, env=environment)

    def wait(self, timeout: float | None = None) -> int:
        while timeout is not None and self.poll() is None:
            if self.begun.exists() and self.begun.read_text():
                raise subprocess.TimeoutExpired("pytest", timeout)
            time.sleep(0.05)
        return super().wait(timeout)


def test_what_ends_or_hangs_is_named_and_what_comes_after_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)

    start = functools.partial(Started, tmp_path)
    first = long_form.run_folder(start, tmp_path, "first", ["test_first.py"])
    second = long_form.run_folder(start, tmp_path, "second", ["test_second.py"])

    names = {outcome: [test.test.partition("::")[2] for test in first.tests(outcome)] for outcome in (PASSED, BEGUN)}
    assert names == {PASSED: ["test_good"], BEGUN: ["test_that_ends_the_process"]}
    (failed,) = first.tests(FAILED)
    assert "assert 2 == 3" in failed.why
    assert [test.why for test in first.tests(SKIPPED)] == ["not here"]
    assert first.found.is_complete
    assert [test.test for test in second.tests(BEGUN)] == ["test_second.py::test_that_hangs"]
    assert not second.found.is_complete
    assert "NOT COMPLETE" in long_form.counts(second)
    assert "1 tests did not run" in long_form.counts(second)
    assert process_identity(int((tmp_path / "pid").read_text())) is None
    assert "    1  not here" in long_form.summary([first, second])
    assert [first.is_good, second.is_good] == [False, False]
