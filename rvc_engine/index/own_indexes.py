"""`indexes.json`: the index files of a run's folder that this engine wrote, among those of other programs. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path

from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.checksum import sha256_of


class OwnIndexes:
    """Checksums of the index files that this engine wrote, by path relative to the run's folder."""

    def __init__(self, root: Path) -> None:
        """`root`: the run's folder."""
        self._root = root

    def add(self, source: Path, names: Sequence[Path]) -> None:
        """Record a written file under the names that it is about to get."""
        digest = sha256_of(source)
        existing = {name: value for name, value in self._read().items() if (self._root / name).exists()}
        record = existing | {self._name(path): digest for path in names}
        write_atomically(self._root / "indexes.json", json.dumps(record, indent=1, ensure_ascii=False).encode())

    def contain(self, path: Path) -> bool:
        """Whether this engine wrote the file, and it is unchanged."""
        recorded = self._read().get(self._name(path))
        return recorded is not None and recorded == sha256_of(path)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _read(self) -> dict[str, str]:
        """The record; empty when it is missing or unreadable, so that no file counts as own."""
        try:
            record = json.loads((self._root / "indexes.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}
