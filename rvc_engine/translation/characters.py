"""Characters that the encoding of a console or a pipe lacks: written as similar ones of ASCII, or as escapes. No torch.

A pipe on Windows has the code page of the system, such as cp1252 or cp936, and names of voices are any text.
"""

import codecs
import io
from typing import TextIO

_HANDLER = "rvc-train.similar"
_SIMILAR = {
    **dict.fromkeys("─━╌╍┄┅╴╶╸╺–—−", "-"),
    **dict.fromkeys("│┃╎╏┆┇║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛╞╡╪╤╧═╔╗╚╝", "+"),
    **dict.fromkeys("█▀▄▌▐■", "#"),
    **dict.fromkeys("·•●○", "*"),
    **dict.fromkeys("‘’‚", "'"),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}", " "),
    **{"…": "...", "×": "x", "±": "+/-", "→": "->", "←": "<-", "►": ">", "◄": "<", "✓": "ok"},
}


def accept_any_character(*streams: TextIO | None) -> None:
    """Let streams take characters that their encodings lack; no name then ends a program."""
    codecs.register_error(_HANDLER, _similar)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def has_every_character(encoding: str | None) -> bool:
    """Whether an encoding has all characters: those of bars and frames too."""
    return (encoding or "").lower().startswith("utf")


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Replacement for the characters at fault, as `codecs.register_error` asks for."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = (_SIMILAR.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return "".join(shown), error.end
