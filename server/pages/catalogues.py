"""The page's words in each language, and which language a browser wants."""

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "locales"
DEFAULT = "en"
COOKIE = "rvc_language"
"""Holds the language that was chosen on the page; without it the browser's own preference holds."""


@cache
def languages() -> dict[str, str]:
    """What there is: each language's code, and its name in itself. A further one is one more file."""
    return {path.stem: words(path.stem)["language.name"] for path in sorted(FOLDER.glob("*.json"))}


@cache
def words(language: str) -> dict[str, str]:
    """All texts of a language by their keys."""
    found: dict[str, str] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


def choose(cookie: str | None, accept_language: str) -> str:
    """The language to answer in: the one chosen on the page, else the first of the browser's that there is."""
    if cookie is not None and cookie in languages():
        return cookie
    for code in _preferred_languages(accept_language):
        if code.partition("-")[0] in languages():
            return code.partition("-")[0]
    return DEFAULT


def _preferred_languages(accept_language: str) -> list[str]:
    """Language codes of an `Accept-Language` header, the dearest first (RFC 9110, 12.5.4). Nonsense is left out."""
    preferences = []
    for part in accept_language.split(","):
        code, _, weight = part.partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:
            preferences.append((quality, code.strip().lower()))
    return [code for _, code in sorted(preferences, key=lambda request: -request[0])]
