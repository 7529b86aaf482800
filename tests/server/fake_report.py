"""Stand-in for `python -m rvc_engine report FOLDER --output FILE`: the report depends on the recordings' bytes."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

folder, output = Path(sys.argv[1]), Path(sys.argv[3])
rows = json.loads((folder / "recordings.json").read_text())["files"]
content = b"".join((folder / row["path"]).read_bytes() for row in rows)
if b"CRASH" in content:
    os.abort()
if b"SLOW" in content:
    time.sleep(60)
if b"GREEDY" in content:
    bytearray(10**10)
if b"ENVIRONMENT" in content:
    needed = {"PATH", "LANG", "LANGUAGE", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH"}
    needed |= {"MALLOC_ARENA_MAX", "PYTHONUTF8"}
    others = {key for key in os.environ if not key.startswith("LC_") and not key.endswith("_NUM_THREADS")} - needed
    assert not others, f"the child must not see {others}"
is_usable = b"BAD" not in content


def file_report(row: dict[str, Any]) -> dict[str, Any]:
    """A recording of a minute, without the parts that are left out; unreadable if its bytes say so."""
    if b"UNREADABLE" in (folder / row["path"]).read_bytes():
        return {"name": row["name"], "error": "damaged"}
    parts = row.get("without", [])
    left_out = [{"from_seconds": start, "to_seconds": end} for start, end in parts]
    seconds = 60.0 - sum(end - start for start, end in parts)
    return {"name": row["name"], "seconds": seconds, "without_parts": left_out, "later_field": 1}


files = [file_report(row) for row in rows]
report = {
    "usable": is_usable,
    "reason": None if is_usable else "no sound in any file",
    "seconds": 60.0 - sum(60.0 - file.get("seconds", 60.0) for file in files),
    "num_files": len(files),
    "num_usable": len(files) if is_usable else 0,
    "files": files,
    "warnings": [],
}
output.write_text(json.dumps(report))
