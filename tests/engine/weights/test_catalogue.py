"""Published weights on this machine: listed, found, verified, imported."""

import hashlib
import os

import pytest

from rvc_engine.environment.shells import shell_words
from rvc_engine.errors import InvalidConfig, MissingWeights
from rvc_engine.machine import default_weights_folder
from rvc_engine.weights.catalogue import PublishedFile, Weights, published_files
from tests.systems import links

CONTENT = {"a.bin": b"first" * 1000, "b.bin": b"second" * 1000, "c.json": b"{}"}


def entry(name, group="things", **fields):
    digest = hashlib.sha256(CONTENT[name]).hexdigest()
    return PublishedFile(
        id=group, repo="someone/things", path=f"folder/{name}", size=len(CONTENT[name]), sha256=digest, **fields
    )


@pytest.fixture
def weights(tmp_path):
    return Weights(tmp_path / "weights", tuple(entry(name) for name in CONTENT))


def place(weights, name, data=None):
    path = weights.path_of(next(file for file in weights.files if file.name == name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT[name] if data is None else data)
    return path


def states(weights):
    return {file.name: weights.state(file) for file in weights.files}


def test_the_catalogue_holds_every_published_pair_under_its_kind():
    weights = Weights(default_weights_folder())
    for version in ("v1", "v2"):
        for rate in ("32k", "40k", "48k"):
            for f0, prefix in ((True, "f0"), (False, "")):
                names = [file.name for file in weights.pretrained_files(version, rate, f0)]
                assert names == [f"{prefix}G{rate}.pth", f"{prefix}D{rate}.pth"]
    assert len({file.key for file in published_files()}) == len(published_files())


def test_the_encoder_is_found_as_rvc_and_as_applio_have_it():
    accepted = {size for file in published_files() if file.id == "hubert" for size in file.sizes}
    assert accepted == {1492, 189206711, 1388, 378342945}


def test_an_id_stands_for_all_its_files_and_a_key_for_one(weights):
    assert [file.name for file in weights.files_of("things")] == list(CONTENT)
    assert [file.name for file in weights.files_of("things/b.bin")] == ["b.bin"]
    with pytest.raises(InvalidConfig, match="known are things"):
        weights.files_of("nothing")


def test_a_new_copy_is_unverified_until_its_sha256_is_computed(weights):
    place(weights, "a.bin")
    assert states(weights) == {"a.bin": "unverified", "b.bin": "missing", "c.json": "missing"}
    assert weights.verify(weights.files[0]) == "verified"
    assert states(weights)["a.bin"] == "verified"


def test_a_verified_copy_is_not_read_again(weights, monkeypatch):
    place(weights, "a.bin")
    weights.verify(weights.files[0])
    monkeypatch.setattr("rvc_engine.weights.catalogue.sha256_of", lambda _path: pytest.fail("read again"))
    assert Weights(weights.folder, weights.catalogue).verify(weights.files[0]) == "verified"


def test_a_copy_that_changed_since_is_read_again_and_found_damaged(weights):
    path = place(weights, "a.bin")
    weights.verify(weights.files[0])
    path.write_bytes(b"FIRST" * 1000)
    os.utime(path, ns=(1, 1))
    assert weights.state(weights.files[0]) == "unverified"
    assert weights.verify(weights.files[0]) == "damaged"
    assert weights.state(weights.files[0]) == "damaged"


def test_a_copy_of_another_size_is_damaged_without_reading(weights):
    place(weights, "a.bin", b"short")
    assert weights.state(weights.files[0]) == weights.verify(weights.files[0]) == "damaged"


def test_a_damaged_checksum_cache_costs_only_a_new_hash(weights):
    place(weights, "a.bin")
    weights.verify(weights.files[0])
    (weights.folder / ".verified.json").write_text("not json")
    assert weights.verify(weights.files[0]) == "verified"


def test_missing_weights_name_what_is_missing_and_the_ways_to_get_it(tmp_path):
    weights = Weights(tmp_path / "my weights")
    with pytest.raises(MissingWeights) as caught:
        weights.require(weights.pretrained_files("v2", "40k", f0=True), "pretrained-v2-40k")
    message = str(caught.value)
    folder = shell_words(str(weights.folder))
    assert f"missing in {weights.folder / 'pretrained-v2-40k'}: f0G40k.pth, f0D40k.pth" in message
    assert f"rvc-engine weights fetch pretrained-v2-40k --weights {folder}" in message
    assert f"rvc-engine weights import FOLDER --weights {folder}" in message


def test_the_folder_is_not_named_where_it_is_the_usual_one():
    assert "--weights" not in Weights(default_weights_folder()).ways_to_get("hubert")


@links
def test_published_files_are_imported_from_anywhere_under_a_folder_whatever_their_names(weights, tmp_path):
    source = tmp_path / "RVC" / "assets" / "deep"
    source.mkdir(parents=True)
    (source / "renamed.pt").write_bytes(CONTENT["b.bin"])
    (source / "a.bin").write_bytes(b"FIRST" * 1000)  # right name and size, wrong content
    (source / "loop").symlink_to(tmp_path / "RVC", target_is_directory=True)
    (source / "dangling").symlink_to(tmp_path / "gone")
    reported = []
    imported = weights.import_from(tmp_path / "RVC", lambda file, path: reported.append((file.name, path.name)))
    assert [file.name for file in imported] == ["b.bin"]
    assert reported == [("b.bin", "renamed.pt")]
    assert states(weights) == {"a.bin": "missing", "b.bin": "verified", "c.json": "missing"}
    assert weights.path_of(imported[0]).read_bytes() == CONTENT["b.bin"]
    assert (source / "renamed.pt").exists()


@links
def test_a_hub_caches_links_are_followed_to_their_files(weights, tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "123").write_bytes(CONTENT["a.bin"])
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "a.bin").symlink_to(tmp_path / "blobs" / "123")
    weights.import_from(tmp_path / "snapshots")
    path = weights.path_of(weights.files[0])
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT["a.bin"]


def test_a_damaged_copy_is_replaced_by_an_import(weights, tmp_path):
    place(weights, "a.bin", b"short")
    source = tmp_path / "applio"
    source.mkdir()
    (source / "a.bin").write_bytes(CONTENT["a.bin"])
    weights.import_from(source)
    assert weights.state(weights.files[0]) == "verified"


def test_where_links_are_not_possible_files_are_copied(weights, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "applio").mkdir()
    (tmp_path / "applio" / "a.bin").write_bytes(CONTENT["a.bin"])
    weights.import_from(tmp_path / "applio")
    assert weights.path_of(weights.files[0]).read_bytes() == CONTENT["a.bin"]
    assert sorted(path.name for path in (weights.folder / "things").iterdir()) == ["a.bin"]


def test_importing_from_no_folder_is_an_error(weights, tmp_path):
    with pytest.raises(InvalidConfig, match="there is no folder"):
        weights.import_from(tmp_path / "gone")
