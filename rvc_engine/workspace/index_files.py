"""FAISS indexes read through Python's own file: on Windows, FAISS opens no path with letters beyond ASCII. No torch."""

from pathlib import Path
from typing import Any

import faiss


def read_index(path: Path) -> Any:
    """Read an index. Raises RuntimeError for a file that is none, and OSError."""
    with path.open("rb") as file:
        return faiss.read_index(faiss.PyCallbackIOReader(file.read))  # type: ignore[attr-defined]
