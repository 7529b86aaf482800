"""Names of downloaded files, and media types that are no recordings."""

from collections.abc import Collection, Mapping
from email.message import Message
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from rvc_engine.names.voices import storable
from server.errors import Refused
from server.fetching.download import host_of

MAX_LENGTH = 100
MAX_PATH_LENGTH = 250
MAX_DISPOSITION = 2000
"""Length of a `Content-Disposition` that is read: Python takes more than a minute for one of 95 kB."""
_OTHER_TYPES: tuple[str, ...] = (
    "text/",
    "image/",
    "font/",
    "message/",
    "application/json",
    "application/pdf",
    "application/xml",
)
_OTHER_TYPES += ("application/xhtml", "application/javascript", "application/vnd.openxmlformats", "multipart/")


def check_type(url: str, headers: Mapping[str, str]) -> None:
    """Raise Refused for an answer that is a web page, a picture or something else without sound."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type.startswith(_OTHER_TYPES):
        raise Refused(
            f"{host_of(url)} answers with {media_type}, not with a recording or a zip; give the address of the file "
            "itself, as its download link has it, not that of a page that shows it"
        )


def file_name(url: str, final_url: str, headers: Mapping[str, str]) -> str:
    """The name of a download: as its server gives it, or the end of its address, before or after redirects."""
    ends = [unquote(urlsplit(each).path.rpartition("/")[2]) for each in (url, final_url)]
    named = [name for name in [_name_in(headers.get("Content-Disposition", "")), *ends] if PurePosixPath(name).suffix]
    return _cleaned((named or [end for end in ends if end] or ["recording"])[0].replace("\\", "/").rpartition("/")[2])


def _name_in(disposition: str) -> str:
    """The file name in a `Content-Disposition`; empty without one that can be read."""
    if len(disposition) > MAX_DISPOSITION:
        return ""
    message = Message()
    message["Content-Disposition"] = disposition
    try:
        return message.get_filename() or ""
    except ValueError:  # of some character sets that can be named, such as `undefined`
        return ""


def clean_path(path: str) -> str:
    """A path of a hub as the name of a recording: folders and a file that every file system can store."""
    parts = [_cleaned(part) for part in path.split("/") if part not in {"", ".", ".."}]
    return name if len(name := "/".join(parts)) <= MAX_PATH_LENGTH else parts[-1]


def _cleaned(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "_" for letter in storable(name))
    suffix = PurePosixPath(name).suffix[:20]
    return name if len(name) <= MAX_LENGTH else name[: MAX_LENGTH - len(suffix)] + suffix


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number where another file has it."""
    path, number = PurePosixPath(name), 2
    while name in taken:
        name, number = str(path.with_name(f"{path.stem} ({number}){path.suffix}")), number + 1
    return name
