"""File permissions: only the user of the server and its workers may access their files.

Server, workers and their child processes create files under `UMASK`. At its start the server also restricts what an
earlier version left open to other users: the data folder and its direct entries, which protects everything below.
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

UMASK = 0o077
_OTHERS = 0o007
_ENTRIES = (
    *("datasets", "jobs", "cache", "uploads", "incoming", "trash", "readings", "backups", "workers"),
    *("rvc-train.db", "rvc-train.db-wal", "rvc-train.db-shm", "server.lock", "backup.json"),
    *("instance.json", "instance.json.new"),
)
"""Private entries of the data folder. Weights are not among them, because they are public."""
_WEIGHTS = "weights"


def restrict_data_folder(root: Path) -> Iterator[str]:
    """Remove other users' access to the data folder, unless it is shared on purpose; yields messages for the log.

    A group keeps its access if the folder has the set-group-ID bit or an access control list. A folder with files that
    are not the server's keeps its mode, and only the server's entries are restricted.
    """
    if os.name != "posix":  # modes mean nothing there; a folder in the user's profile is closed by its access list
        return
    mode = root.stat().st_mode
    is_shared = bool(mode & stat.S_ISGID and mode & stat.S_IRWXG) or _has_access_list(root)
    taken = _OTHERS if is_shared else UMASK
    yield from restrict_access((root / name for name in _ENTRIES), taken)
    foreign = sorted(path.name for path in root.iterdir() if _is_foreign(path.name))
    if not foreign:
        yield from restrict_access([root], taken)
    elif root.stat().st_mode & taken:
        yield (
            f"{root} stays open to other users of this machine, because it contains {foreign[0]}, which is not the "
            "server's; the server's own files in it are closed. Use a folder for the server alone"
        )
    if is_shared:
        yield (
            f"{root} is shared with a group on purpose, and stays so; but only this process's user may read new files, "
            "so run server and workers as the same user"
        )


def restrict_access(paths: Iterable[Path], taken: int = UMASK) -> Iterator[str]:
    """Remove the bits `taken` from the modes of files and folders; yields messages on changes and failures."""
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if not mode & taken:
                continue
            path.chmod(mode & ~taken)
            yield f"{path} was open to other users of this machine: its mode was {mode:o}, and is {mode & ~taken:o} now"
        except FileNotFoundError:  # deleted meanwhile
            continue
        except OSError as error:
            yield f"{path} is open to other users of this machine, and its mode cannot be changed: {error.strerror}"


def _is_foreign(name: str) -> bool:
    return name not in {*_ENTRIES, _WEIGHTS, "lost+found"} and not name.startswith(".")


def _has_access_list(folder: Path) -> bool:
    """Whether a POSIX access control list names further users or groups. Always False except on Linux."""
    if sys.platform != "linux":
        return False
    try:
        return any(name.startswith("system.posix_acl") for name in os.listxattr(folder))
    except OSError:
        return False
