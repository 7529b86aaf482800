"""Simulation of the queue: between which times a job starts, whichever of the possible orders comes."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from server.database.tables import Worker
from server.estimates.queue_places import QueueView, Waiting
from server.scheduling.resources import fits, parse_needs

Bounds = tuple[float, float]


class Start(NamedTuple):
    """Seconds until a job starts, at least and at most."""

    low: float
    high: float


def needed_numbers(view: QueueView, jobs: Iterable[Waiting]) -> set[int]:
    """Numbers of the jobs whose durations a `Simulation` needs."""
    found: set[int] = set()
    for job in jobs:
        found |= {job.number, *view.higher(job.priority), *view.own_before(job)}
        found.update(view.others_before_first(job) if view.num_own_before(job) == 0 else view.others(job))
    return found


@dataclass(frozen=True)
class Simulation:
    """Workers that take jobs one after the other."""

    view: QueueView
    needs: Mapping[int, str]
    """Requirements of each job in the queue."""
    seconds: Mapping[int, Bounds]
    """Duration of each job in the queue, at least and at most."""
    free_in: Sequence[tuple[Worker, Bounds]]
    """Seconds until each worker is free, at least and at most."""

    def starts(self, jobs: Iterable[Waiting]) -> dict[int, Start]:
        """Starts by the jobs' numbers; none of jobs that no worker could take."""
        found: dict[int, Start] = {}
        groups: dict[tuple[str, int, str], list[Waiting]] = {}
        for job in jobs:
            groups.setdefault((job.owner, job.priority, job.needs), []).append(job)
        for group in groups.values():
            found |= self._starts_of_group(sorted(group))
        return found

    def _starts_of_group(self, group: Sequence[Waiting]) -> dict[int, Start]:
        """Starts of jobs of one owner that need the same and have the same priority, in order."""
        needs = parse_needs(group[0].needs)
        able = [(worker, bounds) for worker, bounds in self.free_in if fits(needs, worker)]
        if not able:
            return {}

        def takes_such(number: int) -> bool:
            theirs = parse_needs(self.needs[number])
            return any(fits(theirs, worker) for worker, _ in able)

        def is_alike(number: int) -> bool:
            return self.needs[number] == group[0].needs

        higher, last = self.view.higher(group[0].priority), group[-1]
        # At best only what must run before does, and what needs something else is left to other workers.
        soonest = self._walk([low for _, (low, _) in able], 0, higher, last, is_alike)
        lows = {job.number: soonest[job.number] for job in group}
        latest = self._walk([high for _, (_, high) in able], 1, [*higher, *self.view.others(last)], last, takes_such)
        highs = {job.number: latest[job.number] for job in group}
        if self.view.num_own_before(group[0]) == 0:
            before = [*higher, *self.view.others_before_first(group[0])]
            of_first = self._walk([high for _, (_, high) in able], 1, before, group[0], takes_such)
            highs[group[0].number] = of_first[group[0].number]
        return {job.number: Start(lows[job.number], highs[job.number]) for job in group}

    def _walk(
        self, free: list[float], bound: int, before: Iterable[int], last: Waiting, counts: Callable[[int], bool]
    ) -> dict[int, float]:
        """Starts of the owner's jobs up to `last`, after those before them; `bound`: 0 at least, 1 at most."""
        heapq.heapify(free)
        for number in before:
            if number in self.needs and counts(number):
                heapq.heapreplace(free, free[0] + self.seconds[number][bound])
        found: dict[int, float] = {}
        for number in self.view.own_before(last):
            found[number] = free[0]
            if number in self.needs and counts(number):
                heapq.heapreplace(free, free[0] + self.seconds[number][bound])
        return found | {last.number: free[0]}
