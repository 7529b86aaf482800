"""Kinds of disks and folders that are unfit for a database or a run: network drives, synchronised folders. No torch."""

import os
import re
import sys
from pathlib import Path, PurePath, PureWindowsPath

_NETWORK_TYPES = frozenset(
    {"nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs", "sshfs", "drvfs"}
    | {f"fuse.{name}" for name in ("sshfs", "davfs2", "rclone", "s3fs", "gvfsd-fuse")}
)
"""File systems on which SQLite's locks and shared memory do not work between processes or machines."""
_REMOTE_DRIVE = 4
"""Value of GetDriveTypeW for a network drive with a letter."""
_SYNCHRONISED = {
    "OneDrive": "onedrive",
    "Dropbox": "dropbox",
    "Google Drive": "google.?drive",
    "iCloud Drive": "icloud.?drive|mobile.documents",
    "Nextcloud": "nextcloud",
    "Box": "box.sync",
    "Baidu": "百度网盘同步空间|baidusyncdisk",
    "a cloud service": "cloudstorage",  # ~/Library/CloudStorage/<service>-<account> on macOS
}
"""Programs that keep folders in step with a cloud, with the beginnings of the names of their folders."""
LONGEST_PATH = 259
"""Characters of a path on Windows without support of long paths."""
ALLOW_LONG_PATHS = (
    "reg add HKLM\\SYSTEM\\CurrentControlSet\\Control\\FileSystem /v LongPathsEnabled /t REG_DWORD /d 1 /f"
)
INNER_PATH_LENGTH = 130
"""Characters of the longest usual path below a data folder."""


def network_disk(path: Path) -> str | None:
    """Kind of the network disk of a path that may not exist yet, such as `nfs4`; None for a disk of this machine."""
    if os.name == "nt":
        return _network_drive(path.absolute())
    import psutil  # not in the client's base installation

    place = path.resolve()
    mounts = [(Path(each.mountpoint), each.fstype, each.opts) for each in psutil.disk_partitions(all=True)]
    around = [each for each in mounts if each[0] == place or each[0] in place.parents]
    _, kind, options = max(around, key=lambda each: len(each[0].parts), default=(Path("/"), "", ""))
    if kind == "9p" and "drvfs" in options:
        kind = "drvfs"  # a drive of Windows in WSL 2
    return kind if kind in _NETWORK_TYPES else None


def _network_drive(path: PurePath) -> str | None:
    """`share` for a path such as `\\\\server\\share`, `drive` for a letter of one; None for a disk of this machine."""
    drive = PureWindowsPath(path).drive
    if drive.startswith("\\\\"):
        return None if drive.startswith(("\\\\?\\", "\\\\.\\")) and "\\UNC\\" not in drive.upper() else "share"
    return "drive" if drive and _drive_type(drive + "\\") == _REMOTE_DRIVE else None


def _drive_type(root: str) -> int:
    if sys.platform == "win32":
        import ctypes

        return int(ctypes.windll.kernel32.GetDriveTypeW(root))
    else:  # noqa: RET505 - a branch of its own, or mypy takes it for unreachable
        return 0


def synchronising_program(folder: Path) -> str | None:
    """Name of the program that keeps a folder in step with a cloud, as far as the folder's path shows it."""
    roots = {value for name, value in os.environ.items() if name.upper().startswith("ONEDRIVE") and value}
    if any(Path(root) == folder or Path(root) in folder.parents for root in roots):
        return "OneDrive"
    found = (
        name
        for name, beginning in _SYNCHRONISED.items()
        if any(re.match(beginning, part, re.IGNORECASE) for part in folder.parts)
    )
    return next(found, None)


def synchronised_text(folder: Path, program: str) -> str:
    """Warning about a data folder that a program keeps in step with a cloud."""
    return (
        f"{folder} is synchronised by {program}, which locks files while they are in use, may damage the database, and "
        "uploads every recording and checkpoint; use a folder outside of it"
    )


def has_long_paths() -> bool:
    """Whether programs may use paths of more than 259 characters: on Windows only where it is switched on."""
    if sys.platform == "win32":
        import ctypes

        try:
            return bool(ctypes.windll.ntdll.RtlAreLongPathsEnabled())
        except AttributeError:  # before Windows 10
            return False
    else:
        return True
