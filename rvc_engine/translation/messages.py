"""Translation of English messages by their templates.

Messages are made, logged, stored and sent in English; only a console translates them. `translated` finds the template
of the catalogue that the English text was made from, such as "the file {path} cannot be read", and fills in its
translation. So a message needs no mark where it is made, and a client translates those of its server too. Templates
and translations: `locales/zh/LC_MESSAGES/messages.po`, which `make catalogue` updates from the sources.
"""

import gettext
import math
import os
import re
import string
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

DOMAIN = "messages"
"""gettext's default domain, so that the texts of Click and Typer come from the same catalogue."""
LOCALES = Path(__file__).parent / "locales"
CONTEXT_END = "\x04"
"""Ends the context of a key in gettext's catalogues."""
NUMBER = r"[-+.,\dEe]+%?"
NUMBER_FORMATS = tuple("defg%")
NUMBER_NAMES = re.compile("num_.*|number|step|epoch[0-9]?|(total|completed)_epochs")
"""Places that hold a number, without a format that shows it."""
CLOSED = frozenset(["stage", "state"])
"""Places that hold nothing but a word of the catalogue's context of the same name."""
LETTERS = re.compile("[A-Za-z]")
SENTENCES = re.compile(r"(\n|; |\. Also, )")
PARTS = re.compile(r"(\n|; |: |\. Also, |\. |, )")
REMARK = re.compile(r" \([^()]+\)$")
"""End of a text that may be a message of its own, such as " (and 2 more)" after the first of several errors."""
ALTERNATIVES = re.compile("('[^']*', )*'[^']*' or '[^']*'")
"""The values that an option may have, as pydantic lists them."""
MAX_PARTS = 25
"""A text of more parts is a list of names, which is not searched for messages."""
MAX_LENGTH = 5000
"""Longest text to translate: matching takes more than linear time."""
MAX_EFFORT = 4_000_000
"""Letters that are looked at for one text, about: its author may have written one that never ends to match."""
EFFORT_OF_SEARCH = 10
"""Effort of a look at all templates, for each letter of a text."""
CHINESE_SEPARATORS = {". Also, ": "。另外，", "; ": "；", ": ": "：", ". ": "。", ", ": "，"}
ENGLISH = "en"


class Effort:
    """Effort that is left for one text. When it is used up, parts of the text stay as they are."""

    def __init__(self) -> None:
        self._left = MAX_EFFORT

    def take(self, amount: int) -> bool:
        """Whether there is so much left, which is then taken."""
        is_enough = amount <= self._left
        self._left -= amount if is_enough else 0
        return is_enough


@dataclass(frozen=True)
class Template:
    """A message with places for values: `{name}`, `{name!r}`, or `{name:.1f}` for a number."""

    message: str
    translation: str
    words: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)
    """Pattern of the words of each closed place."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The texts between the places, the longest first."""
        texts = (text for text, *_ in string.Formatter().parse(self.message))
        return tuple(sorted(texts, key=len, reverse=True))

    @cached_property
    def inner_texts(self) -> tuple[str, ...]:
        """The texts after the first place and before the last one, whose places in a message must be searched for."""
        parts = list(string.Formatter().parse(self.message))
        return tuple(text for text, name, *_ in parts[1:] if name is not None)

    @cached_property
    def neighbours(self) -> list[tuple[str, str]]:
        """Pairs of places without a text between them: a value, and a text that follows it in some cases."""
        places = [(text, name) for text, name, *_ in string.Formatter().parse(self.message) if name is not None]
        return [(first, second) for (_, first), (text, second) in pairwise(places) if not text]

    @cache  # noqa: B019 - templates live as long as the program
    def pattern(self, value: str) -> re.Pattern[str]:
        """Pattern of the messages made from the template, with a group for each place; `value`: pattern of a value."""
        parts: list[str] = []
        seen: set[str] = set()
        for text, name, form, _ in string.Formatter().parse(self.message):
            parts.append(re.escape(text))
            if name is not None:
                is_number = (form or "").endswith(NUMBER_FORMATS) or NUMBER_NAMES.fullmatch(name) is not None
                inner = NUMBER if is_number else self.words.get(name, value)
                parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{inner})")
                seen.add(name)
        return re.compile("".join(parts), re.DOTALL)

    def values(self, text: str, effort: Effort, *, is_sentence: bool) -> dict[str, str] | None:
        """Values of the places in a message; None when it was not made from this template.

        `is_sentence`: no value contains a separator of sentences.
        """
        if not all(part in text for part in self.texts):
            return None
        # Each combination of places where the inner texts stand may be tried.
        if not effort.take(len(text) * math.prod(text.count(part) for part in self.inner_texts)):
            return None
        match = self.pattern(r"(?:(?!; |\n|\. Also, ).)*?" if is_sentence else ".*?").fullmatch(text)
        return None if match is None else match.groupdict()


class Catalogue:
    """The messages of one language."""

    def __init__(self, language: str) -> None:
        """Read the compiled catalogue; without one for the language every text stays English."""
        self.texts = gettext.translation(DOMAIN, LOCALES, [language], fallback=True)
        entries: dict[object, str] = vars(self.texts).get("_catalog", {})
        keys = [key.split(CONTEXT_END) for key in entries if isinstance(key, str) and CONTEXT_END in key]
        words = {name: "|".join(re.escape(word) for context, word in keys if context == name) for name in CLOSED}
        templates = [
            Template(message, translation, words)
            for message, translation in entries.items()
            if isinstance(message, str) and re.search(r"{\w", message) and CONTEXT_END not in message
        ]
        # Of two templates that fit, the one with more text of its own is the right one.
        self.templates = sorted(templates, key=lambda template: -len("".join(template.texts)))

    def text(self, text: str, effort: Effort | None = None) -> str:
        """Translation of a message, or of several that are joined; parts without a template stay as they are."""
        effort = effort or Effort()
        whole = self.whole(text, effort, is_sentence=True) if len(text) <= MAX_LENGTH else text
        if whole is not None:
            return whole
        if (end := REMARK.search(text)) is not None and (remark := self.whole(end[0], effort)) is not None:
            return self.text(text[: end.start()], effort) + remark
        joined = [self._joined(text, separator, effort) for separator in (SENTENCES, PARTS)]
        found = [joined[0], self.whole(text, effort) or text, joined[1]]
        return min(found, key=lambda shown: len(LETTERS.findall(shown)))  # the one with the least English left

    def whole(self, text: str, effort: Effort, *, is_sentence: bool = False) -> str | None:
        """Translation of a text that is one message; None when no template fits."""
        exact = self.texts.gettext(text) if text else text
        if exact != text:
            return exact
        if not effort.take(EFFORT_OF_SEARCH * (len(text) + 100)):
            return None
        for template in self.templates:
            values = template.values(text, effort, is_sentence=is_sentence)
            if values is not None:
                for first, second in template.neighbours:
                    values |= self._divided(first, second, values[first] + values[second], effort)
                shown = {name: self.value(name, value, effort) for name, value in values.items()}
                return template.translation.format(**shown)
        return None

    def value(self, name: str, value: str, effort: Effort) -> str:
        """Translation of a value: of a word by the name of its place, of a text with spaces as a message."""
        if ALTERNATIVES.fullmatch(value):
            return value.replace("' or '", "' 或 '")
        shown = self.texts.pgettext(name, value)
        return self.text(value, effort) if shown == value and " " in value else shown

    def _divided(self, first: str, second: str, text: str, effort: Effort) -> dict[str, str]:
        """A value and the text after it, which is a message of its own, or empty."""
        for match in re.finditer(r"(?<=.)(?=[^\w.])", text):
            if self.whole(text[match.start() :], effort) is not None:
                return {first: text[: match.start()], second: text[match.start() :]}
        return {first: text, second: ""}

    def _joined(self, text: str, separator: re.Pattern[str], effort: Effort) -> str:
        """Translations of the longest sequences of parts that are one message, with the separators between them."""
        parts = separator.split(text)
        if len(parts) > 2 * MAX_PARTS:
            return text
        shown: list[str] = []
        start, is_translated = 0, [False]
        while start < len(parts):
            found, end = None, start + 1
            for end in range(len(parts), start, -2):
                found = self.whole("".join(parts[start:end]), effort, is_sentence=True)
                if found is not None:
                    break
            shown += [parts[start] if found is None else found, *parts[end : end + 1]]
            is_translated += [found is not None, False]
            start = end + 1
        for place in range(1, len(shown), 2):  # a separator beside a translated part
            if is_translated[place] or is_translated[place + 2]:
                shown[place] = CHINESE_SEPARATORS.get(shown[place], shown[place])
        return "".join(shown)


@lru_cache
def catalogue(language: str) -> Catalogue:
    """The catalogue of a language, read once."""
    return Catalogue(language)


class _Language:
    current = ENGLISH


def translated(text: str) -> str:
    """A message, or several joined ones, in the language of the program's output."""
    return text if _Language.current == ENGLISH else catalogue(_Language.current).text(text)


def translated_word(context: str, text: str) -> str:
    """A single word, such as a status, in the language of the output. `context`: its kind, such as "status"."""
    return text if _Language.current == ENGLISH else catalogue(_Language.current).texts.pgettext(context, text)


def use_language(language: str | None, environment: MutableMapping[str, str] = os.environ) -> str:
    """Set the language of the output, the given one or else that of the environment, and return it.

    Also sets it for Click and Typer, which read `LANGUAGE` when they show a text.
    """
    names = environment_languages(environment) if language is None else [language]
    _Language.current = next((found for found in map(available, names) if found is not None), ENGLISH)
    environment["LANGUAGE"] = "C" if _Language.current == ENGLISH else _Language.current
    gettext.bindtextdomain(DOMAIN, LOCALES)
    gettext.textdomain(DOMAIN)
    return _Language.current


def available(name: str) -> str | None:
    """The language of a locale's name, such as zh for zh_CN.UTF-8; None when there is no catalogue of it."""
    base = re.split("[_.@-]", name.lower())[0]
    if base in {ENGLISH, "c", "posix"}:
        return ENGLISH
    return base if base in _catalogues() else None


@cache
def _catalogues() -> frozenset[str]:
    """Languages with a catalogue. A name is only compared with them: the callers of a server choose it."""
    return frozenset(path.parents[1].name for path in LOCALES.glob(f"*/LC_MESSAGES/{DOMAIN}.mo"))


def environment_languages(environment: MutableMapping[str, str]) -> list[str]:
    """Names of the user's languages, the preferred one first, by the rules of gettext.

    The locale is LC_ALL, LC_MESSAGES or LANG; LANGUAGE precedes it unless the locale is C. Windows sets none of them.
    """
    locale = next((value for key in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(key))), "")
    if locale.partition(".")[0] in {"C", "POSIX"}:
        return [ENGLISH]
    names = [name for name in [*environment.get("LANGUAGE", "").split(":"), locale] if name]
    return names or _windows_languages()


def _windows_languages() -> list[str]:
    if sys.platform == "win32":
        import ctypes
        import locale

        return [locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "")]
    return []
