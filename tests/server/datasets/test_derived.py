"""A dataset without some recordings of another one, and recordings one by one, as to listen to."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rvc_engine.audio.parts import PARTS_FILE
from rvc_engine.audio.recordings import list_recordings
from rvc_train import Client, connect
from rvc_train.cli.main import app
from rvc_train.schemas.datasets import RecordingPart
from server.database.engine import read_session
from server.database.tables import Dataset
from server.voices.bundles import _Bundle
from tests.server.conftest import USUAL_TOKEN, wait_until

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


# Parts of recordings. In the report of these tests each recording has a minute.


@pytest.fixture
def spoken(http: httpx.Client, zipped: Zipped) -> dict[str, Any]:
    """A dataset of three recordings, the last of which cannot be read."""
    files = {"a.wav": b"RIFFa", "b.wav": b"RIFFb", "c.wav": b"RIFF UNREADABLE"}
    made: dict[str, Any] = http.put("/v1/datasets/parts/content", content=zipped(files)).json()
    return ready(http, made["id"], wait_until)


def part(recording: int, start: float, end: float) -> dict[str, float]:
    return {"recording": recording, "from_seconds": start, "to_seconds": end}


def test_parts_are_left_out_of_a_derived_dataset_and_of_one_derived_from_that(
    http: httpx.Client, live: Any, spoken: dict[str, Any]
) -> None:
    parts = [part(1, 45, 99), part(1, 15, 25), part(1, 20, 30)]
    body = {"name": "x", "dataset_id": spoken["id"], "without": ["c.wav"], "without_parts": parts}
    answer = http.post("/v1/datasets", json=body)
    assert answer.status_code == 201, answer.text
    made = ready(http, answer.json()["id"], wait_until)
    assert (made["num_files"], made["seconds"], made["derived_from"]) == (2, 30, spoken["id"])
    again = http.post("/v1/datasets", json=body | {"without_parts": [part(1, 15, 30), part(1, 45, 60)]})
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert http.post("/v1/datasets", json=body | {"without_parts": parts[:1]}).json()["sha256"] != made["sha256"]
    first = http.get(f"/v1/datasets/{made['id']}/report").json()["files"][0]
    assert first["without_parts"] == [
        {"from_seconds": 15.0, "to_seconds": 30.0},
        {"from_seconds": 45.0, "to_seconds": 60.0},
    ]
    storage = live.context.storage
    files = [storage.dataset_folder(an_id) / "000001.wav" for an_id in (made["id"], spoken["id"])]
    assert files[0].samefile(files[1])
    further = {"name": "x", "dataset_id": made["id"], "without": ["b.wav"], "without_parts": [part(1, 0, 5)]}
    last = http.post("/v1/datasets", json=further).json()
    recordings = list_recordings(storage.dataset_folder(last["id"]))
    assert [each.without for each in recordings] == [((0.0, 5.0), (15.0, 30.0), (45.0, 60.0))]
    ready(http, last["id"], wait_until)
    rest = {"name": "x", "dataset_id": last["id"], "without_parts": [part(1, 5, 15), part(1, 30, 44.7)]}
    assert "less than 0.4 s of recording 1 would be left" in http.post("/v1/datasets", json=rest).text


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"without_parts": [part(4, 0, 1)]}, "/without_parts/0/recording", "there is no number 4"),
        ({"without_parts": [part(3, 0, 1)]}, "/without_parts/0/recording", "recording 3 cannot be read"),
        ({"without_parts": [part(1, 0, 1), part(1, 60, 70)]}, "/without_parts/1/from_seconds", "begins after its end"),
        ({"without_parts": [part(1, 2, 1)]}, "/without_parts/0", "must be at least 0.01 s after from_seconds"),
        ({"without_parts": [part(2, 0, 10), part(2, 10, 60)]}, "/without_parts/1", "name the recording in `without`"),
        ({"without_parts": [part(1, 0, 1)], "without": ["a.wav"]}, "/without_parts/0/recording", "left out as a whole"),
        ({"without_parts": [part(1, 0, 1)] * 1001}, "/without_parts", "1000"),
        ({"without_parts": [part(1, 0, 1) | {"to_seconds": "1"}]}, "/without_parts/0/to_seconds", "number"),
        ({"without_parts": [part(1, -1, 1)]}, "/without_parts/0/from_seconds", "greater"),
        ({"without_parts": []}, "", "parts of them in without_parts"),
    ],
)
def test_parts_with_a_fault_are_refused_with_their_place(
    http: httpx.Client, spoken: dict[str, Any], body: dict[str, Any], pointer: str, words: str
) -> None:
    answer = http.post("/v1/datasets", json={"name": "x", "dataset_id": spoken["id"]} | body)
    assert answer.status_code == 422, answer.text
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert (pointer in pointers, words in answer.text) == (True, True), answer.text


def test_parts_of_recordings_that_are_not_examined_yet_have_to_wait(http: httpx.Client) -> None:
    made = http.put("/v1/datasets/slow/content", content=b"RIFFSLOW").json()
    answer = http.post("/v1/datasets", json={"name": "x", "dataset_id": made["id"], "without_parts": [part(1, 0, 1)]})
    assert (answer.status_code, "try again in a moment" in answer.text) == (409, True)
    http.delete(f"/v1/datasets/{made['id']}")


def test_a_zip_has_its_own_list_of_parts_and_a_bundle_of_recordings_too(
    http: httpx.Client, live: Any, zipped: Zipped, tmp_path: Path
) -> None:
    files = {"a.wav": b"RIFFa", "b.wav": b"RIFFb", PARTS_FILE: b"5.5\t15.25\ta.wav\n"}
    made = http.put("/v1/datasets/listed/content", content=zipped(files)).json()
    assert (made["num_files"], made["notes"]) == (2, [])
    bundled = _Bundle(live.context.storage)
    with read_session(live.context.engine) as session:
        bundled.recordings(session.get_one(Dataset, made["id"]))
    outer = tmp_path / "bundle.zip"
    outer.write_bytes(b"".join(bundled._zip))
    with zipfile.ZipFile(outer) as archive:
        inner = archive.read("recordings.zip")
    other = http.put("/v1/datasets/taken/content", content=inner).json()
    for each in (made, other):
        recordings = list_recordings(live.context.storage.dataset_folder(each["id"]))
        assert [(one.name, one.without) for one in recordings] == [("a.wav", ((5.5, 15.25),)), ("b.wav", ())]
    refused = http.put("/v1/datasets/wrong/content", content=zipped(files | {PARTS_FILE: b"0.5 a.wav"}))
    assert refused.status_code == 422
    assert "line 1 of left_out_parts.txt is not a part of a recording" in refused.text


def test_the_client_and_the_command_line_know_parts(http: httpx.Client, live: Any, tmp_path: Path) -> None:
    for name, content in {"a.wav": b"RIFFa", "b.wav": b"RIFFb", PARTS_FILE: b"0.5 1.5 a.wav"}.items():
        (tmp_path / name).write_bytes(content)
    with Client(connect(live.url, USUAL_TOKEN)) as client:
        made = client.upload_dataset([tmp_path], "client")
        assert ready(http, made.id, wait_until)["seconds"] == 59
        less = client.derive_dataset(made.id, [], parts=[RecordingPart(recording=2, from_seconds=0, to_seconds=10)])
        assert ready(http, less.id, wait_until)["seconds"] == 49
    listed = tmp_path / "list.txt"
    listed.write_text("20 30 a.wav\n")
    command = ["dataset", "without", made.id, "b.wav", "--part", "a.wav:3-4.5", "--parts", str(listed), "--name", "cli"]
    access = ["--server", live.url, "--token", USUAL_TOKEN, "--json"]
    done = CliRunner().invoke(app, [*command, *access])
    assert done.exit_code == 0, done.output
    recordings = list_recordings(live.context.storage.dataset_folder(json.loads(done.stdout)["id"]))
    assert [each.without for each in recordings] == [((0.5, 1.5), (3.0, 4.5), (20.0, 30.0))]
    for options in (["--part", "a.wav"], ["--part", "x.wav:1-2"], ["--part", "a.wav:2-1"], []):
        assert CliRunner().invoke(app, ["dataset", "without", made.id, *options, *access]).exit_code == 2
