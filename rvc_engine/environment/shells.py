"""Words of a command as a person types them in the system's shell. No torch."""

import shlex
import subprocess
import sys


def shell_words(*words: str) -> str:
    """The words, quoted where that is necessary: the shells of Windows do not know single quotes."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
