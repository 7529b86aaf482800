"""Text files that people write with editors of any system. No torch."""

import codecs
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a file, as `decoded`. Raises OSError."""
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """Text in UTF-8 with or without a byte order mark, in UTF-16 with one, or in GBK."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("utf-8", errors="surrogateescape")
