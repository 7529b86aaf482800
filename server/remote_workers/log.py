"""Lines of a job's log that a worker sends, each appended once.

Before they are appended, their offset is noted in the attempt's folder with the place in the log, so that a repeated
request finds out whether they are there already, also after the server was killed between the two.
"""

import json
import os
import threading
from pathlib import Path

from rvc_engine.workspace.atomic_files import write_atomically
from server.errors import LeaseLost

_NOTE = "log.json"


class LogAppender:
    """Appends to the logs of jobs, one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def append(self, log: Path, attempt_folder: Path, offset: int, text: str) -> None:
        """Append lines that begin at an offset of what the attempt has sent. LeaseLost for a job that was deleted."""
        data, note_file = text.encode(errors="replace"), attempt_folder / _NOTE
        with self._lock:
            if not attempt_folder.is_dir():
                raise LeaseLost("the job was deleted, and its log with it")
            note = _read(note_file)
            if offset < note["offset"] or (offset == note["offset"] and _has(log, note["place"], data)):
                return
            place = log.stat().st_size if log.exists() else 0
            write_atomically(note_file, json.dumps({"offset": offset, "place": place}).encode(), make_folder=False)
            with log.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def _read(note_file: Path) -> dict[str, int]:
    try:
        note: dict[str, int] = json.loads(note_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {"offset": -1, "place": 0}
    return note


def _has(log: Path, place: int, data: bytes) -> bool:
    """Whether the log has these bytes from a place on."""
    try:
        with log.open("rb") as file:
            file.seek(place)
            return file.read(len(data)) == data
    except FileNotFoundError:
        return False
