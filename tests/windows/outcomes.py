"""A plugin of pytest: what became of each test, written to a file as it happens.

On Windows a time limit cannot interrupt a test: it ends all of pytest, as a crash does. The file then names the test
that was running and those that had run, so that another process goes on behind it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

FILE = "RVC_WINDOWS_OUTCOMES"
"""Environment variable with the path of the file, which is gone on with."""
BEGUN, PASSED, SKIPPED, FAILED = "begun", "passed", "skipped", "failed"
WORDS_OF_A_FAILURE = 2500


@dataclass(frozen=True)
class Outcome:
    test: str
    outcome: str
    why: str = ""
    """Reason of a skip, or the end of a failure's report."""


@dataclass(frozen=True)
class Outcomes:
    """The content of a file."""

    tests: dict[str, Outcome]
    """Of each test that has begun; BEGUN: it never ended."""
    collected: int
    """Tests that there are."""
    is_complete: bool
    """Whether pytest came to its end."""


def read(path: Path) -> Outcomes:
    """What became of the tests so far; a failure counts even where another part of the test passed."""
    tests: dict[str, Outcome] = {}
    collected, is_complete = 0, False
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        fields = json.loads(line)
        is_complete = fields.get("complete", False)
        collected = fields.get("collected", collected)
        if "test" in fields:
            new = Outcome(**fields)
            known = tests.get(new.test)
            if known is None or known.outcome != FAILED:
                tests[new.test] = new
    return Outcomes(tests, collected, is_complete)


def write(path: Path, **fields: object) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def note(test: str, outcome: str, why: str = "") -> None:
    write(Path(os.environ[FILE]), **asdict(Outcome(test, outcome, why)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = Path(os.environ[FILE])
    known = read(path).tests
    left_out = [item for item in items if item.nodeid in known]
    write(path, collected=len(items))
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.nodeid not in known]


def pytest_configure() -> None:
    os.environ["PYTHONUTF8"] = "0"  # from here on, of children alone


def pytest_runtest_logstart(nodeid: str) -> None:
    note(nodeid, BEGUN)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        note(report.nodeid, report.outcome, reason(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if not report.passed:
        note(report.nodeid, report.outcome, reason(report))


def pytest_sessionfinish() -> None:
    write(Path(os.environ[FILE]), complete=True)


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped or failed; empty for one that passed."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext[-WORDS_OF_A_FAILURE:]
