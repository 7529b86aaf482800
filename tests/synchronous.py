"""Generate `rvc_train.synchronous` from `rvc_train.asynchronous`: `make synchronous`.

The source is the asynchronous client; each of its modules becomes one without `async` and `await`, in which the
asynchronous names of the libraries are replaced by their synchronous ones.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rvc_train"
SOURCES = sorted(path for path in (PACKAGE / "asynchronous").glob("*.py") if path.name != "__init__.py")

NOTICE = "# Generated from rvc_train/asynchronous/{name} by `make synchronous`: edit that file.\n"
REPLACEMENTS = (
    (r"await in_thread\(([\w.]+)(?:, )?", r"\1("),
    (r"async with entered_in_thread\((.*)\) as", r"with \1 as"),
    (r"\b(?:async|await) ", ""),
    (r"\bAsync(?=(?:Client|Generator|Iterator)\b)", ""),
    (r"\b(?:a|__a)(?=(?:closing|iter_\w+|read|connect_sse)\b)", ""),
    (r"\baclose\b", "close"),
    (r"\banext\b", "next"),
    (r"\b__a(?=enter__|exit__)", "__"),
    (r"\b(retrying|connect)_async\b", r"\1"),
    (r"\basynchronous\b", "synchronous"),
    (r"\bGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
)
"""Regular expressions and what stands for them in the synchronous client, in this order."""


def synchronous(source: Path) -> str:
    """Text of the synchronous module that belongs to an asynchronous one."""
    text = source.read_text()
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    text = NOTICE.format(name=source.name) + text
    for command in (["check", "--quiet", "--fix", "--select=F401,I"], ["format"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(target(source)), "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True).stdout
    return text


def target(source: Path) -> Path:
    """File of the synchronous module."""
    return PACKAGE / "synchronous" / source.name


if __name__ == "__main__":
    for each in SOURCES:
        target(each).write_text(synchronous(each))
