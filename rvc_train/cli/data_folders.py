"""The data folder of servers on this machine: the one to use where none is given, and the one used last."""

from contextlib import suppress
from pathlib import Path

import platformdirs

from rvc_train.local_servers import config_folder

VARIABLE = "RVC_TRAIN_DATA_FOLDER"
_MARKS = ("instance.json", "rvc-train.db")
"""Files by which a data folder is recognized."""


def is_data_folder(folder: Path) -> bool:
    """Whether a server has used the folder."""
    return any((folder / name).is_file() for name in _MARKS)


def default_data_folder() -> Path:
    """`data` in the current folder where a server has used it, else `data` in the user's data folder of this program.

    `data` in the current folder too for a user without a home folder.
    """
    here = Path("data")
    if is_data_folder(here):
        return here
    try:
        users = Path(platformdirs.user_data_dir("rvc-train"))
    except RuntimeError:
        return here
    return users / "data" if users.is_absolute() else here  # older versions of platformdirs leave the `~` in place


def last_data_folder() -> Path | None:
    """The data folder that `rvc-train up` used last, as far as it is still one."""
    with suppress(OSError, UnicodeError):
        if (record := _record()) is not None:
            folder = Path(record.read_text(encoding="utf-8").strip())
            return folder if is_data_folder(folder) else None
    return None


def remember_data_folder(folder: Path) -> None:
    """Record the data folder in use, where the user has a config folder that can be written."""
    with suppress(OSError, UnicodeError):
        if (record := _record()) is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(f"{folder}\n", encoding="utf-8")


def _record() -> Path | None:
    folder = config_folder()
    return None if folder is None else folder / "last-data-folder"
