"""Output and timing of benchmarks: one JSON line per measurement, ours and the reference's."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def print_line(name: str, ours: float, reference: float, unit: str, notes: str, device: str | None = None) -> None:
    """Print a line. The ratio is reference / ours: above 1 ours costs less; for a quality, above 1 ours is lower."""
    line = {
        "name": name,
        "ours": round(ours, 5),
        "reference": round(reference, 5),
        "ratio": round(reference / ours, 3) if ours else None,
        "unit": unit,
        "device": device or cpu_name(),
        "notes": notes,
    }
    print(json.dumps(line), flush=True)


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of each work, all run once per round, so that other load on the machine affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def cpu_name() -> str:
    """The processor, and the number of cores available to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model_name()}, {cores} cores"


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
