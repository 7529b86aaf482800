"""Threads that work on datasets in the background, one of each owner at once, by turns."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

logger = structlog.get_logger(__name__)

STOP_SECONDS = 5.0
"""Time for the threads to end when the server stops."""


class OwnerTurns:
    """A thread that hands datasets to a few others. Work that fails is repeated after a second."""

    def __init__(
        self,
        name: str,
        num_threads: int,
        waiting: Callable[[], dict[str, str]],
        work: Callable[[str], None],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`waiting`: the id of each owner's oldest dataset that waits, by owner; `work`: called with an id.

        `leads`: whether this server, of several on one database, is the one that works.
        """
        self._leads = leads
        self._name, self._num_threads, self._waiting, self._work = name, num_threads, waiting, work
        self._stopping = threading.Event()
        """Set by `stop`: the work must end soon."""
        self._wake = threading.Event()
        self._owners_running: set[str] = set()
        self._turns: dict[str, int] = {}
        """Number of the turn in which each owner had the last dataset begun."""
        self._thread = threading.Thread(target=self._dispatch, name=name, daemon=True)

    def start(self) -> None:
        """Start, with the datasets that are waiting."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Notify the thread of a new dataset."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the threads, and wait for them for a while. Work that is cut off later is repeated by the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(STOP_SECONDS)

    def _dispatch(self) -> None:
        with ThreadPoolExecutor(self._num_threads, self._name) as threads:
            while not self._stopping.is_set():
                self._wake.wait(timeout=5)
                self._wake.clear()
                try:
                    while len(self._owners_running) < self._num_threads and (chosen := self._next()) is not None:
                        self._owners_running.add(chosen[0])
                        threads.submit(self._work_on, *chosen)
                except Exception:
                    logger.exception("no dataset could be chosen; retrying soon", work=self._name)

    def _next(self) -> tuple[str, str] | None:
        """The owner who has waited longest for a turn, and the id of his oldest dataset; None when none waits."""
        busy = set(self._owners_running)  # before the query, whose answer may have the dataset that ends meanwhile
        found = self._waiting() if self._leads() and not self._stopping.is_set() else {}
        waiting = {owner: dataset_id for owner, dataset_id in found.items() if owner not in busy}
        if not waiting:
            return None
        owner = min(waiting, key=lambda each: (self._turns.get(each, 0), waiting[each]))
        self._turns[owner] = 1 + max(self._turns.values(), default=0)
        return owner, waiting[owner]

    def _work_on(self, owner: str, dataset_id: str) -> None:
        try:
            self._work(dataset_id)
        except Exception:
            logger.exception("work on a dataset failed; retrying soon", work=self._name, dataset_id=dataset_id)
            self._stopping.wait(1)
        finally:
            self._owners_running.discard(owner)
            self._wake.set()
