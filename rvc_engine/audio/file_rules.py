"""The one rule of which files are recordings by their names, for engine, server, client and page. No torch.

Whatever the decoder may open is taken, since a name does not show a file's content: any suffix, or none. Left out is
only what is clearly something else, and companion files of operating systems; each with a reason, to be shown.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from rvc_engine.listing import shorten

ZIP = "zip"
"""Code of the rule for zips, for programs that unpack them."""
LINK_IN_ZIP = "a link; pack what it leads to"
"""Reason for links in a zip, which are not followed."""
MAX_SHOWN = 5
"""Files that are left out named in one message."""


@dataclass(frozen=True)
class FileRule:
    """A kind of files that are left out."""

    code: str
    """Stable, for programs and translations."""
    reason: str
    """The kind, as a clause for messages."""
    pattern: str
    """Regular expression that is searched for, ignoring case, in a file's path within the dataset with "/" between its
    parts. Valid in Python and in JavaScript."""


@dataclass(frozen=True)
class LeftOut:
    """A file or a folder (its name ends with "/") of a dataset that is left out."""

    name: str
    reason: str
    code: str = ""
    """Code of the rule; empty where the reason is not its name, such as a link to nothing."""


def _suffixes(suffixes: str) -> str:
    return rf"\.({'|'.join(suffixes.split())})$"


FILE_RULES: tuple[FileRule, ...] = (
    FileRule("macos", "a companion file of macOS", r"(^|/)__MACOSX/|(^|/)(\._[^/]*|\.DS_Store)$"),
    FileRule("windows", "a companion file of Windows", r"(^|/)(Thumbs\.db|ehthumbs\.db|desktop\.ini)$"),
    # A folder .git, a file .nomedia; but not "...and then.flac" and .take.wav.
    FileRule("hidden", "a hidden folder, or a hidden file without a suffix", r"(^|/)\.[^./][^/]*/|(^|/)\.[^./]+$"),
    FileRule(
        "text",
        "a text, a document or subtitles",
        _suffixes(
            "md rst txt rtf doc docx odt odp pages pdf html htm epub mobi url webloc lnk nfo lab textgrid eaf srt "
            "vtt lrc ass ssa sub sbv"
        ),
    ),
    FileRule(
        "data",
        "a table, settings or data",
        _suffixes(
            "json jsonl yaml yml toml xml csv tsv xls xlsx ods ppt pptx parquet pkl db sqlite ini cfg conf log "
            "md5 sha1 sha256 sha512 sfv par2 asc sig torrent"
        ),
    ),
    FileRule(
        "image",
        "an image",
        _suffixes("png apng jpg jpeg jfif gif webp svg eps bmp tif tiff heic heif avif ico psd xcf cr2 nef arw dng"),
    ),
    FileRule(
        "program",
        "program code",
        _suffixes("py pyc ipynb js css c cpp h java class rb php lua sh bat cmd ps1 exe dll so msi apk"),
    ),
    FileRule("model", "weights or features of a voice", _suffixes("npy npz pth pt onnx safetensors ckpt index")),
    FileRule("playlist", "a playlist file", _suffixes("m3u m3u8 pls cue xspf wpl")),
    FileRule("score", "a score without sound", _suffixes("mid midi kar musicxml mscz ust ustx vsqx svp")),
    FileRule(
        "project",
        "a project or a waveform picture of an audio editor",
        _suffixes("aup aup3 als alp flp rpp cpr sesx ptx logicx band asd pkf pek peak reapeaks sfk"),
    ),
    FileRule(ZIP, "a zip among other files; unpack it first", _suffixes("zip")),
    FileRule(
        "archive",
        "an archive; unpack it first",
        _suffixes("zipx 7z rar tar gz tgz bz2 tbz2 xz txz zst br lz4 lzma lzh lha arj ace iso img jar cab dmg deb rpm"),
    ),
)
"""All rules; the first that matches holds."""


@cache
def _compiled() -> tuple[tuple[FileRule, re.Pattern[str]], ...]:
    return tuple((rule, re.compile(rule.pattern, re.IGNORECASE)) for rule in FILE_RULES)


def left_out(name: str) -> LeftOut | None:
    """A file that is left out by its path within the dataset (parts between "/"); None where its content decides.

    A folder's path ends with "/". A file in a folder that is left out gives that folder.
    """
    for rule, pattern in _compiled():
        if match := pattern.search(name):
            return LeftOut(name[: match.end()], rule.reason, rule.code)
    return None


def left_out_text(files: Iterable[LeftOut], limit: int | None = MAX_SHOWN) -> str:
    """Names and reasons for a message; of more than `limit` (None: no limit) the number."""
    shown = [f"{file.name!r} ({file.reason})" for file in dict.fromkeys(files)]
    return shorten(shown, len(shown) if limit is None else limit)
