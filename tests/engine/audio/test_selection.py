"""The parts of a recording that are kept: report and slicing apply one rule, and count each second that is dropped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import scipy.signal
import soundfile

from rvc_engine.audio import slicing
from rvc_engine.audio.high_pass import (
    HIGH_PASS_HZ,
    HIGH_PASS_ORDER,
    SAMPLE_RATE,
    HighPass,
)
from rvc_engine.audio.reading import open_audio, read_mono
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset
from rvc_engine.report.report import DatasetReport, make_report
from rvc_engine.workspace.layout import Workspace
from tests.systems import links

Sound = np.ndarray
Save = Callable[..., Path]
RATE = 44_100


@pytest.fixture(scope="module")
def speech() -> Sound:
    """20 s of sound with pauses of 0.7 s, peak 0.5, (num_samples,)."""
    rng, parts = np.random.default_rng(3), []
    for number in range(8):
        times = np.arange(int((1.2 + 0.2 * number) * RATE)) / RATE
        tone = np.sin(2 * np.pi * 150 * (1 + 0.1 * number) * times) + 0.3 * np.sin(2 * np.pi * 900 * times)
        parts += [tone / 1.3, np.zeros(int(0.7 * RATE))]
    sound = np.concatenate(parts)
    return (0.5 * sound + 1e-4 * rng.standard_normal(len(sound))).astype(np.float32)


@pytest.fixture
def both(
    dataset: Path, workspace: Workspace, listener: Any
) -> Callable[[], tuple[DatasetReport, slicing.SlicingSummary]]:
    """both(): the report and the result of slicing, which agree about every recording."""

    def make() -> tuple[DatasetReport, slicing.SlicingSummary]:
        report = make_report(dataset)
        summary = slicing.run(dataset, workspace, TrainingConfig(), listener.report("slice"))
        assert report.usable, report.reason
        for file, sliced in zip(report.files, summary.recordings, strict=True):
            assert file.kept_seconds == pytest.approx(sliced.kept_seconds, abs=0.05)
            assert file.dropped_seconds.keys() == sliced.dropped_seconds.keys()
            for reason, seconds in sliced.dropped_seconds.items():
                assert file.dropped_seconds[reason] == pytest.approx(seconds, abs=0.05), reason
            if file.error is None:
                total = file.kept_seconds + sum(file.dropped_seconds.values())
                lost = file.dropped_seconds.get("unreadable", 0)
                assert total - lost == pytest.approx(file.seconds, abs=0.02)
        return report, summary

    return make


def codes(report: DatasetReport) -> dict[str, Any]:
    return {finding.code: finding for finding in report.findings}


def slice_of(workspace: Workspace, name: str) -> Sound:
    return soundfile.read(workspace.slices / name, dtype="float32")[0]


@pytest.mark.parametrize(
    ("factor", "subtype"), [(4.0, "FLOAT"), (2.0**15, "FLOAT"), (2.0**23, "FLOAT"), (2.0**31, "DOUBLE")]
)
def test_recordings_over_full_scale_give_the_slices_of_the_same_at_full_scale(
    both: Any, save: Save, speech: Sound, workspace: Workspace, listener: Any, factor: float, subtype: str
) -> None:
    save("loud.wav", speech * np.float32(factor), subtype=subtype)
    save("normal.wav", speech / np.abs(speech).max(), subtype="FLOAT")
    report, summary = both()
    loud, normal = summary.recordings
    assert loud.slice_seconds == normal.slice_seconds
    assert loud.kept_seconds == normal.kept_seconds
    np.testing.assert_allclose(slice_of(workspace, "0_3.wav"), slice_of(workspace, "1_3.wav"), atol=1e-5)
    decibels = 20 * np.log10(np.abs(speech).max() * factor)
    assert report.files[0].over_full_scale_db == pytest.approx(decibels, abs=0.1)
    assert f"loud.wav (+{decibels:.1f} dB)" in codes(report)["over_full_scale"].message
    assert f"loud.wav: {decibels:.1f} dB over full scale" in listener.log
    assert report.files[0].clipped_share == 0
    assert report.files[0].speech_db == pytest.approx(report.files[1].speech_db, abs=0.2)


def test_a_recording_of_which_a_part_is_raised_is_scaled_as_a_whole(both: Any, save: Save, speech: Sound) -> None:
    raised = speech.copy()
    raised[: len(raised) // 2] *= 6.2
    save("a.wav", raised, subtype="FLOAT")
    save("b.wav", speech)
    _, summary = both()
    assert summary.recordings[0].kept_seconds == pytest.approx(summary.recordings[1].kept_seconds, abs=1)


def test_a_lossy_recording_that_decodes_a_little_over_full_scale_is_left_as_it_is(
    both: Any, save: Save, speech: Sound
) -> None:
    save("a.ogg", np.clip(speech * 2.6, -1, 1))
    report, _ = both()
    assert 1 < report.files[0].peak < 2
    assert report.files[0].remarks == []
    assert report.files[0].clipped_share > 0.001


def test_a_click_does_not_silence_the_recording_and_its_piece_is_counted_as_too_loud(
    both: Any, save: Save, speech: Sound, listener: Any
) -> None:
    clicked = speech.copy()
    clicked[RATE // 2] = 500
    save("a.wav", clicked, subtype="FLOAT")
    save("b.wav", speech, subtype="FLOAT")
    report, summary = both()
    clicked_file, whole = summary.recordings
    assert 0.5 < clicked_file.dropped_seconds["too_loud"] < 4
    assert clicked_file.kept_seconds > whole.kept_seconds - 4
    assert "a.wav (" in codes(report)["dropped"].message
    assert "s too loud" in codes(report)["dropped"].message
    assert any(warning.startswith("of all recordings") and "too loud" in warning for warning in listener.warnings)
    assert f"a.wav: {clicked_file.kept_seconds:.1f} s are kept; dropped: " in listener.log


@pytest.mark.parametrize("container", ["wav", "mka"])
def test_samples_that_are_no_numbers_are_counted_and_named(
    both: Any, dataset: Path, speech: Sound, workspace: Workspace, container: str
) -> None:
    broken = speech.copy()
    broken[5 * RATE : 9 * RATE] = np.nan
    if container == "wav":
        soundfile.write(dataset / "a.wav", broken, RATE, subtype="FLOAT")
    else:
        with av.open(str(dataset / "a.mka"), "w", format="matroska") as file:
            stream = file.add_stream("pcm_f32le", rate=RATE, layout="mono")
            for start in range(0, len(broken), 4096):
                frame = av.AudioFrame.from_ndarray(broken[None, start : start + 4096], format="flt", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    report, summary = both()
    assert summary.recordings[0].dropped_seconds["not_a_number"] == pytest.approx(3.2, abs=0.8)  # 0.5 s of each pause
    assert "4.0 s are not numbers" in report.files[0].notes[0]
    result = json.loads(workspace.slicing_result.read_text())
    assert result["recordings"][0]["dropped_seconds"] == summary.recordings[0].dropped_seconds
    assert result["dropped_seconds"]["not_a_number"] > 0


def test_time_that_a_cut_off_file_has_lost_is_counted(
    both: Any, dataset: Path, speech: Sound, encode: Callable[..., Path]
) -> None:
    path = encode(dataset / "a.mp3", speech, RATE, "mp3", "libmp3lame")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, summary = both()
    assert summary.dropped_seconds["unreadable"] == pytest.approx(len(speech) / RATE / 2, abs=1)


@links
def test_files_that_are_left_out_are_named_in_report_log_and_result(
    both: Any, save: Save, speech: Sound, dataset: Path, workspace: Workspace, listener: Any
) -> None:
    save("a.wav", speech)
    (dataset / "words.txt").touch()
    (dataset / "gone.wav").symlink_to(dataset / "nowhere.wav")
    report, _ = both()
    expected = {"gone.wav": "a link to nothing", "words.txt": "a text, a document or subtitles"}
    assert {other.name: other.reason for other in report.left_out} == expected
    assert "left out of the dataset: 'gone.wav' (a link to nothing), 'words.txt' (a text" in "".join(listener.log)
    result = json.loads(workspace.slicing_result.read_text())
    assert {other["name"]: other["reason"] for other in result["left_out"]} == expected


def test_crumbs_beside_so_little_that_is_kept_are_not_usable(dataset: Path, save: Save, speech: Sound) -> None:
    for number in range(10):
        save(f"{number}.wav", speech[5000:][: int((0.45 if number == 0 else 0.3) * RATE)])
    report = make_report(dataset)
    assert not report.usable
    assert (report.num_usable, report.kept_seconds) == (1, pytest.approx(0.45, abs=0.02))
    assert "2.7 s more are in sounds shorter than 0.4 s" in str(report.reason)
    assert "1.wav: all of its sound is shorter than 0.4 s" in str(report.reason)


def test_crumbs_are_refused_by_the_report_with_the_words_of_slicing(
    dataset: Path, save: Save, voice: Callable[..., Sound], workspace: Workspace, listener: Any
) -> None:
    for number in range(5):
        save(f"{number}.wav", voice(0.3))
    report = make_report(dataset)
    assert not report.usable
    assert "the longest sound without a pause in the dataset is 0.3 s" in str(report.reason)
    with pytest.raises(InvalidDataset) as raised:
        slicing.run(dataset, workspace, TrainingConfig(), listener.report("slice"))
    assert str(raised.value) == report.reason


def test_crumbs_beside_a_long_recording_are_counted_as_too_short(
    both: Any, save: Save, voice: Callable[..., Sound], speech: Sound
) -> None:
    save("long.wav", speech)
    for number in range(9):
        save(f"{number}.wav", voice(0.3))
    report, summary = both()
    assert summary.dropped_seconds["too_short"] == pytest.approx(2.7, abs=0.1)
    assert codes(report)["too_short"].severity == "warning"
    assert "0.wav (0.30 s)" in codes(report)["too_short"].message


def test_an_inverted_channel_gives_the_slices_of_the_voice(
    both: Any, save: Save, speech: Sound, workspace: Workspace, listener: Any
) -> None:
    save("inverted.wav", np.stack([speech, -speech], axis=1))
    save("weaker.wav", np.stack([speech, -0.5 * speech], axis=1))
    save("zzz.wav", speech)
    report, summary = both()
    assert [each.kept_seconds for each in summary.recordings] == pytest.approx(
        [summary.recordings[2].kept_seconds] * 3, abs=0.3
    )
    np.testing.assert_allclose(slice_of(workspace, "0_0.wav"), slice_of(workspace, "2_0.wav"), atol=1e-4)
    assert codes(report)["opposite_phase"].files == ["inverted.wav", "weaker.wav"]
    assert "inverted.wav: its two channels are of opposite phase" in listener.log


@pytest.mark.parametrize("kind", ["same", "one-sided", "wide", "offset"])
def test_ordinary_stereo_stays_the_mean_of_its_channels(tmp_path: Path, speech: Sound, kind: str) -> None:
    other = {
        "same": speech,
        "one-sided": np.zeros_like(speech),
        "wide": np.roll(speech, 30) - 0.2 * speech,
        "offset": 0.1 - 0.05 * np.roll(speech, 4000),
    }[kind]
    stereo = np.stack([speech, other], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_mono(tmp_path / "a.wav", RATE), (stereo[:, 0] + stereo[:, 1]) / np.float32(2))


@pytest.mark.parametrize(("channels", "format"), [(6, "WAV"), (6, "WAVEX"), (8, "WAV"), (6, "FLAC")])
def test_a_voice_in_the_centre_of_a_film_is_kept_in_full(
    both: Any, save: Save, dataset: Path, speech: Sound, channels: int, format: str
) -> None:
    film = 1e-5 * np.random.default_rng(1).standard_normal((len(speech), channels))
    film[:, 2] = speech * 0.08  # -28 dB
    soundfile.write(dataset / "film.wav", film, RATE, format=format, subtype="PCM_16")
    save("mono.wav", speech * np.float32(0.08))
    report, summary = both()
    film_file, mono = summary.recordings
    assert film_file.kept_seconds == pytest.approx(mono.kept_seconds, abs=1.5)  # the dither differs, so do the cuts
    assert len(film_file.slice_seconds) == len(mono.slice_seconds)
    assert codes(report)["surround"].files == ["film.wav"]


def test_a_loud_film_does_not_exceed_full_scale_when_its_channels_are_summed(
    both: Any, dataset: Path, speech: Sound
) -> None:
    soundfile.write(dataset / "film.wav", np.tile(1.8 * speech[:, None], (1, 6)), RATE, subtype="PCM_16")
    report, summary = both()
    assert "too_loud" not in summary.dropped_seconds
    assert np.abs(read_mono(dataset / "film.wav", RATE)).max() == pytest.approx(1, abs=0.01)
    assert report.files[0].over_full_scale_db == 0


@pytest.mark.parametrize("gains", [(1, -0.9), (1, -1, 0), (1, -1, 0, 0)])
def test_of_channels_whose_mix_loses_the_sound_the_loudest_is_used(
    both: Any, save: Save, speech: Sound, gains: tuple[float, ...]
) -> None:
    sound = speech[:, None] * np.array(gains)
    if len(gains) == 2:  # the second channel is inverted in the second half only
        sound[: len(sound) // 2, 1] *= -1
    save("many.wav", sound, subtype="PCM_16")
    report, summary = both()
    assert summary.kept_seconds > 15
    assert f"a mix of its {len(gains)} channels would lose much of the sound" in report.files[0].remarks[0]
    assert "surround" not in codes(report)


@pytest.mark.parametrize("channels", [16, pytest.param(41, marks=pytest.mark.long)])
def test_many_channels_that_sound_in_turns_are_summed(both: Any, save: Save, speech: Sound, channels: int) -> None:
    turns = np.arange(len(speech)) * channels // len(speech)
    save("turns.wav", 0.5 * speech[:, None] * (turns[:, None] == np.arange(channels)), subtype="PCM_16")
    save("last.wav", 0.5 * speech[:, None] * (np.arange(channels) == channels - 1), subtype="PCM_16")
    report, summary = both()
    assert min(each.kept_seconds for each in summary.recordings) > 15
    assert f"its {channels} channels are summed" in report.files[1].remarks[0]
    assert "surround" not in codes(report)


def test_a_film_longer_than_its_sound_is_not_cut_off(tmp_path: Path, speech: Sound) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=5, width=64, height=64)
        sound = file.add_stream("flac", rate=RATE, layout="mono")
        for number in range(200):  # 40 s
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8))
            frame.pts = number
            file.mux(picture.encode(frame))
        rows = (speech[None, : 5 * RATE] * 32767).astype(np.int16)
        for start in range(0, rows.shape[1], 4096):
            part = av.AudioFrame.from_ndarray(rows[:, start : start + 4096], format="s16", layout="mono")
            part.sample_rate, part.pts = RATE, start
            file.mux(sound.encode(part))
        file.mux(picture.encode(None))
        file.mux(sound.encode(None))
    with open_audio(path) as stream:
        assert sum(map(len, stream.mono(RATE))) / RATE == pytest.approx(5, abs=0.1)
    assert stream.notes == []


def test_the_high_pass_of_the_report_is_that_of_slicing() -> None:
    coefficients = scipy.signal.butter(HIGH_PASS_ORDER, HIGH_PASS_HZ, btype="high", fs=SAMPLE_RATE)
    sound = 0.3 + 0.1 * np.random.default_rng(0).standard_normal(200_000)
    sound[120_000:150_000] = 0
    streaming = HighPass()
    parts = [filtered for part in np.split(sound, [1, 5000, 5000, 80_000]) for filtered in streaming.add(part)]
    filtered = np.concatenate([*parts, streaming.finish()])
    np.testing.assert_allclose(filtered, scipy.signal.lfilter(*coefficients, sound), atol=1e-5)
    assert 0 < np.abs(filtered[149_000:150_000]).max() < 1e-20
