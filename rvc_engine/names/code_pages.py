"""The choice of one code page for names that were stored as bytes, such as those of a zip made on an older Windows.

A code page is chosen for all names together, because one program wrote them: the one in which they cost least, that is
in which they are letters of scripts that occur together and common ones (`languages.py`).
"""

import codecs
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from rvc_engine.names import languages as of
from rvc_engine.names.languages import IMPOSSIBLE, Language, least_cost

AUTO = "auto"
MAX_SCORED = 300
"""Names that are scored; all of them must be decodable."""
SURE_MARGIN = 4.0
"""Difference in cost, in nats, below which the choice is a guess."""
BAD_COST = 9.5
"""Cost per character that is not ASCII above which no choice is right."""
_MIXED_COST = 6.0
"""Cost of the assumption that some of the names of one zip are UTF-8 and the others are not."""


@dataclass(frozen=True)
class CodePage:
    """A code page that names are read in."""

    code: str
    """Name for users, in options and in the API."""
    title: str
    codec: str
    languages: Collection[Language] = ()
    """Languages whose names are looked for in it; none: it is used only where the user names it."""
    prior_cost: float = 0.0

    def decode(self, name: bytes) -> str:
        """The name. Raises UnicodeDecodeError."""
        return name.decode(self.codec)

    def cost(self, names: Sequence[bytes]) -> float:
        """Cost of the names in this code page; IMPOSSIBLE if one cannot be read."""
        try:
            texts = [self.decode(name) for name in names]
        except UnicodeDecodeError:
            return IMPOSSIBLE
        return self.prior_cost + sum(least_cost(text, self.languages) for text in texts[:MAX_SCORED])


_L = of.LATIN_LANGUAGES
_WESTERN, _CENTRAL, _TURKISH, _BALTIC = _L[:5], (_L[0], _L[5], _L[6], _L[7], _L[8], _L[10]), (_L[0], _L[9]), (_L[11],)
UTF8 = CodePage("utf-8", "UTF-8", "utf-8")
CODE_PAGES = (
    CodePage("shift-jis", "Shift-JIS", "cp932", (of.JAPANESE,)),
    CodePage("gbk", "GBK", "gb18030", (of.SIMPLIFIED,)),
    CodePage("big5", "Big5", "cp950", (of.TRADITIONAL,), 0.5),
    CodePage("euc-kr", "EUC-KR", "cp949", (of.KOREAN,)),
    CodePage("cp1251", "CP1251 (Cyrillic, Windows)", "cp1251", (of.CYRILLIC,), 1),
    CodePage("cp866", "CP866 (Cyrillic, DOS)", "cp866", (of.CYRILLIC,), 1),
    CodePage("cp1252", "CP1252 (Western European, Windows)", "cp1252", _WESTERN, 1),
    CodePage("cp850", "CP850 (Western European, DOS)", "cp850", _WESTERN, 1),
    CodePage("cp1250", "CP1250 (Central European, Windows)", "cp1250", _CENTRAL, 2),
    CodePage("cp852", "CP852 (Central European, DOS)", "cp852", _CENTRAL, 2),
    CodePage("cp1253", "CP1253 (Greek, Windows)", "cp1253", (of.GREEK,), 4),
    CodePage("cp737", "CP737 (Greek, DOS)", "cp737", (of.GREEK,), 4),
    CodePage("cp1254", "CP1254 (Turkish, Windows)", "cp1254", _TURKISH, 2),
    CodePage("cp857", "CP857 (Turkish, DOS)", "cp857", _TURKISH, 2),
    CodePage("cp1257", "CP1257 (Baltic, Windows)", "cp1257", _BALTIC, 5),
    CodePage("cp775", "CP775 (Baltic, DOS)", "cp775", _BALTIC, 5),
    CodePage("cp1255", "CP1255 (Hebrew, Windows)", "cp1255", (of.HEBREW,), 4),
    CodePage("cp862", "CP862 (Hebrew, DOS)", "cp862", (of.HEBREW,), 4),
    CodePage("cp1256", "CP1256 (Arabic, Windows)", "cp1256", (of.ARABIC,), 5),
    CodePage("cp720", "CP720 (Arabic, DOS)", "cp720", (of.ARABIC,), 5),
    CodePage("cp874", "CP874 (Thai)", "cp874", (of.THAI,), 4),
    CodePage("koi8-r", "KOI8-R (Cyrillic)", "koi8_r", (of.CYRILLIC,), 5),
    CodePage("cp437", "CP437 (DOS)", "cp437", _WESTERN, 6),
    CodePage("euc-jp", "EUC-JP", "euc_jp"),
    CodePage("big5-hkscs", "Big5-HKSCS", "big5hkscs"),
    CodePage("cp1258", "CP1258 (Vietnamese)", "cp1258"),
    CodePage("cp855", "CP855 (Cyrillic, DOS)", "cp855"),
    CodePage("mac-roman", "Mac Roman", "mac_roman"),
    UTF8,
)
CODES = tuple(page.code for page in CODE_PAGES)
_BY_CODEC = {codecs.lookup(page.codec).name: page for page in CODE_PAGES} | {
    codecs.lookup(page.code).name: page for page in CODE_PAGES
}
_BY_CODEC |= {"gb2312": _BY_CODEC["gb18030"]}


def code_page(code: str) -> CodePage:
    """The code page of a name such as `gbk`, `GB2312` or `cp936`. Raises ValueError."""
    try:
        return _BY_CODEC[codecs.lookup(code.strip()).name]
    except (LookupError, ValueError):  # ValueError: a null character
        raise ValueError(f"{code!r} is not a code page for names in zips; use one of {', '.join(CODES)}") from None


@dataclass(frozen=True)
class Choice:
    """A way to read names."""

    decode: Callable[[bytes], str]
    page: CodePage
    rival: CodePage | None = None
    """Another code page that fits about as well and gives other names: the choice is a guess."""
    is_guess: bool = False


def choose(names: Collection[bytes]) -> Choice:
    """The code page of names of which at least one is not ASCII, parts of paths without separators."""
    distinct = sorted({name for name in names if not name.isascii()})
    texts = {name: _as_utf8(name) for name in distinct}
    others = [name for name in distinct if texts[name] is None]
    if not others:
        return Choice(UTF8.decode, UTF8)
    cost, choice = _best(distinct)
    if len(others) < len(distinct):
        mixed_cost, mixed = _best(others)
        utf8_texts = [text for text in texts.values() if text is not None][:MAX_SCORED]
        if mixed_cost + _MIXED_COST + sum(least_cost(text, of.LANGUAGES) for text in utf8_texts) < cost:
            return Choice(partial(_utf8_or, mixed.page), mixed.page, mixed.rival, mixed.is_guess)
    return choice


def _as_utf8(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _utf8_or(page: CodePage, name: bytes) -> str:
    text = _as_utf8(name)
    return page.decode(name) if text is None else text


def _best(names: Sequence[bytes]) -> tuple[float, Choice]:
    """The least cost of the names, and the choice of its code page."""
    costs = [(page.cost(names), page) for page in CODE_PAGES if page.languages]
    costs = sorted((each for each in costs if each[0] < IMPOSSIBLE), key=lambda each: each[0])
    (cost, page), *rest = costs or [(IMPOSSIBLE, CODE_PAGES[CODES.index("cp437")])]
    shown = [page.decode(name) for name in names]
    others = (other for other in rest if [other[1].decode(name) for name in names] != shown)
    rival_cost, rival = next(others, (IMPOSSIBLE, None))
    num_letters = sum(not letter.isascii() for text in shown[:MAX_SCORED] for letter in text)
    num_ascii = sum(map(len, shown[:MAX_SCORED])) - num_letters
    is_bad = cost - 3 * num_ascii > BAD_COST * num_letters
    is_guess = is_bad or rival_cost - cost < SURE_MARGIN
    return cost, Choice(page.decode, page, rival if is_guess else None, is_guess)
