"""The layout of the packages: rooms of a size that can be overlooked, and names that the field uses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rvc_engine", "server", "worker", "rvc_train")
MOST_FILES = 12
MOST_LINES = 450
MOST_LINES_OF_A_FUNCTION = 50
TEXT_MODES = frozenset({"r", "w", "a", "x", "r+", "w+", "a+"})
METAPHORS = frozenset(
    [
        "book",
        "ledger",
        "journal",
        "shelf",
        "roll",
        "reception",
        "receptions",
        "outlook",
        "prospect",
        "footprint",
        "footprints",
        "appraise",
        "appraisal",
        "appraiser",
        "readings",
        "patience",
        "insist",
        "verdict",
        "judge",
        "judgement",
        "keeper",
        "keepers",
        "keeping",
        "wish",
        "wishes",
        "tell",
        "tells",
        "told",
        "say",
        "says",
        "said",
        "hear",
        "heard",
        "hears",
        "speak",
        "speaks",
        "pulse",
        "mouth",
        "ear",
        "whose",
        "nobody",
        "nobodys",
        "handover",
        "refusal",
        "refusals",
        "outward",
        "forecaster",
        "measures",
        "feeds",
        "paces",
        "bring",
        "brings",
        "brought",
    ]
)
"""Words for which the field has a term of its own; docs/decisions/0021 lists both."""


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "versions" not in path.parts:  # migrations keep the names that they were made with
                yield path


def rooms() -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for path in modules():
        found.setdefault(path.parent, []).append(path)
    return found


@pytest.mark.parametrize("room", sorted(rooms()), ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_has_two_to_twelve_files_and_says_what_it_is_for(room):
    files = rooms()[room]
    assert 2 <= len(files) <= MOST_FILES, [path.name for path in files]
    assert (room / "__init__.py").is_file()
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), f"{room} does not say what it is for"


def words_of(name: str) -> set[str]:
    """`JobBook`, `job_book` and `JOB_BOOK` are made of the same words."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names_in(path: Path) -> Iterator[str]:
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_modules_classes_and_functions_have_the_names_of_the_field():
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        for name in names_in(path)
        if words_of(name) & METAPHORS
    }
    assert not found, sorted(found)


def test_words_are_found_in_every_way_of_writing_a_name():
    assert words_of("JobBook") == words_of("job_book") == words_of("JOB_BOOK") == {"job", "book"}
    assert words_of("_HTTPBook") == {"http", "book"}


def test_no_module_is_too_long():
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules()}
    assert not {str(path): length for path, length in lengths.items() if length > MOST_LINES}


def test_a_long_function_has_its_reason_above_it():
    found = []
    for path in modules():
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                is_long = node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION
                if is_long and not lines[first - 2].strip().startswith("# Long because"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not found


@pytest.mark.parametrize("package", PACKAGES)
def test_text_files_are_read_and_written_in_a_named_encoding(package: str) -> None:
    """Python's default is not UTF-8 on Windows: what one program writes, another one could not read."""
    unnamed = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and is_of_default_encoding(node):
                unnamed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unnamed == []


def is_of_default_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes a file's text, or that of a child's pipes, without an encoding."""
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Attribute(attr="open"):
            return is_text_mode(call.args[:1])
        case ast.Name(id="open"):
            return is_text_mode(call.args[1:2])
        case _:
            return "text" in keywords and isinstance(call.func, ast.Attribute) and call.func.attr in {"run", "Popen"}


def is_text_mode(mode: list[ast.expr]) -> bool:
    return any(isinstance(each, ast.Constant) and each.value in TEXT_MODES for each in mode)
