"""Names of voices and datasets, which are any printable text, and the file names that are made from them."""

import hashlib
import re
import unicodedata

MAX_VOICE_NAME_LENGTH = 100
MAX_DATASET_NAME_LENGTH = 200
MAX_STEM_BYTES = 180
"""File systems allow names of 255 bytes, and the names of indexes and saves have more parts around the stem."""
_LINE_BREAKS_AND_CONTROLS = frozenset(["Cc", "Cs", "Co", "Cn", "Zl", "Zp"])
_DIRECTION_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Reorder the text around them; the marks that Arabic and Hebrew texts contain do not."""
_NOT_IN_FILE_NAMES = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f]')
"""Characters that Windows cannot store in a file's name."""
_DEVICES = re.compile(r"(?P<device>CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])(?= *(?:\.|$))", re.IGNORECASE)
"""Names of devices on Windows, also with a suffix."""


def check_voice_name(name: str) -> str:
    """Return the name in NFC without white space around it; raises ValueError when it is not the name of a voice."""
    return _checked(name, MAX_VOICE_NAME_LENGTH)


def check_dataset_name(name: str) -> str:
    """Return the name in NFC without white space around it; raises ValueError when it is not the name of a dataset."""
    return _checked(name, MAX_DATASET_NAME_LENGTH)


def _checked(name: str, max_length: int) -> str:
    name = unicodedata.normalize("NFC", name).strip()
    if not _is_visible(name):
        raise ValueError("the name is empty; give one such as 'anna'")
    if len(name) > max_length:
        raise ValueError(f"the name has {len(name)} characters; choose one of at most {max_length}")
    if bad := sorted({letter for letter in name if not _is_printable(letter)}):
        raise ValueError(
            f"the name has characters that are not printable: {', '.join(map(ascii, bad))}; choose another"
        )
    return name


def _is_printable(letter: str) -> bool:
    """Whether a name may have a character; joiners and variation selectors are parts of letters and emoji."""
    return unicodedata.category(letter) not in _LINE_BREAKS_AND_CONTROLS and letter not in _DIRECTION_OVERRIDES


def _is_visible(name: str) -> bool:
    return any(unicodedata.category(letter)[0] not in "CZM" for letter in name)


def check_run_name(name: str) -> str:
    """Return the name of a voice that is also a folder's and stands in RVC's `filelist.txt`; raises ValueError."""
    name = check_voice_name(name)
    if bad := sorted(set(name) & set("/\\|")):
        raise ValueError(f"the name of a run's folder cannot have {', '.join(map(repr, bad))}; choose another")
    if name[0] in ".-" or name[-1] == ".":
        raise ValueError("the name begins with a dot or a dash, or ends with a dot; choose another")
    return name


def default_dataset_name(text: str) -> str:
    """A dataset's name from the name of a folder or file, mended and shortened where needed."""
    valid = unicodedata.normalize("NFC", text.encode(errors="replace").decode())
    name = "".join(letter if _is_printable(letter) else " " for letter in valid).strip()
    if len(name) > MAX_DATASET_NAME_LENGTH:
        name = f"{name[: MAX_DATASET_NAME_LENGTH - 1].rstrip()}…"
    return name if _is_visible(name) else "dataset"


def voice_file_stem(name: str) -> str:
    """The stem of a voice's file names: its name, changed where a file system cannot store it or RVC would hide it.

    RVC never lists an index with `trained` in its name, in any case, and both rewrite the word in the path at
    conversion, so a voice called `pretrained_x` would lose its index; its files are called `pre-train-ed_x`. Applio
    treats a file whose name starts with `G_` or `D_` as a checkpoint: the files of a voice `D_x` are called `D-x`.
    Windows stores no `< > : " / \\ | ? *`, no dot or space at the end, and no names of devices: `_` replaces them.
    """
    shown = re.sub("(train)(ed)", r"-\1-\2", name, flags=re.IGNORECASE).lstrip("-")  # a dash begins an option
    stem = storable(re.sub("^([GD])_", r"\1-", shown))
    if len(stem.encode()) <= MAX_STEM_BYTES:
        return stem
    kept = stem.encode()[: MAX_STEM_BYTES - 9].decode(errors="ignore").rstrip(". ")
    return f"{kept}~{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def storable(name: str) -> str:
    """The name of a file, or the stem of one, that every file system can store."""
    name = _NOT_IN_FILE_NAMES.sub("_", name).rstrip(". ")
    name = re.sub(r"^\.", "_", name.lstrip(" "))  # a dot hides a file
    name = _DEVICES.sub(r"\g<device>_", name, count=1) if _DEVICES.match(name) else name
    return name or "_"


def ascii_twin(name: str) -> str | None:
    """A second name in ASCII for an index: RVC on Windows opens no other. None for a name that is ASCII itself."""
    stem, dot, suffix = name.rpartition(".")
    if name.isascii():
        return None
    kept = re.sub("[^A-Za-z0-9]+", "-", stem).strip("-")[:60]
    return f"{kept or 'voice'}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}{dot}{suffix}"
