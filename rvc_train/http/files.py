"""Files that are sent and received: what is offered for download, progress, checksums."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Offered(Protocol):
    """A file that the server offers: an artifact, or one of a preview."""

    name: str
    url: str
    size: int
    sha256: str


Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
