"""Commands in the documentation exist, with their options."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from rvc_engine.cli.main import app as engine_app
from rvc_engine.cli.pipeline_script import app as pipeline_app
from rvc_train.cli.main import app as client_app
from server.admin.cli import app as admin_app

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "README.zh-CN.md", "docs/training.md", "docs/training.zh-CN.md", "docs/operations.md")
PROGRAMS = {
    "rvc-train": client_app,
    "rvc-train admin": admin_app,
    "rvc-engine": engine_app,
    "python rvc_training_pipeline.py": pipeline_app,
}
LINE = re.compile(rf"(?:^\$ .*?|`)({'|'.join(sorted(PROGRAMS, key=len, reverse=True))}) ([^`\n]*)", re.MULTILINE)


def command_of(program: str, words: list[str]) -> Any:
    """Remove the words that name a command, and return it. AssertionError when there is none."""
    command: Any = typer.main.get_command(PROGRAMS[program])
    while words and re.match("[a-z]", words[0]) and hasattr(command, "commands"):
        first, *others = words.pop(0).split("|")  # a page may name several at once
        for word in (first, *others):
            assert word in command.commands, f"{program} {word}"
        command = command.commands[first]
    return command


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_is_there_with_its_options(page: str) -> None:
    found = LINE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(found) > 10
    for program, rest in found:
        words = shlex.split(re.split(r" #|\)\"$", rest)[0].replace("'", ""))
        command = command_of(program, words)
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        options |= {option for parameter in command.params for option in parameter.secondary_opts}
        for word in words:
            if re.match("--?[a-z]", word):
                assert word.partition("=")[0] in options, f"{program} {rest}: no option {word}"
