"""Texts of the page in each language, and the choice of a language for a browser."""

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "locales"
DEFAULT = "en"
COOKIE = "rvc_language"
"""Cookie with the language chosen on the page; without it the browser's `Accept-Language` decides."""


@cache
def languages() -> dict[str, str]:
    """Available languages: code and native name. A new file in `locales/` adds a language."""
    return {path.stem: words(path.stem)["language.name"] for path in sorted(FOLDER.glob("*.json"))}


@cache
def words(language: str) -> dict[str, str]:
    """All texts of a language by key."""
    found: dict[str, str] = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


def choose(cookie: str | None, accept_language: str) -> str:
    """Language of the response: the one chosen on the page, else the browser's most preferred available one."""
    if cookie is not None and cookie in languages():
        return cookie
    for code in _preferred_languages(accept_language):
        if code.partition("-")[0] in languages():
            return code.partition("-")[0]
    return DEFAULT


def _preferred_languages(accept_language: str) -> list[str]:
    """Language codes of an `Accept-Language` header by preference (RFC 9110, 12.5.4). Malformed entries are ignored."""
    preferences = []
    for part in accept_language.split(","):
        code, _, weight = part.partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=")) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:
            preferences.append((quality, code.strip().lower()))
    return [code for _, code in sorted(preferences, key=lambda preference: -preference[0])]
