"""Zips whose names are bytes of any code page, as programs of older systems write them."""

import io
import zipfile
import zlib
from collections.abc import Iterable


class RawInfo(zipfile.ZipInfo):
    """An entry with its name as bytes, without the flag for UTF-8."""

    raw = b""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - of zipfile
        return self.raw, self.flag_bits & ~0x800


def raw_zip(entries: Iterable[tuple[bytes, bytes]], unicode_names: Iterable[str] = (), compression: int = 0) -> bytes:
    """A zip of (name, content). `unicode_names`: name of each entry for the extra field 0x7075."""
    buffer, extras = io.BytesIO(), iter(unicode_names)
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for number, (name, content) in enumerate(entries):
            info = RawInfo(f"{number}.wav")
            info.raw, info.create_system, info.compress_type = name, 0, compression
            if text := next(extras, None):
                data = b"\x01" + zlib.crc32(name).to_bytes(4, "little") + text.encode()
                info.extra = b"\x75\x70" + len(data).to_bytes(2, "little") + data
            archive.writestr(info, content)
    return buffer.getvalue()
