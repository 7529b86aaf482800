"""Reading a job's log file: from an offset, its last lines, or line by line as it grows."""

import os
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 1000
_BLOCK = 1 << 16
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line without its line break."""

    text: str
    end: int
    """Offset after the line, where the next one starts."""


def log_size(path: Path) -> int:
    """Size of the log in bytes; 0 if it does not exist yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def tail_offset(path: Path, num_lines: int) -> int:
    """Offset of the last `num_lines` lines. Reads from the end, so the log's length does not matter."""
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
                missing += 1  # no line starts after the last line break
            count = block.count(b"\n")
            if count >= missing:
                return start + _nth_from_end(block, missing) + 1
            missing -= count
            position = start
    return 0


def _nth_from_end(block: bytes, n: int) -> int:
    position = len(block)
    for _ in range(n):
        position = block.rfind(b"\n", 0, position)
    return position


def read_lines(path: Path, offset: int, *, is_finished: bool) -> list[Line]:
    """Up to `MAX_LINES` complete lines from `offset` on; in a finished log also a last line without a line break."""
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
