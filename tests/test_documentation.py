"""The documents for developers name what is there."""

import configparser
import plistlib
import re
from pathlib import Path

import pytest
import typer

from rvc_train.cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("rvc_engine/", "rvc_train/", "server/", "worker/", "tests/", "docs/", "benchmarks/")


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_in_a_document_exists(document: str) -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.\w+|/))`", (ROOT / document).read_text())
    paths = [path for path in named if path.startswith(PACKAGES)]
    assert len(paths) >= 3
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_room_of_the_engine_and_the_server_has_its_line() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folders = [path.parent for package in ("rvc_engine", "server") for path in (ROOT / package).glob("*/__init__.py")]
    assert not [folder.name for folder in folders if f"`{folder.name}/`" not in text]


def test_every_decision_is_listed() -> None:
    decisions = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (decisions / "index.md").read_text())
    assert listed == sorted(path.name for path in decisions.glob("[0-9]*.md"))
    numbers = [name[:4] for name in listed]
    assert len(numbers) == len(set(numbers))


def test_what_starts_the_program_at_log_on_runs_options_that_exist() -> None:
    text = (ROOT / "docs" / "home.md").read_text()
    (plist,) = re.findall(r"```xml\n(.*?)```", text, re.DOTALL)
    (unit,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    (task,) = re.findall(r'-Argument "(.*?)"', text)
    agent = plistlib.loads(plist.encode())
    section = configparser.ConfigParser(interpolation=None)
    section.read_string(unit)
    commands = [agent["ProgramArguments"][1:], section["Service"]["ExecStart"].split()[1:], task.split()]
    known = {option for each in typer.main.get_command(app).commands["up"].params for option in each.opts}  # type: ignore[attr-defined]
    for command, *options in commands:
        assert command == "up"
        assert set(options) <= known
