"""A dataset without some recordings of another one, and recordings one by one, as to listen to."""

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from rvc_engine.audio.parts import PARTS_FILE
from rvc_engine.audio.recordings import list_recordings
from rvc_train import Client, connect
from rvc_train.schemas.datasets import RecordingPart
from server.database.engine import read_session
from server.database.tables import Dataset
from server.settings import ServerSettings
from server.voices.bundles import _Bundle
from tests.server.conftest import wait_until, zip_of

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


# Parts of recordings, with the real report.


def spoken(seconds: float, hz: float = 180.0) -> bytes:
    """A recording of a tone."""
    times, file = np.arange(int(seconds * 16_000)) / 16_000, io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * hz * times), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def examining(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, serve_for_module: Callable[..., Any]
) -> Iterator[Any]:
    """A server that examines recordings with the engine's own report."""
    folder = tmp_path_factory.mktemp("parts")
    shutil.copy(empty_database, folder / "rvc-train.db")
    command = ServerSettings.model_fields["report_command"].get_default(call_default_factory=True)
    with serve_for_module(folder, report_command=command) as server:
        yield server


@pytest.fixture(scope="module")
def spoken_dataset(examining: Any) -> dict[str, Any]:
    """A dataset of three recordings: 6 s, 2 s, and one that is none."""
    files = {"a.wav": spoken(6), "b.wav": spoken(2, 300), "c.wav": b"RIFFnothing"}
    with examining.client() as http:
        made: dict[str, Any] = http.put("/v1/datasets/parts/content", content=zip_of(files)).json()
        return ready(http, made["id"], wait_until)


def part(recording: int, start: float, end: float) -> dict[str, float]:
    return {"recording": recording, "from_seconds": start, "to_seconds": end}


def test_parts_are_left_out_of_a_derived_dataset_and_of_one_derived_from_that(
    examining: Any, spoken_dataset: dict[str, Any]
) -> None:
    parts = [part(1, 4.5, 99), part(1, 1.5, 2.5), part(1, 2.0, 3.0)]
    body = {"name": "x", "dataset_id": spoken_dataset["id"], "without": ["c.wav"], "without_parts": parts}
    with examining.client() as http:
        answer = http.post("/v1/datasets", json=body)
        assert answer.status_code == 201, answer.text
        made = ready(http, answer.json()["id"], wait_until)
        assert made["seconds"] == pytest.approx(8 - 3, abs=0.01)
        again = body | {"without_parts": [part(1, 1.5, 3), part(1, 4.5, 6)]}
        assert http.post("/v1/datasets", json=again).json()["id"] == made["id"]
        assert http.post("/v1/datasets", json=body | {"without_parts": [part(1, 1.5, 3)]}).json()["id"] != made["id"]
        report = http.get(f"/v1/datasets/{made['id']}/report").json()
        first = report["files"][0]
        assert first["without_parts"] == [
            {"from_seconds": 1.5, "to_seconds": 3.0},
            {"from_seconds": 4.5, "to_seconds": 6.0},
        ]
        assert (first["seconds"], first["dropped_seconds"]["left_out"]) == (3.0, pytest.approx(3.0, abs=0.02))
        storage = examining.context.storage
        files = [storage.dataset_folder(an_id) / "000001.wav" for an_id in (made["id"], spoken_dataset["id"])]
        assert files[0].samefile(files[1])
        further = {"name": "x", "dataset_id": made["id"], "without": ["b.wav"], "without_parts": [part(1, 0, 0.5)]}
        last = ready(http, http.post("/v1/datasets", json=further).json()["id"], wait_until)
        assert last["seconds"] == pytest.approx(2.5, abs=0.01)
        recordings = list_recordings(storage.dataset_folder(last["id"]))
        assert [each.without for each in recordings] == [((0.0, 0.5), (1.5, 3.0), (4.5, 6.0))]
        estimate = {"name": "x", "dataset_id": made["id"], "config": {"total_epochs": 1}}
        assert http.post("/v1/jobs:estimate", json=estimate).json()["speech_seconds"] == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"without_parts": [part(4, 0, 1)]}, "/without_parts/0/recording", "there is no number 4"),
        ({"without_parts": [part(3, 0, 1)]}, "/without_parts/0/recording", "recording 3 cannot be read"),
        ({"without_parts": [part(1, 0, 1), part(1, 6, 7)]}, "/without_parts/1/from_seconds", "begins after its end"),
        ({"without_parts": [part(1, 2, 1)]}, "/without_parts/0", "must be at least 0.01 s after from_seconds"),
        ({"without_parts": [part(1, 0, 5.7)]}, "/without_parts/0", "less than 0.4 s of recording 1 would be left"),
        ({"without_parts": [part(2, 0, 1), part(2, 1, 2)]}, "/without_parts/1", "name the recording in `without`"),
        ({"without_parts": [part(1, 0, 1)], "without": ["a.wav"]}, "/without_parts/0/recording", "left out as a whole"),
        ({"without_parts": [part(1, 0, 1)] * 1001}, "/without_parts", "1000"),
        ({"without_parts": [part(1, 0, 1) | {"to_seconds": "1"}]}, "/without_parts/0/to_seconds", "number"),
        ({"without_parts": [part(1, -1, 1)]}, "/without_parts/0/from_seconds", "greater"),
        ({"without_parts": []}, "", "parts of them in without_parts"),
    ],
)
def test_parts_with_a_fault_are_refused_with_their_place(
    examining: Any, spoken_dataset: dict[str, Any], body: dict[str, Any], pointer: str, words: str
) -> None:
    with examining.client() as http:
        answer = http.post("/v1/datasets", json={"name": "x", "dataset_id": spoken_dataset["id"]} | body)
        assert answer.status_code == 422, answer.text
        errors = answer.json()["errors"]
        assert (pointer in {error["pointer"] for error in errors}, words in answer.text) == (True, True), answer.text


def test_parts_of_recordings_that_are_not_examined_yet_have_to_wait(http: httpx.Client) -> None:
    made = http.put("/v1/datasets/slow/content", content=b"RIFFSLOW").json()
    body = {"name": "x", "dataset_id": made["id"], "without_parts": [part(1, 0, 1)]}
    answer = http.post("/v1/datasets", json=body)
    assert (answer.status_code, "try again in a moment" in answer.text) == (409, True)
    http.delete(f"/v1/datasets/{made['id']}")


def test_a_zip_has_its_own_list_of_parts_and_a_bundle_of_recordings_too(examining: Any, tmp_path: Path) -> None:
    files = {"a.wav": spoken(3), "b.wav": spoken(2), PARTS_FILE: b"0.5\t1.5\ta.wav\n"}
    with examining.client() as http:
        made = ready(http, http.put("/v1/datasets/listed/content", content=zip_of(files)).json()["id"], wait_until)
        assert (made["num_files"], made["seconds"], made["notes"]) == (2, pytest.approx(4.0), [])
        bundled = _Bundle(examining.context.storage)
        with read_session(examining.context.engine) as session:
            bundled.recordings(session.get_one(Dataset, made["id"]))
        outer = tmp_path / "bundle.zip"
        outer.write_bytes(b"".join(bundled._zip))
        with zipfile.ZipFile(outer) as archive:
            inner = archive.read("recordings.zip")
        other = ready(http, http.put("/v1/datasets/taken/content", content=inner).json()["id"], wait_until)
        assert (other["num_files"], other["seconds"]) == (2, pytest.approx(4.0))
        wrong = zip_of(files | {PARTS_FILE: b"0.5 a.wav"})
        refused = http.put("/v1/datasets/wrong/content", content=wrong)
        assert refused.status_code == 422
        assert "line 1 of left_out_parts.txt is not a part of a recording" in refused.text


def test_the_client_and_its_uploads_know_parts(examining: Any, tmp_path: Path) -> None:
    for name, content in {"a.wav": spoken(3), "b.wav": spoken(2), PARTS_FILE: b"0.5 1.5 a.wav"}.items():
        (tmp_path / name).write_bytes(content)
    with Client(connect(examining.url, "the-token-of-any-server")) as client, examining.client() as http:
        made = client.upload_dataset([tmp_path], "client")
        assert ready(http, made.id, wait_until)["seconds"] == pytest.approx(4.0)
        less = client.derive_dataset(made.id, [], None, [RecordingPart(recording=2, from_seconds=0, to_seconds=0.5)])
        assert ready(http, less.id, wait_until)["seconds"] == pytest.approx(3.5)
