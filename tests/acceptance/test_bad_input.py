"""What users send that is no good, over HTTP: each a clear error or a clean success."""

import io
import re
import struct
import wave
import zipfile
from pathlib import Path

import av
import pytest

from rvc_train.errors import ApiError


@pytest.fixture(scope="module")
def running(lasting_station):
    """One server and one worker for all tests of this file."""
    lasting_station.follow_script(*lasting_station.MAKE_VOICE)
    lasting_station.start_server()
    lasting_station.start_worker()
    return lasting_station


def wav(seconds: float, loudness: int = 0) -> bytes:
    """A tone of 1 kHz at 16 kHz, 16 bit, mono; silence when the loudness is 0."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(struct.pack("<16h", *[loudness] * 8, *[-loudness] * 8) * int(1000 * seconds))
    return made.getvalue()


def mp3(recording: Path) -> bytes:
    """A real recording as MP3."""
    made = io.BytesIO()
    with av.open(str(recording)) as source, av.open(made, "w", format="mp3") as target:
        stream = target.add_stream("mp3", rate=source.streams.audio[0].rate)
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return made.getvalue()


def put(station, name: str, body: bytes) -> str:
    """Upload raw bytes; the id of the dataset."""
    answer = station.http.put(f"/v1/datasets/{name}/content", content=body)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()["id"]


def settled(station, dataset_id: str):
    station.wait_until(lambda: station.client.dataset(dataset_id).status in {"ready", "invalid"}, "the report", 60)
    return station.client.dataset(dataset_id)


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("text.wav", b"these are words, not sounds\n" * 50, "text.wav"),
        ("short.wav", wav(0.2, 8000), "0.2"),
        ("silence.wav", wav(10), "0.0 s of sound"),
    ],
)
def test_recordings_of_which_no_voice_can_be_made_are_told_with_the_reason(running, name, body, words):
    dataset = settled(running, put(running, name, body))
    assert dataset.status == "invalid"
    assert words in dataset.reason
    with pytest.raises(ApiError, match="not usable") as caught:
        running.submit(dataset)
    assert caught.value.problem.status == 422


def test_a_job_submitted_before_the_report_fails_with_the_reports_reason(running):
    dataset_id = put(running, "silence.wav", wav(10))
    try:
        job = running.submit(running.client.dataset(dataset_id))
    except ApiError:  # the report was faster
        return
    job = running.wait_for(job, "failed")
    assert job.error.code == "invalid_dataset"
    assert not job.error.retryable


def zipped(*members: tuple[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize(
    "body",
    [b"", zipped(), zipped(("../../evil.wav", wav(3, 100))), zipped(("/etc/evil.wav", wav(3, 100))), zipped()[:10]],
    ids=["nothing", "empty zip", "zip with ..", "zip with an absolute name", "half a zip"],
)
def test_uploads_that_make_no_sense_are_refused_with_a_sentence(running, body):
    answer = running.http.put("/v1/datasets/odd/content", content=body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    assert "Traceback" not in answer.text
    assert "odd" not in [dataset.name for dataset in running.client.datasets()]


def test_a_truncated_mp3_is_read_as_far_as_it_goes(running, recording):
    whole = mp3(recording)
    dataset = settled(running, put(running, "cut.mp3", whole[: len(whole) // 2]))
    assert dataset.status == "ready"
    assert 3 < dataset.seconds < 5, "half of 7.7 s"


def test_one_bad_file_among_good_ones_does_not_spoil_the_dataset(running, recording):
    body = zipped(("good.flac", recording.read_bytes()), ("bad.mp3", b"ID3" + bytes(2000)))
    dataset = settled(running, put(running, "mixed", body))
    assert dataset.status == "ready"
    assert dataset.num_usable == 1
    errors = {file.name: file.error for file in running.client.dataset_report(dataset.id).files}
    assert errors["good.flac"] is None
    assert errors["bad.mp3"]


@pytest.mark.parametrize("name", ["Анна", "l'été d'\"or\"", "a b  c", "声", "50% #1 & more?", "pretrained_x"])
def test_names_in_any_script_go_the_whole_way(running, recording, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name} 1.flac").write_bytes(recording.read_bytes())
    dataset = running.upload(folder)
    assert dataset.name == name
    job = running.wait_for(running.submit(dataset, name=name), "succeeded", "failed")
    assert job.status == "succeeded"
    stem = re.sub('["?]', "_", name.replace("trained", "-train-ed"))  # as every file system can store it
    files = running.client.artifacts(job.id)
    assert {file.name for file in files if file.kind != "card"} == {f"{stem}.pth", f"{stem}.index"}
    for file in files:
        path = running.client.download_artifact(file, tmp_path / "out")
        assert path.stat().st_size == file.size


@pytest.mark.parametrize("name", ["", " ", "x" * 300, "bell\a", "two\nlines"])
def test_names_that_are_no_printable_text_are_refused(running, recording, name):
    dataset = running.upload(recording)
    body = {"name": name, "dataset_id": dataset.id}
    answer = running.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/name"
