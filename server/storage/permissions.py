"""Access to files of the server and its workers: their own user's alone.

Server, workers and all that they start make files under `UMASK`. What an earlier version left open to other users is
closed when the server starts: the data folder and what lies directly in it, for nobody reaches a file through a closed
folder.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

UMASK = 0o077
_OTHERS = 0o007
_ENTRIES = (
    *("datasets", "jobs", "cache", "uploads", "incoming", "trash", "readings"),
    *("rvc-train.db", "rvc-train.db-wal", "rvc-train.db-shm", "server.lock", "backup.json"),
    *("instance.json", "instance.json.new"),
)
"""What the server and workers make in the data folder and nobody else needs to read. Weights are published anyway."""
_WEIGHTS = "weights"


def restrict_data_folder(root: Path) -> Iterator[str]:
    """Take from other users what access they have, but for what somebody shared on purpose; sentences for the log.

    A group keeps its access where the folder has the set-group-ID bit or an access control list. A folder that holds
    things of others is left as it is, and only what is ours in it is closed.
    """
    mode = root.stat().st_mode
    is_shared = bool(mode & stat.S_ISGID and mode & stat.S_IRWXG) or _has_access_list(root)
    taken = _OTHERS if is_shared else UMASK
    yield from restrict_access((root / name for name in _ENTRIES), taken)
    foreign = sorted(path.name for path in root.iterdir() if _is_foreign(path.name))
    if not foreign:
        yield from restrict_access([root], taken)
    elif root.stat().st_mode & taken:
        yield (
            f"{root} stays open to other users of this machine, because it holds {foreign[0]}, which is not the "
            "server's; what is the server's in it is closed. Better give the server a folder of its own"
        )
    if is_shared:
        yield (
            f"{root} is shared with a group on purpose, and stays so; but new files are for the user of this process "
            "alone, so run server and workers as one user"
        )


def restrict_access(paths: Iterable[Path], taken: int = UMASK) -> Iterator[str]:
    """Take the bits `taken` from the modes of files and folders; what was done, or could not be, in sentences."""
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
            yield f"{path} is open to other users of this machine, and cannot be closed: {error.strerror}"


def _is_foreign(name: str) -> bool:
    return name not in {*_ENTRIES, _WEIGHTS, "lost+found"} and not name.startswith(".")


def _has_access_list(folder: Path) -> bool:
    """Whether POSIX access control lists name further users or groups. Always False beyond Linux."""
    try:
        return any(name.startswith("system.posix_acl") for name in os.listxattr(folder))
    except (AttributeError, OSError):
        return False
