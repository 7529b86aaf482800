"""Parts of recordings that are left out, and the file in which a folder lists those of its recordings. No torch.

Each line of the file has the start and the end of a part in seconds of its recording, and the recording's name, as
Audacity exports labels: "83.5<TAB>86.25<TAB>anna/1.wav". Empty lines, and those that begin with "#", count for nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rvc_engine.errors import InvalidDataset

PARTS_FILE = "left_out_parts.txt"
MAX_PARTS = 1000
"""Most parts of one dataset."""
MAX_PARTS_BYTES = 2**20
"""Largest file of parts."""


class Part(NamedTuple):
    """A part of a recording, in seconds from the recording's start."""

    start: float
    end: float


Parts = Sequence[Part]


def merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts in order, to the millisecond; those that overlap or touch are one."""
    joined: list[Part] = []
    for start, end in sorted((round(part.start, 3), round(part.end, 3)) for part in parts):
        if joined and start <= joined[-1].end:
            joined[-1] = Part(joined[-1].start, max(joined[-1].end, end))
        elif end > start:
            joined.append(Part(start, end))
    return tuple(joined)


def within(parts: Parts, seconds: float) -> tuple[Part, ...]:
    """The parts as far as they lie in a recording of this length."""
    return merged(Part(part.start, min(part.end, seconds)) for part in parts if part.start < seconds)


def total_seconds(parts: Parts) -> float:
    """Seconds of parts that do not overlap."""
    return sum(part.end - part.start for part in parts)


def stretches(start: int, end: int, parts: Parts, sample_rate: int) -> Iterator[tuple[int, int]]:
    """The samples from `start` to `end` without the parts, which do not overlap: (start, end) of each stretch."""
    for part in parts:
        first = min(end, math.floor(part.start * sample_rate))
        if start < first:
            yield start, first
        start = max(start, math.ceil(part.end * sample_rate))
    if start < end:
        yield start, end


def parse_parts(text: str, names: Iterable[str]) -> dict[str, tuple[Part, ...]]:
    """The parts of each recording by its name, as the file has them. `names`: of all recordings.

    Raises InvalidDataset with the number of a line that is not understood.
    """
    known, found = set(names), dict[str, list[Part]]()
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split("\t" if line.count("\t") > 1 else None, 2)
        part = _part(words)
        if part is None:
            raise InvalidDataset(
                f"line {number} of {PARTS_FILE} is not a part of a recording: {line[:200]!r}; write its start and end "
                "in seconds and the recording's name, such as: 83.5 86.25 anna/1.wav"
            )
        name = words[2] if words[2] in known else words[2].strip()
        if name not in known:
            raise InvalidDataset(
                f"line {number} of {PARTS_FILE} names {name[:200]!r}, which is no recording of the dataset; write its "
                "path in the folder, with / between folders"
            )
        found.setdefault(name, []).append(part)
    return {name: merged(parts) for name, parts in found.items()}


def parse_all_parts(texts: Mapping[str, str], names: Sequence[str]) -> dict[str, tuple[Part, ...]]:
    """The parts by the names of their recordings, of all such files of a dataset by their folders ("" is its own).

    Names in a file are paths in its folder. Raises InvalidDataset.
    """
    found: dict[str, tuple[Part, ...]] = {}
    for folder, text in texts.items():
        start = f"{folder}/" if folder else ""
        within_folder = [name.removeprefix(start) for name in names if name.startswith(start)]
        for name, parts in parse_parts(text, within_folder).items():
            found[start + name] = merged([*found.get(start + name, ()), *parts])
    if sum(map(len, found.values())) > MAX_PARTS:
        raise InvalidDataset(
            f"{PARTS_FILE} has more than {MAX_PARTS} parts; leave out whole recordings, or cut them with an editor"
        )
    return found


def is_parts_file(name: str) -> bool:
    """Whether a path within a dataset, with "/" between its parts, is such a file."""
    return name.rpartition("/")[2] == PARTS_FILE


def parts_text(parts: Mapping[str, Parts]) -> str:
    """The file for parts by the names of their recordings; empty without any."""
    rows = [(part, name) for name, found in parts.items() for part in found]
    return "".join(f"{part.start:.3f}\t{part.end:.3f}\t{name}\n" for part, name in rows)


def _part(words: Sequence[str]) -> Part | None:
    """The part of a line, if it is one."""
    if len(words) != 3:
        return None
    try:
        part = Part(float(words[0]), float(words[1]))
    except ValueError:
        return None
    return part if 0 <= part.start < part.end < float("inf") else None
