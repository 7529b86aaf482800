"""The catalogue of translations: every message has one, with the same places, and the compiled form is up to date."""

import ast
import string

import pytest
from babel.messages.catalog import Catalog

from tests.messages import CATALOGUE, Message, compiled, documentation, messages, read_catalogue, texts_in


@pytest.fixture(scope="module")
def catalogue() -> Catalog:
    return read_catalogue()


def places(text: str) -> set[str]:
    return {name for _, name, *_ in string.Formatter().parse(text) if name is not None}


def test_every_message_has_a_translation(catalogue: Catalog) -> None:
    entries = [(message, catalogue.get(message.text, message.context)) for message in messages().values()]
    missing = [f"{message.place}: {message.text}" for message, entry in entries if entry is None or not entry.string]
    assert not missing, "run `make catalogue` and translate these:\n" + "\n".join(missing)


def test_the_catalogue_has_no_message_that_is_gone(catalogue: Catalog) -> None:
    wanted = messages().keys()
    assert not [entry.id for entry in catalogue if entry.id and (entry.id, entry.context) not in wanted]


def test_a_translation_has_the_places_of_its_message(catalogue: Catalog) -> None:
    entries = [entry for entry in catalogue if entry.id and "{" in entry.id]
    assert len(entries) > 500
    assert not [entry.id for entry in entries if places(entry.id) != places(entry.string)]


def test_a_place_of_a_translation_has_no_format_since_its_value_is_text(catalogue: Catalog) -> None:
    parsed = [(entry.id, string.Formatter().parse(entry.string)) for entry in catalogue if entry.id]
    assert not [text for text, parts in parsed if any(form or conversion for _, _, form, conversion in parts)]


def test_the_compiled_catalogue_is_that_of_the_texts(catalogue: Catalog) -> None:
    assert CATALOGUE.with_suffix(".mo").read_bytes() == compiled(catalogue), "run `make catalogue`"


def found_in(source: str) -> list[Message]:
    tree = ast.parse(source)
    return list(texts_in(tree, documentation(tree)))


def test_an_f_string_becomes_a_template_with_a_name_for_each_value() -> None:
    source = "raise E(f'{self.path} has {len(rows)} rows of {size:.1f} MB in {folder.path!r}; {_shown(names)} is bad')"
    assert found_in(source) == [
        Message("{path} has {rows:d} rows of {size:.1f} MB in {path2!r}; {shown} is bad"),
    ]


def test_docstrings_log_lines_and_names_are_no_messages() -> None:
    source = 'def f():\n    """Two words."""\n    log.info("two words")\n    return "one-word", key == "two words"'
    assert found_in(source) == []


def test_words_that_a_message_chooses_from_are_found_by_their_place() -> None:
    assert found_in("g(f\"these are {n} {'new' if is_new else 'old'} files\")")[1:] == [
        Message("new", "is_new"),
        Message("old", "is_new"),
    ]
