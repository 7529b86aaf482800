"""Words of a command as a person types them in the system's shell. No torch."""

import shlex
import subprocess
import sys


def shell_words(*words: str) -> str:
    """The words, quoted where that is necessary: in double quotes on Windows, whose shells have no single ones."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
