"""Simulation of the queue: between which times a job starts, whichever of the possible orders comes."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from server.database.tables import Worker
from server.estimates.durations import Span
from server.estimates.queue_places import QueueView, Waiting
from server.scheduling.resources import fits, parse_needs

NOW = Span(0.0, 0.0, 0.0)


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
    seconds: Mapping[int, Span]
    """Duration of each job in the queue."""
    free_in: Sequence[tuple[Worker, Span]]
    """Seconds until each worker is free."""

    def starts(self, jobs: Iterable[Waiting]) -> dict[int, Span]:
        """Starts by the jobs' numbers; none of jobs that no worker could take."""
        found: dict[int, Span] = {}
        groups: dict[tuple[str, int, str], list[Waiting]] = {}
        for job in jobs:
            groups.setdefault((job.owner, job.priority, job.needs), []).append(job)
        for group in groups.values():
            found |= self._starts_of_group(sorted(group))
        return found

    def _starts_of_group(self, group: Sequence[Waiting]) -> dict[int, Span]:
        """Starts of jobs of one owner that need the same and have the same priority, in order."""
        needs = parse_needs(group[0].needs)
        able = [(worker, span) for worker, span in self.free_in if fits(needs, worker)]
        if not able:
            return {}

        def takes_such(number: int) -> bool:
            theirs = parse_needs(self.needs[number])
            return any(fits(theirs, worker) for worker, _ in able)

        def is_alike(number: int) -> bool:
            return self.needs[number] == group[0].needs

        free_in = [span for _, span in able]
        higher, last, first = self.view.higher(group[0].priority), group[-1], group[0]
        # At best only what must run before does, and what needs something else is left to other workers.
        lows = self._walk("low", free_in, higher, last, is_alike)
        # Likely and at most everything runs before that may.
        everything = [*higher, *self.view.others(last)]
        likelies, highs = (self._walk(bound, free_in, everything, last, takes_such) for bound in ("likely", "high"))
        if self.view.num_own_before(first) == 0:
            before = [*higher, *self.view.others_before_first(first)]
            for bound, found in (("likely", likelies), ("high", highs)):
                found[first.number] = self._walk(bound, free_in, before, first, takes_such)[first.number]
        return {job.number: Span(lows[job.number], likelies[job.number], highs[job.number]) for job in group}

    def _walk(
        self, bound: str, free_in: Iterable[Span], before: Iterable[int], last: Waiting, counts: Callable[[int], bool]
    ) -> dict[int, float]:
        """Starts of the owner's jobs up to `last`, after those before them, by one `bound` of all durations."""
        free = [getattr(span, bound) for span in free_in]
        heapq.heapify(free)
        for number in before:
            if number in self.needs and counts(number):
                heapq.heapreplace(free, free[0] + getattr(self.seconds[number], bound))
        found: dict[int, float] = {}
        for number in self.view.own_before(last):
            found[number] = free[0]
            if number in self.needs and counts(number):
                heapq.heapreplace(free, free[0] + getattr(self.seconds[number], bound))
        return found | {last.number: free[0]}
