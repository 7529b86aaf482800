"""The long form: the tests of client, server, worker and engine on Windows, a folder at a time.

A test that hangs or crashes costs itself alone, a folder that takes too long its own rest: both are named, and the next
folder follows. At the end: what became of each folder's tests, and each reason for a skip with its number.

The tests' own process has Python's UTF-8 mode, for what they read and write; the programs that they start do not.
"""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.windows import outcomes
from tests.windows.outcomes import BEGUN, FAILED, FILE, PASSED, SKIPPED, Outcome, Outcomes

ROOTS = ("tests/client", "tests/worker", "tests/server", "tests/engine")
MARKS = "not (windows or long or gpu or install or clients or containers)"
TEST_SECONDS = 120
FOLDER_SECONDS = 1500
FOLDER_MARK = "RVC_WINDOWS_FOLDER"
"""Environment variable of all processes of a run, by which those that a killed pytest left are found."""

StartPytest = Callable[[tuple[str, ...], Mapping[str, str]], subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Folder:
    """A folder that was run."""

    name: str
    found: Outcomes
    seconds: float

    def tests(self, outcome: str) -> list[Outcome]:
        return [test for test in self.found.tests.values() if test.outcome == outcome]

    @property
    def is_good(self) -> bool:
        return self.found.is_complete and not self.tests(FAILED) and not self.tests(BEGUN)


def run(start: StartPytest, work: Path, chosen: list[str]) -> int:
    """Run all folders, or those chosen; 0 if every test of them passed or was skipped."""
    root = Path(__file__).resolve().parents[2]
    folders = []
    for name, paths in groups(root).items():
        if not chosen or any(name == each or name.startswith(f"{each}/") for each in chosen):
            folders.append(run_folder(start, work, name, paths))
            print(row(folders[-1]), flush=True)
    print("\n" + summary(folders), flush=True)
    return 0 if all(folder.is_good for folder in folders) else 1


def groups(root: Path) -> dict[str, list[str]]:
    """Folders by name, each with what is given to pytest: a folder, or the files that lie directly in one of ROOTS."""
    found: dict[str, list[str]] = {}
    for top in ROOTS:
        for path in sorted((root / top).iterdir()):
            if path.is_dir() and any(path.rglob("test_*.py")):
                found[f"{top}/{path.name}"] = [f"{top}/{path.name}"]
            elif path.match("test_*.py"):
                found.setdefault(top, []).append(f"{top}/{path.name}")
    return found


def run_folder(start: StartPytest, work: Path, name: str, paths: list[str]) -> Folder:
    """Run pytest on a folder, again behind each test that ended it, as long as the folder has time."""
    print(f"\n{name}", flush=True)
    mark = f"{work.name}/{name}"
    file = work / f"{name.replace('/', '-')}.outcomes"
    words = ("-p", "tests.windows.outcomes", "-m", MARKS, f"--timeout={TEST_SECONDS}", "-q", "--tb=no", *paths)
    begun = time.monotonic()
    known = -1
    while not (found := outcomes.read(file)).is_complete and len(found.tests) > known:
        known = len(found.tests)
        process = start(words, {FILE: str(file), FOLDER_MARK: mark, "PYTHONUTF8": "1"})
        try:
            process.wait(max(1, begun + FOLDER_SECONDS - time.monotonic()))
        except subprocess.TimeoutExpired:
            break
        finally:
            end_all(mark)
            process.kill()
            process.wait()
    return Folder(name, outcomes.read(file), time.monotonic() - begun)


def end_all(mark: str) -> None:
    """End the Pythons of a run: under Wine they are neither children nor of the group of what was started here.

    Wine's own programs, which have the environment of whoever came first, serve other runs too.
    """
    ended = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if "python" in process.name().lower() and process.environ().get(FOLDER_MARK) == mark:
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=30)


def row(folder: Folder) -> str:
    """One line on a folder, after what failed in it."""
    lines = [f"FAILED {test.test}\n{test.why}\n" for test in folder.tests(FAILED)]
    lines += [f"ENDED {test.test}: it hung, or its process ended\n" for test in folder.tests(BEGUN)]
    return "\n".join([*lines, counts(folder)])


def counts(folder: Folder) -> str:
    numbers = Counter(test.outcome for test in folder.found.tests.values())
    text = f"{folder.name:<32}{numbers[PASSED]:>5} passed{numbers[FAILED]:>5} failed{numbers[BEGUN]:>3} ended"
    text += f"{numbers[SKIPPED]:>4} skipped{folder.seconds:>6.0f} s"
    if not folder.found.collected:
        text += "  NOTHING was collected"
    elif not folder.found.is_complete:
        text += f"  NOT COMPLETE: {folder.found.collected - len(folder.found.tests)} tests did not run"
    return text


def summary(folders: list[Folder]) -> str:
    """All folders, all tests that did not pass, and the reasons of the skips with their numbers."""
    bad = [test for folder in folders for outcome in (FAILED, BEGUN) for test in folder.tests(outcome)]
    reasons = Counter(test.why for folder in folders for test in folder.tests(SKIPPED))
    return "\n".join(
        [
            *map(counts, folders),
            *(f"{'failed' if test.outcome == FAILED else 'ended'}: {test.test}" for test in bad),
            f"{reasons.total()} skipped, because",
            *(f"{number:>5}  {reason}" for reason, number in reasons.most_common()),
        ]
    )
