"""Crash points: a program that is killed between two steps, a step being a change of a file or a commit.

`CrashPoints` is the test's half. The program's half is this module run as a program, `python -m tests.crash_points
MODULE ARGUMENTS`: it becomes that module with hooks of Python (`sys.addaudithook`) and of SQLAlchemy (events of its
sessions), so nothing of the product is changed. Steps are counted from the moment that the test arms the points:

    for at in itertools.count():
        points = CrashPoints(folder / "points", data_folder)
        server = forks().start(*points.command("server"), environment=environment | points.environment, ...)
        points.arm(at)
        act()                                # fails when the server is killed meanwhile
        if not points.was_killed():
            break                            # there are no more steps: every point was visited
        start_again_and_check()

A step is counted before it is made, and a commit after it as well, because its answer may be lost. Not counted are:
fsync (a killed process loses nothing that it wrote), files outside of the data folder, SQLite's own files, and
transactions that only read.
"""

import importlib
import json
import os
import re
import runpy
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

CONTROL, DATA = "CRASH_POINTS_CONTROL", "CRASH_POINTS_DATA"


class CrashPoints:
    """The crash points of one program: where it dies, and which steps it made."""

    def __init__(self, folder: Path, data_folder: Path, constants: Mapping[str, object] | None = None) -> None:
        """`folder`: a new one for messages to the program. `data_folder`: the one whose files count.

        `constants`: values that replace those of modules, such as `{"server.app:EXPIRY_SECONDS": 0.1}`.
        """
        folder.mkdir(parents=True)
        self._armed, self._steps = folder / "armed.json", folder / "steps"
        self.environment = {CONTROL: str(folder), DATA: str(data_folder.resolve())}
        (folder / "constants.json").write_text(json.dumps(dict(constants or {})))

    @staticmethod
    def command(module: str, *arguments: str) -> tuple[str, ...]:
        """The module with arguments to start in place of `module`."""
        return "tests.crash_points", module, *arguments

    def arm(self, at: int | None, *, steps: str = "", ignored_threads: str = "") -> None:
        """From now on steps count, and the program is killed before that of number `at` (None: only counted).

        `steps`: a regular expression that a step must contain to count. `ignored_threads`: one of names of threads
        whose steps don't count, for instance of heartbeats.
        """
        content = {"at": at, "steps": steps, "ignored_threads": ignored_threads}
        unready = self._armed.with_suffix(".new")
        unready.write_text(json.dumps(content))
        unready.replace(self._armed)

    def steps(self) -> list[str]:
        """The steps since it was armed, such as `rename incoming/0192... datasets/ds_0192...` or `commit`.

        The last one was not made if the program was killed.
        """
        return self._steps.read_text().splitlines() if self._steps.exists() else []

    def was_killed(self) -> bool:
        """Whether the program came to the step where it was to be killed."""
        return bool(self.steps()) and self.steps()[-1].startswith("killed before ")


class _Counter:
    """The program's half: counts steps, and kills the process."""

    def __init__(self, folder: Path, data_folder: str) -> None:
        self._armed, self._log, self._data = folder / "armed.json", folder / "steps", data_folder
        self._lock = threading.RLock()
        self._orders: dict[str, Any] | None = None
        self._count = 0

    def step(self, text: str) -> None:
        """Count a step that is about to be made."""
        with self._lock:
            if self._orders is None:
                try:
                    self._orders = json.loads(self._armed.read_text())
                except FileNotFoundError:
                    return
            orders = self._orders
            thread = threading.current_thread().name
            if orders["ignored_threads"] and re.search(orders["ignored_threads"], thread):
                return
            if not re.search(orders["steps"], text):
                return
            is_last = orders["at"] == self._count
            self._count += 1
            with self._log.open("a") as log:
                log.write(f"{'killed before ' if is_last else ''}{text}    ({thread})\n")
            if is_last:
                psutil.Process().kill()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Hook of `sys.addaudithook`, which is called before a change of a file is made."""
        paths = [path for path in _changed(event, arguments) if path.startswith(self._data)]
        if paths and not any(_is_database(path) for path in paths):
            names = " ".join(os.path.relpath(path, self._data).replace(os.sep, "/") for path in paths)
            self.step(f"{event.removeprefix('os.')} {names}")

    def before_commit(self, session: Any) -> None:
        if _may_write(session):
            self.step("commit")

    def after_commit(self, session: Any) -> None:
        if _may_write(session):
            self.step("committed")


def _changed(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """Absolute paths that a step changes: those that are opened for writing, made, moved, linked or deleted."""
    match event:
        case "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                yield from _absolute(path)
        case "os.rename" | "os.link":
            source, target, source_folder, target_folder = arguments
            yield from _absolute(source, source_folder)
            yield from _absolute(target, target_folder)
        case "os.remove" | "os.rmdir":
            yield from _absolute(*arguments)
        case "os.mkdir":
            path, _, folder = arguments
            yield from (each for each in _absolute(path, folder) if not Path(each).is_dir())
        case "os.symlink":
            yield from _absolute(arguments[1], arguments[2])
        case "os.truncate":
            yield from _absolute(arguments[0])


def _absolute(path: Any, folder: int = -1) -> Iterator[str]:
    """The path, from its folder's descriptor if it has one (-1: none)."""
    if isinstance(path, int):
        with suppress(OSError):
            yield str(_opened(path))
    else:
        base = _opened(folder) if folder >= 0 else Path.cwd()
        yield os.path.normpath(base / os.fsdecode(path))


def _opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _is_database(path: str) -> bool:
    return bool(re.search(r"\.db(-wal|-shm|-journal)?$|\.lock$", path))


def _may_write(session: Any) -> bool:
    """Whether it is a transaction of `write_session`."""
    return session.get_bind().get_execution_options().get("sqlite_begin") != "DEFERRED"


def main() -> None:
    """Become the program named in the arguments, with crash points."""
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    from tests.forking_programs import forget

    folder = Path(os.environ.pop(CONTROL))
    counter = _Counter(folder, os.environ.pop(DATA))
    for name, value in json.loads((folder / "constants.json").read_text()).items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    sys.argv = sys.argv[1:]
    forget(sys.argv[0])
    event.listen(Session, "before_commit", counter.before_commit)
    event.listen(Session, "after_commit", counter.after_commit)
    sys.addaudithook(counter.audit)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
