"""The files of a bundle that a stranger may have made, checked on their way to the disk.

A bundle is a zip without compression, so it unpacks to no more than its own size. Every file must be named by the
manifest, with its size and hash; none is stored under a name from the zip.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from server.datasets.zips import check_directory_size, check_entry, check_overlap, errors_as_refused
from server.errors import UploadRefused
from server.voices.manifest import FORMAT, MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, BundledFile, Manifest

_CHUNK = 1 << 20


class Bundle:
    """An open bundle."""

    def __init__(self, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> None:
        self._archive, self._entries = archive, entries
        self.manifest = self._read_manifest()

    def _read_manifest(self) -> Manifest:
        """The manifest, which names all files. Raises UploadRefused."""
        entry = self._entries.get(MANIFEST)
        if entry is None:
            raise UploadRefused(f"the zip has no {MANIFEST}: it is not the bundle of a voice")
        if entry.file_size > MAX_MANIFEST_BYTES:
            raise UploadRefused(f"the bundle's {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
        text = self._archive.read(entry)
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"] == ("format",):
                raise UploadRefused(
                    f"the bundle's format is not {FORMAT}: a newer version of rvc-train made it; upgrade this server"
                ) from error
            place = ".".join(map(str, first["loc"])) or "manifest"
            reason = str(first["msg"]).removeprefix("Value error, ")
            raise UploadRefused(f"the bundle's {MANIFEST} is not valid: {place}: {reason}") from error
        known = manifest.files()
        if unknown := sorted(self._entries.keys() - known.keys() - {MANIFEST}):
            raise UploadRefused(f"the bundle contains {unknown[0]!r}, which its {MANIFEST} does not name")
        for name, file in known.items():
            if name not in self._entries:
                raise UploadRefused(f"the bundle lacks {name!r}; get it again")
            if self._entries[name].file_size != file.size:
                raise UploadRefused(f"{name!r} has another size than the bundle's {MANIFEST} has; get it again")
        return manifest

    def unpack(self, file: BundledFile, target: Path) -> None:
        """Write a file of the bundle. Raises UploadRefused for another hash than the manifest's."""
        digest = hashlib.sha256()
        with (
            errors_as_refused(f"{file.path!r} in the bundle"),
            self._archive.open(self._entries[file.path]) as source,
            target.open("wb") as written,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                written.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise UploadRefused(f"{file.path!r} has other bytes than the bundle's {MANIFEST} has; get it again")


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open and check a bundle. Raises UploadRefused, UploadTooLarge."""
    with path.open("rb") as file:
        with errors_as_refused("the bundle"):
            check_directory_size(file, MAX_FILES)
            archive = zipfile.ZipFile(file)
            entries = _entries(file, archive)
            bundle = Bundle(archive, entries)
        yield bundle


def _entries(file: IO[bytes], archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        check_entry(entry, entry.filename)
        if entry.filename in found:
            raise UploadRefused(f"the bundle contains {entry.filename!r} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UploadRefused(
                f"{entry.filename!r} is compressed, as in no bundle: send the zip as it was downloaded, not packed anew"
            )
        found[entry.filename] = entry
    check_overlap(file, {entry: name for name, entry in found.items()}, archive.start_dir)
    return found
