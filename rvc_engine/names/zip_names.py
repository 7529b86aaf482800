"""Names of the entries of a zip, as their maker wrote them: in UTF-8 where the zip has it, else in one code page.

Sources, in this order: the extra field 0x7075 of Info-ZIP (version, CRC of the stored name, UTF-8), the flag for UTF-8,
and otherwise bytes of the code page of the machine that made the zip, or UTF-8 without its flag. A backslash is a
separator only after decoding: the second byte of many Japanese and Chinese letters has the same value.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from rvc_engine.names.code_pages import AUTO, UTF8, Choice, choose, code_page

_IS_UTF8 = 0x800
_UNICODE_PATH = 0x7075


@dataclass(frozen=True)
class ZipNames:
    """The names of a zip's entries, in their order."""

    names: list[str]
    """With forward slashes; not checked for `..` and the like."""
    choice: Choice | None = None
    """Choice for the names that the zip does not have in UTF-8; None if there are none."""


def read_names(entries: Sequence[zipfile.ZipInfo], code: str = AUTO) -> ZipNames:
    """The names of entries whose zip was opened without `metadata_encoding`.

    `code`: code page of the names that are not marked as UTF-8. Raises ValueError when one is not in this code page.
    """
    names = {id(entry): _utf8_name(entry) for entry in entries}
    raw = {id(entry): entry.orig_filename.encode("cp437") for entry in entries if names[id(entry)] is None}
    choice = None
    if any(not name.isascii() for name in raw.values()):
        if code == AUTO:
            choice = choose({part for name in raw.values() for part in name.split(b"/")})
        else:
            page = code_page(code)
            choice = Choice(page.decode, page)
    for key, name in raw.items():
        try:
            names[key] = name.decode("ascii") if choice is None else choice.decode(name)
        except UnicodeDecodeError as error:
            title = choice.page.title if choice else "ASCII"
            raise ValueError(f"the name {name!r} is not {title}: give another code page with --zip-names") from error
    shown = [(names[id(entry)] or "").replace("\\", "/") for entry in entries]
    return ZipNames(shown, None if choice is None or choice.page is UTF8 else choice)


def _utf8_name(entry: zipfile.ZipInfo) -> str | None:
    """The name that the zip has in UTF-8; None if it has none."""
    is_utf8 = entry.flag_bits & _IS_UTF8
    stored = entry.orig_filename.encode("utf-8" if is_utf8 else "cp437")
    rest = entry.extra
    while len(rest) >= 4:
        kind, size = int.from_bytes(rest[:2], "little"), int.from_bytes(rest[2:4], "little")
        data, rest = rest[4 : 4 + size], rest[4 + size :]
        is_of_name = kind == _UNICODE_PATH and data[:1] == b"\x01" and len(data) > 5
        if is_of_name and int.from_bytes(data[1:5], "little") == zlib.crc32(stored):
            try:
                return data[5:].decode()
            except UnicodeDecodeError:
                break
    return entry.orig_filename if is_utf8 else None


def note_of(choice: Choice, zip_name: str = "") -> str:
    """A sentence on how the names were read; `zip_name`: of a zip inside the upload."""
    title = choice.page.title
    note = f"names in {zip_name!r} were read as {title}" if zip_name else f"names in the zip were read as {title}"
    if not choice.is_guess:
        return note
    if choice.rival is None:
        return f"{note}; this is a guess, so if names are wrong, upload it again with --zip-names CODE"
    return (
        f"{note}; this is a guess, so if names are wrong, upload it again with --zip-names {choice.rival.code}, which "
        "is possible too"
    )
