"""Errors that reach the entry point of a program: one sentence on what happened and what to do. No torch.

The traceback of such an error is shown with `--log-level debug`, or with RVC_TRAIN_LOG_LEVEL=debug in the environment.
"""

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rvc_engine.environment.disks import ALLOW_LONG_PATHS, LONGEST_PATH, has_long_paths
from rvc_engine.environment.files import is_in_use
from rvc_engine.translation.characters import accept_any_character
from rvc_engine.translation.programs import LEVEL_VARIABLE, echo

EXIT_BROKEN_PIPE = 141
"""As of a program that SIGPIPE ended."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""Errors of writing to a terminal that is closed."""


@contextmanager
def errors_reported(*, shows_traceback: bool = False) -> Iterator[None]:
    """Report an error that nothing has handled in one sentence on standard error, and exit with code 1.

    For the body of a program's entry point. Closed standard streams are replaced, and standard output is flushed: a
    reader that has closed its end ends the program without a message. `shows_traceback`: print the traceback of an
    unexpected error too, as for programs whose standard error is a log.
    """
    _open_closed_streams()
    accept_any_character(sys.stdout, sys.stderr)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _end_silently()
    except Exception as error:  # noqa: BLE001 - the one place where errors of every family end
        if isinstance(error, OSError) and error.errno in _GONE and error.filename is None:
            _end_silently()
        with suppress(OSError, ValueError):
            report_error(error, shows_traceback=shows_traceback)
        _exit(1)


def report_error(error: BaseException, *, shows_traceback: bool = False) -> None:
    """Print the sentence on an error, after the traceback if that was asked for: see `errors_reported`."""
    if is_debugging() or (shows_traceback and _explained(error) is None):
        traceback.print_exception(error)
    message = describe(error)
    echo(f"error: {message}", err=True)


def is_debugging() -> bool:
    """Whether the user asked for tracebacks, by the option or the variable."""
    options = " ".join(sys.argv[1:]).lower().replace("=", " ")
    return "--log-level debug" in options or os.environ.get(LEVEL_VARIABLE, "").lower() == "debug"


def describe(error: BaseException) -> str:
    """A sentence on an error of any family: what happened and what to do."""
    text = " ".join(str(error).split())
    return _explained(error) or (
        f"unexpected error ({type(error).__name__}: {text}); this is a fault of the program: report it with the "
        "traceback that --log-level debug shows"
    )


def _explained(error: BaseException) -> str | None:
    """A sentence on an error of the system or the installation; None for others."""
    if isinstance(error, OSError):
        return describe_os_error(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"a package cannot be loaded ({text}); install this program again, or the package that is named"
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written ({text}); save files as UTF-8, and set PYTHONUTF8=1 for the terminal"
    if isinstance(error, MemoryError):
        return "there is not enough memory; close other programs, or use fewer or shorter recordings"
    if isinstance(error, RuntimeError) and "home directory" in text:
        return "this user has no home folder; set HOME to a folder that can be written to"
    return None


def describe_os_error(error: OSError) -> str:
    """A sentence on an error of a file, a disk or a connection."""
    reason, name = error.strerror or str(error) or type(error).__name__, _named(error)
    if error.errno in _FULL:
        folder = _existing(Path(name)) if name else _fullest_folder()
        free = shutil.disk_usage(folder).free / 1e6
        return (
            f"the disk of {folder} is full ({free:.1f} MB free); free some space there, or use another one: TMPDIR is "
            "the folder of temporary files"
        )
    if "temporary directory" in reason and not name:
        return f"there is no folder for temporary files ({reason}); free some space there, or set TMPDIR to another one"
    return _describe_refused_path(error, name, reason) if name else reason


def _describe_refused_path(error: OSError, name: str, reason: str) -> str:
    """A sentence on an error of a path."""
    if is_in_use(error) and (os.access(name, os.W_OK) or not Path(name).exists()):
        return f"{name} is in use by another program; close what has it open, such as a player, then try again"
    if isinstance(error, PermissionError):
        return f"no permission for {name} ({reason}); check its owner and mode, or use another folder"
    length = len(name)
    if isinstance(error, FileNotFoundError) and length > LONGEST_PATH and not has_long_paths():
        return (
            f"the path {name} has {length} characters, and this Windows allows {LONGEST_PATH}; use a shorter "
            f"folder, or let an administrator allow long paths: {ALLOW_LONG_PATHS}"
        )
    if isinstance(error, FileNotFoundError):
        return f"there is no file or folder {name}; check the path"
    return f"{name}: {reason}"


def _named(error: OSError) -> str:
    """Path of the file at fault; empty when it is not known."""
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _existing(path: Path) -> Path:
    """The path's nearest folder that exists."""
    return next((folder for folder in path.absolute().parents if folder.is_dir()), Path(path.anchor or "."))


def _fullest_folder() -> Path:
    """The folder with the least free space of those that programs write to without being asked."""
    folders = [Path(os.environ.get("TMPDIR") or "/tmp"), Path.cwd(), *_home()]  # noqa: S108 - read, not written
    return min(filter(Path.is_dir, folders), key=lambda folder: shutil.disk_usage(folder).free, default=Path("/"))


def _home() -> list[Path]:
    with suppress(RuntimeError):
        return [Path.home()]
    return []


def _open_closed_streams() -> None:
    """Give the program streams that it was started without (`>&-`): a write to them would be an error."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _end_silently() -> None:
    """Exit without a further write to standard output, which Python would attempt at its end."""
    _exit(EXIT_BROKEN_PIPE)


def _exit(code: int) -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
