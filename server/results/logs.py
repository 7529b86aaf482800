"""A job's log file, as readers want it: from an offset, its last lines, or line by line as it grows."""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 1000
_BLOCK = 1 << 16
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line without its end."""

    text: str
    end: int
    """Offset of the byte behind it: where to go on."""


def log_size(path: Path) -> int:
    """Bytes of the log so far; 0 before its first line."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail_offset(path: Path, num_lines: int) -> int:
    """Where the last `num_lines` lines begin. Reads from the end, so a long log costs no more than a short one."""
    size = log_size(path)
    if size == 0 or num_lines == 0:
        return size
    with path.open("rb") as file:
        position, missing = size, num_lines
        while position > 0:
            start = max(position - _BLOCK, 0)
            file.seek(start)
            block = file.read(position - start)
            if position == size and block.endswith(b"\n"):
                missing += 1  # the end of the last line begins no line
            count = block.count(b"\n")
            if count >= missing:
                return start + _nth_from_end(block, missing) + 1
            missing -= count
            position = start
    return 0


def _nth_from_end(block: bytes, n: int) -> int:
    place = len(block)
    for _ in range(n):
        place = block.rfind(b"\n", 0, place)
    return place


def read_lines(path: Path, offset: int, *, is_finished: bool) -> list[Line]:
    """Whole lines from `offset` on, at most `MAX_LINES`; of a finished log also a last one without an end."""
    lines: list[Line] = []
    if log_size(path) <= offset:
        return lines
    with path.open("rb") as file:
        file.seek(offset, os.SEEK_SET)
        while len(lines) < MAX_LINES:
            line = file.readline(_MAX_LINE_BYTES)
            is_whole = line.endswith(b"\n") or len(line) == _MAX_LINE_BYTES or (is_finished and line)
            if not is_whole:
                break
            offset += len(line)
            lines.append(Line(line.decode(errors="replace").rstrip("\r\n"), offset))
    return lines
