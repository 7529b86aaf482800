"""Files and folders that survive a power cut: temporary name, fsync, rename, fsync of the folder."""

import os
import shutil
from itertools import count
from pathlib import Path

from rvc_engine.environment.files import is_first_copy, rename, replace, sync_file, sync_folder
from rvc_engine.names.voices import ascii_twin
from rvc_engine.translation.programs import echo

_needs_ascii = os.name == "nt"
"""Whether FAISS opens no paths with other letters."""


def write_atomically(path: Path, data: bytes, *, make_folder: bool = True) -> None:
    """Write a whole file so that after a crash the old or the new contents are there, never a part.

    `make_folder`: create the folder if it is missing; if False, that raises FileNotFoundError.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:  # another file system, or one without hard links
        if not isinstance(error, FileNotFoundError | FileExistsError) and is_first_copy(target.parent):
            echo(
                f"note: files are copied to {target.parent}, not linked, and take more space: its disk allows no links",
                err=True,
            )
        shutil.copyfile(source, target)
        sync_file(target)


def link_ascii_twin(index: Path) -> Path | None:
    """On Windows, link an index to a name that RVC there can open; returns the link, None where none is needed."""
    twin = ascii_twin(index.name) if _needs_ascii else None
    if twin is None:
        return None
    temporary = index.with_name(f".{twin}.{os.getpid()}.tmp")
    link_or_copy(index, temporary)
    replace(temporary, index.with_name(twin))
    return index.with_name(twin)


def keep_aside(path: Path) -> Path:
    """Rename a file that is to be replaced to `<name>.bak`, or `<name>.bak2` and so on; return its new path."""
    numbered = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))
    kept = next(each for each in numbered if not each.exists())
    rename(path, kept)
    return kept
