"""Formats of converted speech: each holds the same sound at the same place."""

import numpy as np
import pytest
import soundfile

from rvc_engine.audio.reading import read_mono
from rvc_engine.conversion.formats import write_audio
from tests.engine.conversion.voices import RATE, glide


@pytest.mark.parametrize(
    ("suffix", "rate", "most_bytes"),
    [("wav", 40_000, 300_000), ("flac", 40_000, 200_000), ("mp3", 48_000, 90_000), ("opus", 48_000, 60_000)],
)
def test_a_format_holds_the_sound_that_was_written(tmp_path, suffix, rate, most_bytes):
    wave = glide(3.0, 200, 300)
    samples = (np.interp(np.arange(120_000) / 40_000, np.arange(len(wave)) / RATE, wave) * 32767).astype(np.int16)
    target = tmp_path / "new folder" / f"out.{suffix}"
    write_audio(target, samples, 40_000)
    assert soundfile.info(target).samplerate == rate
    assert target.stat().st_size < most_bytes
    read = read_mono(target, RATE)
    assert len(read) == pytest.approx(len(wave), abs=0.1 * RATE)
    middle = slice(RATE, 2 * RATE)
    lags = range(-1500, 1500, 10)
    near = max(float(np.corrcoef(wave[middle], read[RATE + lag : 2 * RATE + lag])[0, 1]) for lag in lags)
    assert near > 0.95
    assert [path.name for path in target.parent.iterdir()] == [target.name]
