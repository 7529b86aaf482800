"""Commands in messages are those of the system's shell."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rvc_engine.environment.shells import shell_words
from rvc_engine.weights.catalogue import Weights

WORDS = ["--weights", "my folder", "a(b)", "it's"]


def test_a_command_on_windows_has_double_quotes_and_backslashes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    folder = r"C:\Users\anna\weights"
    assert shell_words("--weights", folder) == rf"--weights {folder}"
    assert shell_words(r"C:\my voices\weights") == r'"C:\my voices\weights"'
    assert f"fetch hubert --weights {shell_words(str(Path(folder)))}" in Weights(Path(folder)).ways_to_get("hubert")


def test_the_words_come_through_the_shell_of_this_system_as_they_were() -> None:
    program = [sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='|')"]
    done = subprocess.run(shell_words(*program, *WORDS), shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert done.stdout.strip() == "|".join(WORDS)


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
def test_what_a_posix_shell_would_expand_is_quoted() -> None:
    assert shlex.split(shell_words("$HOME", "a;b", "x[y]")) == ["$HOME", "a;b", "x[y]"]
