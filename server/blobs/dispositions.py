"""The header `Content-Disposition` of files (RFC 6266)."""

import re
from urllib.parse import quote


def content_disposition(name: str) -> str:
    """`attachment` with an ASCII name for old clients and the full name in `filename*`."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
