"""All files of a job as one zip, made while it is sent: nothing is written to disk, little is held in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from zipstream import ZIP_STORED, ZipStream


def zip_of(files: Sequence[tuple[Path, str]]) -> tuple[Iterator[bytes], int]:
    """The pieces of a zip of these files by their names in it, and its size in bytes. Nothing is compressed."""
    stream = ZipStream(compress_type=ZIP_STORED, sized=True)
    for path, name in files:
        stream.add_path(path, name)
    return iter(stream), len(stream)
