"""The store that `RVC_TRAIN_STORAGE_URL` names."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from server.blobs.folder import FolderBlobs
from server.blobs.interface import BlobStore
from server.blobs.objects import ObjectBlobs
from server.errors import SettingsRefused

SCHEMES = ("s3", "gs", "az")


def open_blobs(url: str | None) -> BlobStore | None:
    """The store of an address; None without one: files are in the data folder alone. Raises SettingsRefused."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise SettingsRefused(
            "RVC_TRAIN_STORAGE_URL has more than a bucket and a prefix; credentials have variables of "
            "their own, such as AWS_ACCESS_KEY_ID"
        )
    if parts.scheme == "file" and not parts.netloc:
        return FolderBlobs(Path(url2pathname(parts.path)).resolve())
    if parts.scheme in SCHEMES and parts.netloc:
        return ObjectBlobs(url)
    raise SettingsRefused(
        f"RVC_TRAIN_STORAGE_URL={url} is no address of a storage; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, "
        "az://CONTAINER/PREFIX or file:///FOLDER"
    )
