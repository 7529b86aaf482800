"""Memory and file descriptors of processes over time, and whether they grow."""

import itertools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Slope:
    """Growth per minute by least squares, with its standard error."""

    per_minute: float
    error: float
    num_samples: int
    highest: float

    @property
    def least(self) -> float:
        """Growth per minute that is certain, at two standard errors."""
        return self.per_minute - 2 * self.error


def slope(lives: list[list[tuple[float, float]]]) -> Slope:
    """The common slope of several processes' samples `(seconds, value)`, each process with a level of its own.

    Samples that follow each other resemble each other, so the number of independent ones is estimated from the
    residuals' autocorrelation; without that the error would be several times too small.
    """
    lives = [life for life in lives if len(life) > 2]
    moments = products = squares = 0.0
    centred: list[list[tuple[float, float]]] = []
    for life in lives:
        mean_t, mean_y = (sum(sample[i] for sample in life) / len(life) for i in (0, 1))
        centred.append([(t - mean_t, y - mean_y) for t, y in life])
        moments += sum(t * t for t, _ in centred[-1])
        products += sum(t * y for t, y in centred[-1])
    count = sum(map(len, lives))
    if not moments:
        return Slope(math.nan, math.nan, count, math.nan)
    rate = products / moments
    residuals = [[y - rate * t for t, y in life] for life in centred]
    squares = sum(value * value for life in residuals for value in life)
    neighbours = sum(a * b for life in residuals for a, b in itertools.pairwise(life))
    correlation = min(0.99, max(0.0, neighbours / squares)) if squares else 0.0
    independent = count * (1 - correlation) / (1 + correlation)
    variance = squares / max(1.0, independent - len(lives) - 1)
    highest = max(y for life in lives for _, y in life)
    error = math.sqrt(variance / moments * count / max(1.0, independent))
    return Slope(60 * rate, 60 * error, count, highest)


@dataclass
class _Process:
    kind: str
    began: float
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Resident bytes."""
    descriptors: list[tuple[float, float]] = field(default_factory=list)


class Measures(threading.Thread):
    """Thread that samples the processes which `running` lists by process id with their kind."""

    def __init__(self, running: Callable[[], dict[int, str]], warm_up_seconds: float) -> None:
        super().__init__(daemon=True)
        self._running, self._warm_up = running, warm_up_seconds
        self._processes: dict[int, _Process] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stopping.wait(SAMPLE_SECONDS):
            now = time.monotonic()
            for pid, kind in self._running().items():
                process = self._processes.setdefault(pid, _Process(kind, now))
                if now - process.began >= self._warm_up:
                    with suppress(OSError, StopIteration, ValueError):  # it has just ended
                        process.memory.append((now, resident_bytes(pid)))
                        process.descriptors.append((now, len(list(Path(f"/proc/{pid}/fd").iterdir()))))

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self.join()

    def slopes(self) -> dict[str, dict[str, Slope]]:
        """Slopes of memory (MB) and descriptors by kind of process."""
        found: dict[str, list[_Process]] = defaultdict(list)
        for process in self._processes.values():
            found[process.kind].append(process)
        return {
            kind: {
                "memory_mb": slope([[(t, value / 1e6) for t, value in each.memory] for each in processes]),
                "descriptors": slope([each.descriptors for each in processes]),
            }
            for kind, processes in sorted(found.items())
        }

    def series(self, kind: str, num_points: int = 30) -> list[list[float]]:
        """Memory in MB of each process of a kind that was sampled long enough, thinned to about so many points."""
        lives = [
            each.memory for each in self._processes.values() if each.kind == kind and len(each.memory) > num_points
        ]
        return [[round(value / 1e6, 1) for _, value in life[:: len(life) // num_points]] for life in lives]


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
