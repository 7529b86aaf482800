"""Conversions with the client, a server, a worker and the real engine."""

import wave
from pathlib import Path
from typing import Any

import av
import pytest

SMALL = {
    "width": 24,
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "batch_size": 4,
    "evaluate": "never",
}


def seconds_of(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return float(sum(frame.samples for frame in container.decode(stream)) / stream.rate)


def silence(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000))


@pytest.mark.timeout(800)  # a training, and five conversions
def test_a_voice_is_tried_by_the_command_as_finished_as_a_save_and_on_a_folder(station: Any, tmp_path: Path) -> None:
    sample = station.samples / "confbridge-pin-bad.flac"
    station.start_server()
    unserved = station.cli("convert", str(sample), str(tmp_path / "out.wav"), "--voice", "anna")
    assert (unserved.returncode, "there is no finished voice 'anna'" in " ".join(unserved.stderr.split())) == (1, True)
    station.start_worker()
    dataset = station.upload(sample, name="anna")
    job = station.submit(dataset, name="anna", config=SMALL | {"total_epochs": 1})
    assert station.wait_for(job, "succeeded", "failed", seconds=600).status == "succeeded"

    options = ("--voice", "anna", "--pitch", "dio", "--pitch-shift", "auto")
    for save, name in (((), "out.flac"), (("--save", "latest"), "latest.opus")):
        done = station.cli("convert", str(sample), str(tmp_path / name), *options, *save)
        assert done.returncode == 0, done.stderr
        assert seconds_of(tmp_path / name) == pytest.approx(seconds_of(sample), abs=0.3)

    takes = tmp_path / "takes"
    takes.mkdir()
    (takes / "good.flac").write_bytes(sample.read_bytes())
    (takes / "broken.wav").write_bytes(b"RIFF and nothing else")
    silence(takes / "silent.wav")
    done = station.cli("convert", str(takes), str(tmp_path / "made"), *options, "--format", "mp3")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "broken.wav: " in done.stderr
    assert seconds_of(tmp_path / "made" / "good.mp3") == pytest.approx(seconds_of(sample), abs=0.3)
    newest = next(iter(station.client.conversions.list()))
    assert (newest.status, newest.device) == ("succeeded", "cpu")
    assert newest.results[0].error or newest.results[0].sha256
    station.client.delete_job(job.id)
    assert list(station.client.conversions.list()) == []
    assert not list((station.folder / "data" / "conversions").iterdir())
