"""Recordings of any format, those of a browser's microphone among them, become plain samples or a clear sentence."""

import av
import numpy as np
import pytest
import soundfile

from rvc_engine.conversion.decoding import decode_to_folder
from rvc_engine.conversion.messages import DECODED, SAMPLES, Decoded
from tests.engine.conversion.voices import RATE, glide


def write_webm(path, wave):
    """A recording as Chromium's MediaRecorder makes it: Opus in WebM, written as a stream without a length."""
    with path.open("wb") as file, av.open(_Unseekable(file), "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        samples = (np.repeat(wave, 3) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


class _Unseekable:
    def __init__(self, file):
        self.write = file.write


def decoded(source, folder, max_seconds=600.0):
    decode_to_folder(source, folder, max_seconds)
    return Decoded.model_validate_json((folder / DECODED).read_bytes())


@pytest.mark.parametrize("seconds", [0.2, 3.0])
def test_a_microphones_recording_becomes_samples(tmp_path, seconds):
    write_webm(tmp_path / "microphone", glide(seconds))
    result = decoded(tmp_path / "microphone", tmp_path)
    assert result.error is None
    samples = np.fromfile(tmp_path / SAMPLES, "<f4")
    assert len(samples) / RATE == pytest.approx(result.seconds) == pytest.approx(seconds, abs=0.05)
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize(
    ("wave", "words"),
    [
        (np.zeros(RATE, np.float32), "silent; check the microphone"),
        (glide(0.05), "only 0.05 s long"),
        (glide(4.0), "longer than the 0.05 minutes"),
    ],
)
def test_a_recording_that_is_silent_too_short_or_too_long_is_refused_with_a_sentence(tmp_path, wave, words):
    soundfile.write(tmp_path / "in.wav", wave, RATE)
    assert words in str(decoded(tmp_path / "in.wav", tmp_path, max_seconds=3.0).error)


@pytest.mark.parametrize("content", [b"", b"not sound at all", b"\x1aE\xdf\xa3" + b"\x00" * 500])
def test_a_broken_file_is_refused_with_a_sentence(tmp_path, content):
    (tmp_path / "in.webm").write_bytes(content)
    assert "the recording cannot be read" in str(decoded(tmp_path / "in.webm", tmp_path).error)


def test_a_cut_off_recording_is_read_as_far_as_it_goes(tmp_path):
    write_webm(tmp_path / "whole", glide(6.0))
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    result = decoded(tmp_path / "cut", tmp_path)
    assert result.error is None
    assert 1 < result.seconds < 5
