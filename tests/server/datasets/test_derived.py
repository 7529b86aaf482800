"""A dataset without some recordings of another one, and recordings one by one, as to listen to."""

import io
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from rvc_train import Client, connect
from rvc_train.schemas.datasets import RecordingPart

Zipped = Callable[..., bytes]
WAV = b"RIFF" + bytes(2000)


@pytest.fixture
def anna(http: httpx.Client, zipped: Zipped) -> dict[str, Any]:
    """A dataset of three recordings, of which one is a copy."""
    content = zipped(
        {"anna/1.wav": b"RIFFone", "anna/2.flac": b"fLaCtwo", "anna/copy.wav": b"RIFFone", "notes.txt": b"x"}
    )
    made: dict[str, Any] = http.put("/v1/datasets/anna/content", content=content).json()
    return made


def ready(http: httpx.Client, dataset_id: str, eventually: Callable[..., None]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_ready() -> bool:
        found.update(http.get(f"/v1/datasets/{dataset_id}").json())
        return found["status"] == "ready"

    eventually(is_ready)
    return found


def test_a_dataset_without_a_copy_shares_the_files_and_outlives_its_origin(
    http: httpx.Client, live: Any, anna: dict[str, Any], eventually: Callable[..., None]
) -> None:
    body = {"name": "anna", "dataset_id": anna["id"], "without": ["anna/copy.wav"]}
    answer = http.post("/v1/datasets", json=body)
    assert answer.status_code == 201, answer.text
    made = ready(http, answer.json()["id"], eventually)
    assert (made["name"], made["num_files"], made["derived_from"]) == ("anna", 2, anna["id"])
    storage = live.context.storage
    own, origin = (storage.dataset_folder(an_id) / "000001.wav" for an_id in (made["id"], anna["id"]))
    assert own.samefile(origin)
    again = http.post("/v1/datasets", json=body)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert http.delete(f"/v1/datasets/{anna['id']}").status_code == 204
    report = http.get(f"/v1/datasets/{made['id']}/report").json()
    assert [file["name"] for file in report["files"]] == ["anna/1.wav", "anna/2.flac"]
    assert http.get(f"/v1/datasets/{made['id']}/recordings/2").content == b"fLaCtwo"
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": made["id"]})
    assert (job.status_code, job.json()["status"]) == (202, "queued")


def test_what_is_left_out_is_named_beside_what_was_left_out_before(
    anna: dict[str, Any], http: httpx.Client, live: Any
) -> None:
    first = http.post("/v1/datasets", json={"name": "a", "dataset_id": anna["id"], "without": ["anna/copy.wav"]}).json()
    second = http.post("/v1/datasets", json={"name": "a", "dataset_id": first["id"], "without": ["anna/1.wav"]}).json()
    manifest = (live.context.storage.dataset_folder(second["id"]) / "recordings.json").read_text()
    for name, code in (("notes.txt", "text"), ("anna/copy.wav", "chosen"), ("anna/1.wav", "chosen")):
        assert f'"name": "{name}"' in manifest
        assert code in manifest


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"without": ["anna/3.wav"]}, 422, "no recording 'anna/3.wav'"),
        ({"without": ["anna/1.wav", "anna/2.flac", "anna/copy.wav"]}, 422, "no recording would be left"),
        ({"without": []}, 422, "without"),
        ({"without": ["anna/1.wav"], "dataset_id": "ds_" + "0" * 32}, 404, "there is no dataset"),
        ({"without": ["anna/1.wav"], "sha256": "0" * 64}, 422, "give one of"),
    ],
)
def test_a_fault_is_told(
    http: httpx.Client, anna: dict[str, Any], body: dict[str, Any], status: int, words: str
) -> None:
    answer = http.post("/v1/datasets", json={"name": "b", "dataset_id": anna["id"]} | body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_another_owner_has_nothing_of_it(guarded: Any, holder: Callable[..., httpx.Client]) -> None:
    anna, bob = holder("anna", "submit"), holder("bob", "submit")
    made = anna.put("/v1/datasets/anna/content", content=WAV).json()
    body = {"name": "mine", "dataset_id": made["id"], "without": ["anna"]}
    assert bob.post("/v1/datasets", json=body).status_code == 404
    assert bob.get(f"/v1/datasets/{made['id']}/recordings/1").status_code == 404
    assert anna.get(f"/v1/datasets/{made['id']}/recordings/1").content == WAV


def test_a_recording_comes_in_ranges_and_never_as_a_page(http: httpx.Client, zipped: Zipped) -> None:
    content = zipped({"1.wav": b"RIFF0123456789", "page.htm.mp3": b"<html>", "x.svg.bak": b"<svg/>"})
    made = http.put("/v1/datasets/ranges/content", content=content).json()
    address = f"/v1/datasets/{made['id']}/recordings"
    part = http.get(f"{address}/1", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"0123", "bytes 4-7/14")
    assert part.headers["content-type"] in {"audio/x-wav", "audio/wav"}
    for number in (2, 3):
        other = http.get(f"{address}/{number}")
        assert other.headers["content-type"] in {"audio/mpeg", "application/octet-stream"}
        assert other.headers["content-disposition"].startswith("attachment")
        assert other.headers["x-content-type-options"] == "nosniff"
    assert http.get(f"{address}/4").status_code == 404
    assert http.get(f"{address}/0").status_code == 422


def test_the_client_makes_one(http: httpx.Client, live: Any, anna: dict[str, Any]) -> None:
    with Client(connect(live.url, "the-token-of-any-server")) as client:
        made = client.derive_dataset(anna["id"], ["anna/1.wav"])
    assert (made.name, made.derived_from, made.num_files) == ("anna", anna["id"], 2)
