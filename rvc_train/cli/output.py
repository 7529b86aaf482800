"""Output of results and errors: text for a terminal, or JSON alone on standard output."""

import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rvc_engine.translation.characters import accept_any_character, has_every_character
from rvc_engine.translation.messages import translated, translated_word
from rvc_train.schemas.jobs import Range

_CONTROLLING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that control a terminal, or change the direction of text."""
_HARMLESS = frozenset("\n\t\u200c\u200d")
"""Exceptions: line breaks, tabs, and the joiners of some scripts and emoji."""


def without_control(text: str) -> str:
    """The text with a mark in place of each character that controls a terminal.

    Labels, file names, log lines and paths in the audit trail come from other people, and an escape sequence in
    them can hide lines of the terminal, or fill the clipboard.
    """
    if text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if each not in _HARMLESS and unicodedata.category(each) in _CONTROLLING else each
        for each in text
    )


class _SafeConsole(Console):
    """Console that prints control characters of texts as marks; its own colours stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything that is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(without_control(segment.text), segment.style)


class Output:
    """Output of one command. Names are printed literally: Rich's markup (`[x]`) and emoji codes (`:cat:`) are off."""

    def __init__(self, as_json: bool) -> None:
        plain: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False, "emoji": False}
        self.as_json = as_json
        accept_any_character(sys.stdout, sys.stderr)
        self.console = _SafeConsole(**plain, width=None if sys.stdout.isatty() else 200)
        self.errors = _SafeConsole(**plain, stderr=True)

    def result(self, value: BaseModel | Sequence[BaseModel] | dict[str, Any], text: str | Table) -> None:
        """Print a command's result: the value with --json, otherwise the text, in the user's language."""
        if self.as_json:
            self.json(value)
        else:
            self.console.print(translated(text) if isinstance(text, str) else text)

    def json(self, value: BaseModel | Sequence[BaseModel] | dict[str, Any], indent: int | None = 2) -> None:
        """Print a value as JSON on standard output."""
        text = json.dumps(_plain(value), indent=indent, ensure_ascii=not has_every_character(sys.stdout.encoding))
        escaped = re.sub("[^ -~\n]", lambda each: each[0] if each[0].isprintable() else json.dumps(each[0])[1:-1], text)
        sys.stdout.write(escaped + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print text for people, in their language; nothing with --json."""
        if not self.as_json:
            self.console.print(translated(text))

    def warning(self, text: str) -> None:
        """Print a warning on standard error."""
        self.errors.print(Text(translated(text), style="yellow"))

    def error(self, text: str) -> None:
        """Print an error on standard error."""
        self.errors.print(Text.assemble((translated("error: "), "bold red"), translated(text)))

    def transfer_bar(self) -> Progress:
        """Progress bar for bytes; hidden with --json and without a terminal."""
        return Progress(
            SpinnerColumn("dots" if has_every_character(self.errors.encoding) else "line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.errors,
            disable=self.as_json or not self.errors.is_terminal,
            transient=True,
        )


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def table(*columns: str) -> Table:
    """Table without lines, readable in a pipe too; its headings are translated."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(translated_word("column", column), overflow="fold", no_wrap=column == "ID")
    return made


def duration(seconds: float | None) -> str:
    """Seconds as text: 12 s, 3 min 05 s, 2 h 07 min; a dash for None."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return translated(f"{whole} s")
    if whole < 3600:
        return translated(f"{whole // 60} min {whole % 60:02d} s")
    return translated(f"{whole // 3600} h {whole % 3600 // 60:02d} min")


def span(seconds: Range | None) -> str:
    """Range of seconds as text, such as about 2 min (1 to 4), rounded to its largest unit; a dash for None."""
    if seconds is None:
        return "-"
    middle = seconds.high if seconds.likely is None else seconds.likely
    word, length = next((u, n) for u, n in (("h", 3600), ("min", 60), ("s", 1)) if middle >= 2 * n or n == 1)
    unit, to = translated_word("unit", word), translated_word("range", "to")
    low, high = round(seconds.low / length), math.ceil(seconds.high / length)
    if low == high:
        return f"{high} {unit}"
    if seconds.likely is None:
        return f"{low} {to} {high} {unit}"
    return f"{translated_word('range', 'about')} {max(low, round(seconds.likely / length))} {unit} ({low} {to} {high})"


def size(num_bytes: int) -> str:
    """Bytes as text: 12 B, 3.4 MB."""
    number = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


_clock = {"difference": timedelta()}
"""Difference of the server's clock from this machine's."""


def set_server_time(date: str) -> None:
    """Note the header `Date` of an answer: times of the server are compared with its own clock."""
    with suppress(ValueError):
        difference = parsedate_to_datetime(date) - datetime.now(UTC)
        _clock["difference"] = difference if abs(difference) > timedelta(minutes=1) else timedelta()


def ago(moment: datetime) -> str:
    """Time since a moment of the server's clock as text."""
    now = datetime.now(UTC) + _clock["difference"]
    return translated(f"{duration(max((now - moment).total_seconds(), 0))} ago")
