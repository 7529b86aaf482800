"""Paths of a user's files as text that can be shown and packed: each file and each folder keeps a name of its own.

A name may be bytes that are no UTF-8 (files from an older Windows), contain control characters, or a backslash, which
zips take for a separator.
"""

import os
import unicodedata
from collections.abc import Sequence
from itertools import count
from pathlib import PurePosixPath

from rvc_engine.names.code_pages import Choice, choose


def readable_paths(paths: Sequence[str]) -> tuple[list[str], Choice | None]:
    """Relative paths with "/" as text, in their order, and how names that are no UTF-8 were read.

    Names that had to be changed get a number where another file or folder has them.
    """
    prefixes = dict.fromkeys(prefix for path in paths for prefix in _prefixes(path))
    unreadable = {os.fsencode(name) for name in map(_last, prefixes) if not _is_utf8(name)}
    choice = choose(unreadable) if unreadable else None
    shown: dict[str, str] = {}
    changed: dict[str, None] = {}
    for prefix in sorted(prefixes, key=lambda each: each.count("/")):
        is_kept = _last(prefix) == _shown(_last(prefix), None) and _parent(prefix) not in changed
        if is_kept:
            shown[prefix] = prefix
        else:
            changed[prefix] = None
    taken = set(shown.values())
    for prefix in changed:
        before = shown[_parent(prefix)] + "/" if _parent(prefix) else ""
        shown[prefix] = free_path(before + _shown(_last(prefix), choice), taken)
        taken.add(shown[prefix])
    return [shown[path] for path in paths], choice


def free_path(path: str, taken: set[str]) -> str:
    """The path, with a number in its name when another has it."""
    pure = PurePosixPath(path)
    numbered = (str(pure.with_name(f"{pure.stem} ({number}){pure.suffix}")) for number in count(2))
    return path if path not in taken else next(each for each in numbered if each not in taken)


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _is_utf8(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def _shown(name: str, choice: Choice | None) -> str:
    text = name if choice is None or _is_utf8(name) else choice.decode(os.fsencode(name))
    valid = text.encode(errors="replace").decode()
    shown = "".join("?" if unicodedata.category(letter) == "Cc" else letter for letter in valid)
    return shown.replace("\\", "_").replace("/", "_")
