"""The words of docstrings and comments: plain technical English, with a subject, and no code that hears or speaks."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rvc_engine", "server", "worker", "rvc_train", "benchmarks")
BANNED_OPENINGS = frozenset(["of", "what", "whatever", "who", "whoever", "whose", "whom", "how", "where", "those"])
"""A docstring begins with the thing or with an imperative; a clause in place of a noun has no subject in a tooltip."""
BANNED = frozenset(
    re.findall(
        r"\S+",
        """
        hear hears heard hearing tell tells told telling say says said saying speak speaks spoke spoken know knows knew
        want wants wanted wish wishes wished whoever whomever nobody nobody's somebody somebody's everybody farewell

        book books ledger ledgers journal journals shelf shelves reception receptions outlook prospect prospects
        footprint footprints appraise appraises appraised appraisal appraiser patience insist insists verdict verdicts
        keeper keepers pulse pulses refusals errand errands
        """,
    )
)
"""Personifications of code, and metaphors for which the field has a term of its own."""


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "versions" not in path.parts:  # migrations keep the words that they were made with
                yield path


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, of those below the fields of a class and below constants too."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.removeprefix("#").strip()


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; names of code between backquotes are left out."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", re.sub(r"`[^`]*`", " ", text).lower())


def faults_in(source: str) -> Iterator[str]:
    found = list(docstrings(ast.parse(source)))
    for line, text in found:
        words = words_of(text)
        if words and words[0] in BANNED_OPENINGS:
            yield f"{line}: begins with {words[0]!r}: {text[:80]!r}"
    for line, text in [*found, *comments(source)]:
        for word in sorted(BANNED.intersection(words_of(text))):
            yield f"{line}: {word!r} in {' '.join(text.split())[:100]!r}"


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_comments_are_plain_technical_english(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in modules()
        if path.is_relative_to(ROOT / package)
        for fault in faults_in(path.read_text())
    ]
    assert not found, "\n" + "\n".join(found)


def test_faults_are_found_in_docstrings_of_all_kinds_and_in_comments() -> None:
    source = '''"""Of each voice its name."""
class Lease:
    """A worker's right to a job."""

    seconds: float
    """How long it lasts."""

    def renew(self):
        """Tell the book that the worker is alive."""
        return 1  # nobody hears of it
'''
    assert [fault.partition(" in ")[0].split(": begins")[0] for fault in faults_in(source)] == [
        "1",
        "6",
        "9: 'book'",
        "9: 'tell'",
        "10: 'hears'",
        "10: 'nobody'",
    ]
    assert not list(faults_in('"""The lease of a worker, `told` apart by its number."""\n'))


if __name__ == "__main__":  # python tests/test_words.py FOLDER...: the faults of some folders or files
    import sys

    for argument in sys.argv[1:]:
        given = Path(argument)
        for each in [given] if given.is_file() else sorted(given.rglob("*.py")):
            for fault in faults_in(each.read_text()):
                print(f"{each}:{fault}")
