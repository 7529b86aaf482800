"""The report on a dataset: whether a job may use it, why not, and issues that may spoil the voice."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvc_engine.report.report import make_report, write_report
from tests.systems import proc

Voice = Callable[..., np.ndarray]
Save = Callable[..., Path]

SAMPLES = Path(__file__).parents[3] / "samples"


def test_a_usable_dataset_is_reported_file_by_file(dataset: Path, save: Save, voice: Voice, tmp_path: Path) -> None:
    save("a b's 声音.wav", np.concatenate([voice(3.0, peak=0.5), np.zeros(44_100, np.float32)]))
    save("c.flac", np.tile(voice(2.0, 48_000)[:, None], (1, 2)), 48_000)
    write_report(dataset, tmp_path / "out" / "report.json")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["usable"] is True
    assert report["reason"] is None
    assert report["num_files"] == report["num_usable"] == 2
    assert report["seconds"] == pytest.approx(6.0, abs=0.01)
    assert report["speech_seconds"] == pytest.approx(5.0, abs=0.1)
    assert report["silence_share"] == pytest.approx(1 / 6, abs=0.02)
    first, second = report["files"]
    assert first["name"] == "a b's 声音.wav"
    assert (first["sample_rate"], first["channels"], first["codec"]) == (44_100, 1, "pcm_16")
    assert first["peak"] == pytest.approx(np.abs(voice(3.0)).max(), abs=0.001)
    assert first["error"] is None
    assert (second["sample_rate"], second["channels"], second["codec"]) == (48_000, 2, "flac")
    assert report["warnings"] == ["only 0.1 minutes of speech; 10 minutes or more make a good voice"]


def test_a_text_file_named_wav_is_named_as_the_reason(dataset: Path) -> None:
    (dataset / "notes.wav").write_text("no sound")
    report = make_report(dataset)
    assert not report.usable
    assert report.reason is not None
    assert report.reason.startswith("none of the files can be read as audio: notes.wav: not audio")
    assert report.files[0].error is not None


@pytest.mark.parametrize(
    ("seconds", "peak", "reported"),
    [
        (0.2, 0.5, "the longest sound without a pause in the dataset is 0.2 s"),
        (30.0, 0.0, "the dataset has 0.0 s of sound"),
        (30.0, 1e-3, "the dataset has 0.0 s of sound"),
    ],
)
def test_too_little_sound_is_reported_with_the_number(
    dataset: Path, save: Save, voice: Voice, seconds: float, peak: float, reported: str
) -> None:
    save("a.wav", voice(seconds, peak=peak))
    report = make_report(dataset)
    assert not report.usable
    assert report.reason is not None
    assert report.reason.startswith(reported)
    assert "a good voice 10 minutes" in report.reason


def test_a_constant_offset_is_no_sound(dataset: Path, save: Save) -> None:
    save("a.wav", np.full(441_000, 0.3, np.float32))
    assert make_report(dataset).speech_seconds < 0.1  # the high-pass starts from silence, so the onset is a click


def test_an_empty_folder_and_a_missing_one_are_not_usable(dataset: Path) -> None:
    assert "holds no files" in str(make_report(dataset).reason)
    assert "no dataset folder" in str(make_report(dataset / "none").reason)


def test_unreadable_files_beside_good_ones_are_warnings(dataset: Path, save: Save, voice: Voice) -> None:
    save("a.wav", voice(2.0))
    save("quiet.wav", np.zeros(44_100, np.float32))
    for number in range(8):
        (dataset / f"b{number}.wav").write_bytes(b"")
    report = make_report(dataset)
    assert report.usable
    assert (report.num_files, report.num_usable) == (10, 1)
    (unreadable,) = [warning for warning in report.warnings if "unreadable" in warning]
    assert unreadable.startswith("8 files are unreadable: b0.wav (the file is empty), ")
    assert "and 3 more; they are left out" in unreadable
    assert any(warning.startswith("1 file is silent: quiet.wav; ") for warning in report.warnings)


def test_truncation_clipping_and_a_low_rate_are_warned_of(
    dataset: Path, save: Save, voice: Voice, encode: Callable[..., Path]
) -> None:
    path = encode(dataset / "cut.mp3", voice(6.0, 16_000), 16_000, "mp3", "libmp3lame")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    save("loud.wav", np.clip(voice(5.0, 16_000, peak=3.0), -1, 1), 16_000)
    report = make_report(dataset)
    cut, loud = report.files
    assert cut.error is None
    assert "cut off" in cut.notes[0]
    assert 2.5 < cut.seconds < 3.5
    assert loud.clipped_share > 0.3
    assert any("damaged: cut.mp3 (cut off" in warning for warning in report.warnings)
    assert any("clipped" in warning and "loud.wav" in warning for warning in report.warnings)
    assert any("recorded at 16 kHz" in warning for warning in report.warnings)


def test_damaged_samples_make_a_report_and_no_nan(dataset: Path, save: Save, voice: Voice, tmp_path: Path) -> None:
    sound = voice(2.0)
    sound[::100] = np.nan
    save("a.wav", sound, subtype="FLOAT")
    write_report(dataset, tmp_path / "report.json")
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_the_sample_voice_is_usable() -> None:
    report = make_report(SAMPLES)
    assert report.usable
    assert report.speech_seconds > 60
    assert [file.name for file in report.files if file.error] == [
        file.name for file in report.files if file.name.endswith(".md")
    ]


LIMITED_PROGRAM = """if True:
    import resource, sys
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    from pathlib import Path
    from rvc_engine.report.report import write_report
    write_report(Path(sys.argv[1]), Path(sys.argv[2]))
    # getrusage would count what the parent held.
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@proc
@pytest.mark.parametrize("minutes", [6, pytest.param(180, marks=pytest.mark.long)])
def test_a_long_recording_is_reported_within_tight_limits(
    dataset: Path, voice: Voice, tmp_path: Path, minutes: int
) -> None:
    minute = np.tile(np.concatenate([voice(50.0), np.zeros(441_000, np.float32)])[:, None], (1, 2))
    with soundfile.SoundFile(dataset / "long.flac", "w", 44_100, 2, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(minute)
    # As on a machine of many cores, where numpy's algebra library would take address space for each.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "16"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_PROGRAM, dataset, tmp_path / "report.json"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert int(done.stdout) < 200
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seconds"] == pytest.approx(60 * minutes)
    assert report["silence_share"] == pytest.approx(1 / 6, abs=0.01)
