"""The parts of the benchmark with their shares of the time, and the plan for the process of a part. No torch."""

import importlib.util
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

STAND_INS = Path(__file__).parent / "stand_ins"


@dataclass(frozen=True)
class Part:
    """A part, run in a process of its own."""

    name: str
    share: float
    """Seconds of 480. What a part leaves goes to those after it."""
    about: str


PARTS = (
    Part("gradients", 20, "cosine to float32's gradients, by number format"),
    Part("steps", 50, "step time without and with graphs, at batch 4 and 16, with the share of the GPU's limit"),
    Part("compiled", 90, "step time with compile=true, and the seconds of compiling"),
    Part("memory", 20, "peak memory beside the plain way"),
    Part("failures", 25, "out of memory and a failed capture, forced, and what followed"),
    Part("losses", 35, "losses of 150 steps beside the plain way, from the same weights and batches"),
    Part("voices", 210, "voices per hour at 1, 2, 4 and 8 at once, from steady steps"),
    Part("index", 10, "k-means and the nearest centres of 30,000 rows; with FAISS the whole index"),
    Part("content", 10, "content features of ten minutes; decoding"),
    Part("pitch", 10, "F0 of ten minutes"),
)
"""In the order of their worth: a GPU may be there for minutes only."""


@dataclass(frozen=True)
class Plan:
    """Device and time of the process of a part."""

    device: str
    ends_at: float
    """Time by `time.time` at which its last result is due."""
    is_tiny: bool = False
    """Whether only to test that it runs, with small models and few steps."""

    @property
    def seconds_left(self) -> float:
        """Seconds until the end."""
        return self.ends_at - time.time()

    @property
    def width(self) -> int:
        """Width of the models; 192 is the published one."""
        return 24 if self.is_tiny else 192

    def dump(self) -> str:
        """The plan as an argument of a process."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """The plan from an argument."""
        return cls(**json.loads(text))


def say(name: str, value: float | None, unit: str, notes: str = "", reference: float | None = None) -> None:
    """Print a result at once, as a JSON line; `reference`: of the plain way; the ratio is reference / value."""
    line: dict[str, Any] = {"name": name, "value": None if value is None else float(f"{value:.5g}"), "unit": unit}
    if reference is not None and value is not None:
        line |= {"reference": float(f"{reference:.5g}"), "ratio": round(reference / value, 3) if value else None}
    print(json.dumps(line | ({"notes": notes} if notes else {})), flush=True)


def is_missing(package: str) -> bool:
    """Whether this Python lacks a package, or has only the stand-in for it."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return True
    return found is None or STAND_INS in Path(found.origin or "").parents


def leave_out(name: str, package: str) -> None:
    """Print that something is left out, since a package is missing or the device is no GPU."""
    print(json.dumps({"name": name, "left_out": package}), flush=True)
