"""Noise, rooms, bandwidth and copies are detected in real speech that they were added to, but not in clean speech."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from numpy.typing import NDArray

from rvc_engine.audio.reading import read_mono
from rvc_engine.report.audio_quality import AudioQuality, AudioQualityMeter, reverberation_seconds
from rvc_engine.report.duplicates import MIN_CORRELATION, correlation
from rvc_engine.report.issues import Finding
from rvc_engine.report.report import DatasetReport, make_report

Sound = NDArray[np.float32]
Save = Callable[..., Path]
SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.flac"))
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> Sound:
    """Half a minute of one voice, clean and dry, at 16 kHz."""
    return np.concatenate([read_mono(path, RATE) for path in SAMPLES])[: 35 * RATE]


def measured(sound: Sound, rate: int = RATE) -> AudioQuality:
    meter = AudioQualityMeter()
    for start in range(0, len(sound), 50_000):
        meter.add(sound[start : start + 50_000].astype(np.float32), rate)
    return meter.result()


def with_noise(sound: Sound, snr_db: float, speech_db: float) -> Sound:
    noise = np.random.default_rng(1).standard_normal(len(sound)) * 10 ** ((speech_db - snr_db) / 20)
    return (sound + noise).astype(np.float32)


def in_a_room(sound: Sound, t60: float, direct: float = 1.0) -> Sound:
    """Convolved with an exponential tail of `t60` seconds, after the direct sound."""
    times = np.arange(round(1.2 * t60 * RATE)) / RATE
    tail = np.random.default_rng(2).standard_normal(len(times)) * 10 ** (-3 * times / t60)
    tail /= np.sqrt((tail**2).sum())
    tail[0] += direct
    wet = scipy.signal.fftconvolve(sound, tail)
    return (0.5 * wet / np.abs(wet).max()).astype(np.float32)


def findings(report: DatasetReport) -> dict[str, Finding]:
    return {finding.code: finding for finding in report.findings}


@pytest.mark.parametrize("snr_db", [5, 10, 20, 30])
def test_noise_of_known_strength_is_estimated_within_3_db(speech: Sound, snr_db: float) -> None:
    clean = measured(speech)
    assert clean.speech_db is not None
    noisy = measured(with_noise(speech, snr_db, clean.speech_db))
    assert noisy.snr_db == pytest.approx(snr_db, abs=3)
    assert noisy.noise_db == pytest.approx(clean.speech_db - snr_db, abs=2)


def test_pauses_of_digital_silence_do_not_hide_noise(speech: Sound) -> None:
    noisy = with_noise(speech, 15, -20)
    gaps = np.concatenate([np.concatenate([part, np.zeros(RATE, np.float32)]) for part in np.split(noisy, 7)])
    assert measured(gaps).noise_db == pytest.approx(-35, abs=2)


def test_a_room_of_0_8_s_is_detected_and_dry_speech_is_not_called_reverberant(speech: Sound) -> None:
    dry, wet = (
        reverberation_seconds(measured(speech).decays),
        reverberation_seconds(measured(in_a_room(speech, 0.8)).decays),
    )
    assert dry is not None
    assert wet is not None
    assert dry < 0.4
    assert 0.6 < wet < 1.0


def test_noise_is_not_taken_for_a_room(speech: Sound) -> None:
    seconds = reverberation_seconds(measured(with_noise(speech, 15, -20)).decays)
    assert seconds is None or seconds < 0.4


def test_the_bandwidth_is_that_of_the_recording_whatever_the_sample_rate_of_the_file(speech: Sound) -> None:
    raised = soxr.resample(speech, RATE, 48_000).astype(np.float32)
    assert measured(raised, 48_000).bandwidth_hz == pytest.approx(8000, abs=400)
    hiss = raised + np.random.default_rng(3).standard_normal(len(raised)).astype(np.float32) * 1e-3
    bandwidth = measured(hiss, 48_000).bandwidth_hz
    assert bandwidth is not None
    assert bandwidth > 20_000


def test_an_encoded_and_scaled_copy_is_recognized_and_another_sentence_is_not(
    speech: Sound, encode: Callable[..., Path], tmp_path: Path
) -> None:
    take, other = speech[: 5 * RATE], speech[5 * RATE : 10 * RATE]
    coded = read_mono(encode(tmp_path / "a.mp3", 0.4 * take, RATE, "mp3", "libmp3lame"), RATE)
    fingerprint = measured(take).fingerprint
    assert correlation(fingerprint, measured(coded).fingerprint) > MIN_CORRELATION
    assert correlation(fingerprint, measured(other).fingerprint) < 0.8


def test_each_fault_is_reported_with_advice(dataset: Path, save: Save, speech: Sound) -> None:
    parts = np.split(speech, 5)
    for number, part in enumerate(parts):
        save(f"{number}.wav", part, RATE)
    save("same.flac", parts[0], RATE)
    save("louder.wav", (np.clip(3 * parts[1], -0.6, 0.6)).astype(np.float32), RATE)
    save("tiny.wav", parts[2][:3000], RATE)
    found = findings(report := make_report(dataset))
    assert found["duplicates"].files == ["0.wav", "same.flac"]
    assert found["clipped"].files == ["louder.wav"]
    assert found["clipped"].values["worst_share"] > 0.001
    assert found["too_short"].files == ["tiny.wav"]
    assert found["low_sample_rate"].values == {"highest_rate": RATE}
    assert report.sample_rates == {"16000": pytest.approx(7 * 7 + 0.19, abs=0.1)}
    assert {"noisy", "reverberant", "several_speakers", "near_duplicates"}.isdisjoint(found)
    assert all(finding.advice and finding.message for finding in report.findings)
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, reverse=True)  # warnings before infos


def test_noise_reverberation_and_a_low_bandwidth_are_found_in_a_dataset(dataset: Path, speech: Sound) -> None:
    wet = in_a_room(speech, 0.8)
    for name, sound in (("room", wet), ("noise", with_noise(wet, 10, -20))):
        (dataset / name).mkdir()
        raised = soxr.resample(sound, RATE, 48_000)
        soundfile.write(dataset / name / f"{name}.wav", raised, 48_000)
    room, noise = findings(make_report(dataset / "room")), findings(make_report(dataset / "noise"))
    assert room["reverberant"].values["reverberation_seconds"] == pytest.approx(0.8, abs=0.2)
    assert "encoded at about 16 kHz" in room["low_bandwidth"].message
    assert "sample_rate=32k loses nothing" in room["low_bandwidth"].advice
    assert noise["noisy"].severity == "warning"
    assert "noisy" not in room


def test_a_dataset_of_two_voices_is_reported_with_the_files_of_the_smaller(dataset: Path, save: Save) -> None:
    for path in SAMPLES:
        sound, rate = soundfile.read(path, dtype="float32")
        save(f"her {path.stem}.wav", sound, rate)
    assert "several_speakers" not in findings(make_report(dataset))
    for path in SAMPLES[:12]:  # played slower, she is another
        sound, rate = soundfile.read(path, dtype="float32")
        save(f"him {path.stem}.wav", sound, round(0.62 * rate))
    finding = findings(make_report(dataset))["several_speakers"]
    assert finding.severity == "warning"
    assert "suspected" in finding.message
    assert finding.files
    assert sum(name.startswith("him") for name in finding.files) >= 0.9 * len(finding.files)
