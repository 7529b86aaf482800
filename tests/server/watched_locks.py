"""A watch over locks and connections: neither may be held by a thread that asks for the other.

Otherwise all connections can be held by threads that wait for a lock, whose holder waits for a connection.
"""

import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


class Watch:
    """Locks and connections by thread, and violations, each with both stacks."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.num_locks = self.num_connections = 0
        self._locks: dict[int, list[str]] = defaultdict(list)
        self._connections: dict[int, list[str]] = defaultdict(list)

    def lock_wanted(self) -> None:
        self._compare("a lock is waited for", "a connection", self._connections)

    def lock_taken(self) -> None:
        self.num_locks += 1
        self._locks[threading.get_ident()].append(_stack())

    def lock_released(self) -> None:
        if held := self._locks[threading.get_ident()]:  # a lock may be released by another thread
            held.pop()

    def connection_taken(self, *_: object) -> None:
        self.num_connections += 1
        self._compare("a connection is asked for", "a lock", self._locks)
        self._connections[threading.get_ident()].append(_stack())

    def connection_returned(self, *_: object) -> None:
        if held := self._connections[threading.get_ident()]:
            held.pop()

    def _compare(self, wanted: str, held_kind: str, held: dict[int, list[str]]) -> None:
        if stacks := held[threading.get_ident()]:
            self.violations.append(f"{wanted}:\n{_stack()}\nwhile {held_kind} is held, taken at:\n{stacks[-1]}")

    def watch(self, engine: sa.Engine) -> None:
        """Watch the connections of an engine's pool."""
        sa.event.listen(engine, "checkout", self.connection_taken)
        sa.event.listen(engine, "checkin", self.connection_returned)


def _stack() -> str:
    return "".join(traceback.format_stack(limit=12)[:-2])


class WatchedLock:
    """A lock, or a reentrant one, in front of the real one."""

    def __init__(self, real: Any, watch: Watch) -> None:
        self._real, self._watch = real, watch

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            self._watch.lock_wanted()
        taken = bool(self._real.acquire(blocking, timeout))
        if taken:
            self._watch.lock_taken()
        return taken

    def release(self) -> None:
        self._watch.lock_released()
        self._real.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def watched_locks(*packages: str) -> Iterator[Watch]:
    """Locks that modules of these packages make within the block are watched, a condition's own too."""
    watch = Watch()
    real = {name: getattr(threading, name) for name in ("Lock", "RLock", "Condition")}

    def is_ours() -> bool:
        return str(sys._getframe(2).f_globals.get("__name__", "")).partition(".")[0] in packages

    def maker(name: str) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            ours = is_ours()
            if name != "Condition":
                return WatchedLock(real[name](), watch) if ours else real[name]()
            if ours and not arguments:
                arguments = (WatchedLock(real["Lock"](), watch),)
            return real[name](*arguments)

        return make

    for name in real:
        setattr(threading, name, maker(name))
    try:
        yield watch
    finally:
        for name, original in real.items():
            setattr(threading, name, original)
