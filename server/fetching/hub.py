"""Datasets on a Hugging Face hub, by addresses as the hub's own libraries write them: `hf://datasets/anna/songs`.

The hub is huggingface.co, or the mirror in the environment variable `HF_ENDPOINT`. The operator's `HF_TOKEN` is sent to
it, and to no other host.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from rvc_engine.audio.file_rules import ZIP, left_out
from rvc_engine.weights.download import HUB
from server.errors import Refused
from server.fetching.download import Source, download, origin_of
from server.http.threads import on_disk
from server.settings import ServerSettings

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^/]+))?(/(?P<path>.*))?", re.ASCII)
_MAX_PAGES = 50
_MAX_LIST_BYTES = 16 << 20
_NEXT = re.compile(r'<(?P<url>[^<>]+)>\s*;\s*rel="?next"?')


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset on the hub."""

    url: str
    name: str
    """Its path within the folder that was asked for."""
    size: int


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the hub, or a part of it."""

    repo: str
    revision: str
    path: str
    """A folder, a file, or a pattern such as `train/*.wav`; empty: everything."""

    @classmethod
    def parse(cls, address: str) -> "HubDataset":
        """Parse an address. Raises Refused."""
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise Refused(
                f"{address!r} is not the address of a dataset on a hub; write hf://datasets/OWNER/NAME, with "
                "@REVISION and a folder, a file or a pattern such as /train/*.wav behind it if you like"
            )
        return cls(match["repo"], unquote(match["revision"] or "main"), unquote(match["path"] or "").strip("/"))

    def has(self, path: str) -> bool:
        """Whether a file of the repository belongs to it."""
        return not self.path or path == self.path or path.startswith(f"{self.path}/") or fnmatchcase(path, self.path)

    def name_of(self, path: str) -> str:
        """The path of a file within the folder that this is; of all or a pattern, within the repository."""
        return path.rpartition("/")[2] if path == self.path else path.removeprefix(f"{self.path}/")


def source(url: str) -> Source:
    """The source of a URL of the hub."""
    return Source(url, trusted=origin_of(_endpoint()), token=os.environ.get("HF_TOKEN") or None)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


async def list_recordings(dataset: HubDataset, folder: Path, settings: ServerSettings) -> Sequence[HubFile]:
    """The dataset's zips, and files that may be recordings by their names. `folder`: for the hub's answers.

    Raises Refused, and what `download` does.
    """
    revision = quote(dataset.revision, safe="")
    url = f"{_endpoint()}/api/datasets/{dataset.repo}/tree/{revision}?recursive=true"
    found: dict[str, int] = {}
    for _ in range(_MAX_PAGES):
        target = folder / "list.json"
        try:
            page = await download(source(url), target, _MAX_LIST_BYTES, settings)
        except Refused as error:
            raise type(error)(f"the list of the files of {dataset.repo} on the hub: {error}") from error
        found |= _files(await on_disk(target.read_bytes), dataset)
        if len(found) > settings.max_files:
            raise Refused(
                f"{dataset.repo} has more than the {settings.max_files} files that this server takes at once; name a "
                "folder or a pattern of it"
            )
        following = _NEXT.search(page.headers.get("Link", ""))
        if following is None:
            break
        url = following["url"]
    recordings = [path for path in sorted(found) if (rule := left_out(path)) is None or rule.code == ZIP]
    if not recordings:
        raise Refused(_nothing(dataset, found))
    base = f"{_endpoint()}/datasets/{dataset.repo}/resolve/{revision}"
    return [HubFile(f"{base}/{quote(path)}", dataset.name_of(path), found[path]) for path in recordings]


def _files(answer: bytes, dataset: HubDataset) -> Mapping[str, int]:
    """Sizes of the dataset's files in a part of the hub's list, by path."""
    try:
        entries: list[dict[str, Any]] = json.loads(answer)
        return {
            str(entry["path"]): int(entry["size"])
            for entry in entries
            if entry["type"] == "file" and dataset.has(str(entry["path"]))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{_endpoint()} does not answer as a hub does; check HF_ENDPOINT in the server's environment"
        ) from error


def _nothing(dataset: HubDataset, found: Mapping[str, int]) -> str:
    where = f"{SCHEME}datasets/{dataset.repo}@{dataset.revision}/{dataset.path}"
    if any(path.endswith((".parquet", ".arrow")) for path in found):
        return (
            f"{where} has its recordings inside tables (parquet), which this server does not read; take a dataset of "
            "audio files or zips, or export the recordings and upload them"
        )
    return f"{where} has no audio file and no zip among {len(found)} files; check the name, the revision and the folder"
