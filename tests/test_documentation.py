"""The documents for developers name what is there."""

import re
from pathlib import Path

import pytest

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
