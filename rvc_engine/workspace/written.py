"""Records of what this engine wrote into files that users edit (`filelist.txt`, `config.json`), and copies of theirs.

`stages/<file name>.json` beside the file holds hashes of the last contents and details; a file whose content is not
among them is the user's, or another program's. No torch.
"""

import hashlib
import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from rvc_engine.workspace.atomic_files import write_atomically


def record_of(path: Path) -> dict[str, Any]:
    """The record of a file; empty where this engine has not written it."""
    try:
        record = json.loads(_record_path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_own(path: Path) -> bool:
    """Whether the file has the content that this engine wrote. Raises OSError when it cannot be read."""
    return path.is_file() and _digest(path.read_bytes()) in record_of(path).get("sha256", [])


def write_own(path: Path, content: bytes, **details: object) -> None:
    """Write a whole file and its record, with JSON-like details. The record comes first, a crash may fall between."""
    digests = [*record_of(path).get("sha256", [])[-1:], _digest(content)]
    write_atomically(_record_path(path), json.dumps({"sha256": digests, **details}, sort_keys=True).encode())
    write_atomically(path, content)


def note_kept(path: Path, **details: object) -> None:
    """Record, once, that the file is not this engine's: without a record it may be of a version that kept none."""
    if not record_of(path):
        write_atomically(_record_path(path), json.dumps({"sha256": [], **details}, sort_keys=True).encode())


def keep_copy(path: Path) -> Path:
    """Copy a file to `<name>.bak`, or to `.bak2` and so on where another content has that name; returns the copy."""
    for number in count(1):
        copy = path.with_name(f"{path.name}.bak{number if number > 1 else ''}")
        if not copy.exists():
            shutil.copy2(path, copy)
            return copy
        if copy.read_bytes() == path.read_bytes():
            return copy
    raise AssertionError


def _record_path(path: Path) -> Path:
    return path.parent / "stages" / f"{path.name}.json"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
