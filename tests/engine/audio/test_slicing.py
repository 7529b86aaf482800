"""The slicing stage: recordings in, training slices out, and warnings for recordings that cannot be used."""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rvc_engine.audio import slicing
from rvc_engine.audio.slicing import SlicingSummary
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import DiskFull, InvalidDataset, StopRequested
from rvc_engine.workspace.layout import Workspace
from tests.systems import full_device, proc

Voice = Callable[..., np.ndarray]
Save = Callable[..., Path]

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture
def run(dataset: Path, workspace: Workspace, listener: Any) -> Callable[..., SlicingSummary]:
    """run(**config): the stage on the dataset."""
    return lambda **config: slicing.run(dataset, workspace, TrainingConfig(**config), listener.report("slice"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_recording_becomes_levelled_slices_at_both_rates(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    save("a.wav", voice(9.0, peak=0.2))
    summary = run()
    assert names(workspace.slices) == names(workspace.slices_16k) == ["0_0.wav", "0_1.wav", "0_2.wav"]
    assert summary.num_slices == 3
    assert summary.seconds == pytest.approx(9.0 + 2 * 0.3, abs=0.001)
    lengths = []
    for name in names(workspace.slices):
        sound, rate = soundfile.read(workspace.slices / name, dtype="float32")
        assert rate == 40_000
        assert soundfile.info(workspace.slices / name).subtype == "FLOAT"
        # The level rule on a peak near 0.2: 0.675 + 0.25 * 0.2.
        assert np.abs(sound).max() == pytest.approx(0.725, abs=0.02)
        small, rate = soundfile.read(workspace.slices_16k / name, dtype="float32")
        assert rate == 16_000
        assert len(small) == pytest.approx(len(sound) * 0.4, abs=1)
        lengths.append(len(sound))
    assert lengths == [148_000, 148_000, 9 * 40_000 - 2 * 136_000]


def test_fixed_lengths_cut_through_pauses_and_only_wholly_silent_clips_are_dropped(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    pause, silence = np.zeros(round(0.8 * 44_100)), np.zeros(6 * 44_100)
    save("a.wav", np.concatenate([voice(1.0), pause, voice(3.2), silence]))  # 11 s
    summary = run(slicing="fixed", slice_seconds=2.0, slice_overlap_seconds=0.5)
    [recording] = summary.recordings
    assert recording.slice_seconds == (2.0, 2.0, 2.0, 2.0)  # from 0, 1.5, 3.0 and 4.5 s; those from 6 s on are silent
    assert names(workspace.slices) == ["0_0.wav", "0_1.wav", "0_2.wav", "0_3.wav"]
    assert summary.kept_seconds + summary.dropped_seconds["silent"] == pytest.approx(11.0, abs=0.02)


def test_recordings_that_were_cut_before_are_clips_as_they_are(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    pause = np.zeros(round(0.8 * 44_100))
    save("a.wav", np.concatenate([voice(2.0), pause, voice(6.2)]))
    save("b.wav", voice(1.5))
    summary = run(slicing="none")
    assert [recording.slice_seconds for recording in summary.recordings] == [(9.0,), (1.5,)]
    save("c.wav", voice(15.5))
    with pytest.raises(InvalidDataset, match=r"c\.wav is 15\.5 s long.*use slicing=auto, or cut it"):
        run(slicing="none")


@pytest.mark.parametrize("slicing_way", ["auto", "fixed", "none"])
def test_without_normalization_clips_keep_their_loudness(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace, slicing_way: str
) -> None:
    save("a.wav", voice(3.0, peak=0.2))
    save("b.wav", voice(3.0, peak=0.8))
    run(slicing=slicing_way, normalize=False)
    peaks = [np.abs(soundfile.read(workspace.slices / name)[0]).max() for name in ("0_0.wav", "1_0.wav")]
    assert peaks[1] / peaks[0] == pytest.approx(4.0, rel=0.001)
    assert peaks[0] == pytest.approx(0.2, rel=0.2)  # the high-pass shifts the harmonics


def test_the_defaults_of_cutting_leave_stage_results_of_before_valid() -> None:
    def parts(**fields: object) -> list[object]:
        return slicing.fingerprint_parts(TrainingConfig.model_validate(fields))

    assert parts() == ["40k"]
    different = [parts(), parts(slicing="fixed"), parts(slicing="fixed", slice_seconds=2.0), parts(slicing="none")]
    different.append(parts(normalize=False))
    assert len({str(each) for each in different}) == len(different)


@pytest.mark.parametrize("way", ["auto", "none"])
def test_lengths_of_clips_without_fixed_lengths_are_refused(way: str) -> None:
    with pytest.raises(ValueError, match="slice_seconds and slice_overlap_seconds are for slicing=fixed"):
        TrainingConfig.model_validate({"slicing": way, "slice_seconds": 5.0})


def test_an_overlap_of_more_than_half_a_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="slice_overlap_seconds=2 is more than half of slice_seconds=3"):
        TrainingConfig(slicing="fixed", slice_overlap_seconds=2.0)


@pytest.mark.parametrize(("sample_rate", "hz"), [("32k", 32_000), ("48k", 48_000)])
def test_slices_have_the_rate_of_the_voice(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace, sample_rate: str, hz: int
) -> None:
    save("a.flac", voice(5.0, 8_000), 8_000)
    run(sample_rate=sample_rate)
    assert soundfile.info(workspace.slices / "0_0.wav").samplerate == hz
    assert soundfile.info(workspace.slices / "0_0.wav").frames == round(3.7 * hz)


def test_recordings_are_numbered_by_name_and_one_that_is_no_audio_does_not_stop_the_rest(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, dataset: Path, workspace: Workspace, listener: Any
) -> None:
    save('c "quoted" it\'s 声音.ogg', voice(1.0))
    save("a صوت.wav", np.tile(voice(1.0)[:, None], (1, 2)))
    (dataset / "b.wav").write_text("no sound at all")
    (dataset / "d.wav").write_bytes(b"")
    save("e.flac", np.zeros(44_100, np.float32))
    summary = run()
    assert names(workspace.slices) == ["0_0.wav", "2_0.wav"]
    reasons = {recording.name: recording.reason for recording in summary.recordings}
    assert [name for name, reason in reasons.items() if reason is None] == ["a صوت.wav", 'c "quoted" it\'s 声音.ogg']
    assert len(listener.warnings) == 3
    assert listener.warnings[0].startswith("b.wav: left out: not audio")
    assert listener.warnings[1] == "d.wav: left out: the file is empty"
    assert "e.flac: left out: nothing in it is louder than -42 dB" in listener.warnings[2]


def test_a_truncated_recording_is_used_as_far_as_it_goes(
    run: Callable[..., SlicingSummary], voice: Voice, encode: Callable[..., Path], dataset: Path, listener: Any
) -> None:
    path = encode(dataset / "a.mp3", voice(6.0), 44_100, "mp3", "libmp3lame")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 2.5 < run().seconds < 3.5
    assert "a.mp3: cut off" in listener.warnings[0]


def test_nothing_usable_is_an_invalid_dataset_with_every_reason(
    run: Callable[..., SlicingSummary], dataset: Path
) -> None:
    (dataset / "a.wav").write_text("no sound")
    (dataset / "b.wav").write_bytes(b"")
    with pytest.raises(InvalidDataset, match=r"none of the files.*a\.wav: not audio.*; b\.wav: the file is empty"):
        run()


def test_the_reasons_of_many_files_stay_readable(run: Callable[..., SlicingSummary], dataset: Path) -> None:
    for number in range(50):
        (dataset / f"{number}.wav").write_text("no sound")
    with pytest.raises(InvalidDataset, match="and 40 more") as raised:
        run()
    assert len(str(raised.value)) < 2000


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_silence_and_mere_noise_are_an_invalid_dataset(
    run: Callable[..., SlicingSummary], save: Save, level: float
) -> None:
    save("a.wav", (level * np.random.default_rng(0).standard_normal(441_000)).astype(np.float32))
    with pytest.raises(InvalidDataset, match=r"a\.wav: nothing in it is louder than -42 dB"):
        run()


def test_a_fifth_of_a_second_is_an_invalid_dataset(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice
) -> None:
    save("a.wav", voice(0.2))
    with pytest.raises(InvalidDataset, match=r"pause in the dataset is 0\.2 s; training needs at least 0.4 s"):
        run()


def test_sound_far_beyond_full_scale_is_scaled_and_reported_by_name_and_factor(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace, listener: Any
) -> None:
    save("a.wav", voice(1.0, peak=4.0), subtype="FLOAT")
    save("b.wav", voice(1.0, peak=1.2), subtype="FLOAT")
    run()
    assert names(workspace.slices) == ["0_0.wav", "1_0.wav"]
    for name, peak in (("a.wav", 4.0), ("b.wav", 1.2)):
        decibels = 20 * np.log10(np.abs(voice(1.0, peak=peak)).max())
        assert f"{name}: {decibels:.1f} dB over full scale" in listener.log


def test_rumble_below_the_voice_is_taken_away(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    rumble = 0.4 * np.sin(2 * np.pi * 10 * np.arange(88_200) / 44_100) + 0.1
    save("a.wav", (voice(2.0, hz=300, peak=0.3) + rumble).astype(np.float32))
    run()
    sound, _ = soundfile.read(workspace.slices / "0_0.wav")
    spectrum = np.abs(np.fft.rfft(sound[40_000:])) ** 2
    assert spectrum[:30].sum() < 1e-3 * spectrum.sum()


def test_slices_of_an_earlier_run_are_gone(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    for folder in (workspace.slices, workspace.slices_16k):
        folder.mkdir()
        (folder / "7_7.wav").write_bytes(b"stale")
    save("a.wav", voice(1.0))
    run()
    assert names(workspace.slices) == names(workspace.slices_16k) == ["0_0.wav"]


def test_the_same_recordings_give_the_same_bytes(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace
) -> None:
    save("a.wav", voice(5.0))
    run()
    first = [(workspace.slices / name).read_bytes() for name in names(workspace.slices)]
    run()
    assert first == [(workspace.slices / name).read_bytes() for name in names(workspace.slices)]


def test_progress_rises_to_one_and_nothing_is_left_but_slices_and_their_result(
    run: Callable[..., SlicingSummary],
    save: Save,
    voice: Voice,
    workspace: Workspace,
    listener: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rvc_engine.reporting.SECONDS_BETWEEN_PROGRESS", 0)
    for number in range(3):
        save(f"{number}.wav", voice(20.0))
    run()
    assert listener.progress == sorted(listener.progress)
    assert listener.progress.count(1.0) == 1
    assert len(listener.progress) > 20
    assert names(workspace.root) == ["0_gt_wavs", "1_16k_wavs", "slicing"]


def test_a_stop_takes_effect_inside_a_long_recording(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, workspace: Workspace, listener: Any
) -> None:
    save("a.wav", voice(120.0))
    asked = iter(range(10**6))
    listener.report = lambda stage: slicing.StageReport(stage, listener.events.append, lambda: next(asked) > 3)
    with pytest.raises(StopRequested):
        run()
    assert not names(workspace.slices)


@full_device
def test_a_full_disk_is_an_error_of_its_own(
    run: Callable[..., SlicingSummary], save: Save, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.wav", voice(5.0))
    full_disk = functools.partial(open, "/dev/full", "w+b", buffering=0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full_disk())
    with pytest.raises(DiskFull, match="free some space"):
        run()


def test_a_folder_without_files_is_an_invalid_dataset(run: Callable[..., SlicingSummary]) -> None:
    with pytest.raises(InvalidDataset, match="holds no files"):
        run()


def test_the_sample_voice_is_cut_without_loss(workspace: Workspace, listener: Any) -> None:
    summary = slicing.run(SAMPLES, workspace, TrainingConfig(), listener.report("slice"))
    used = [recording for recording in summary.recordings if recording.reason is None]
    total = sum(soundfile.info(SAMPLES / recording.name).duration for recording in used)
    assert len(used) >= 20
    assert 0.8 * total < summary.seconds < 1.15 * total
    assert all(recording.name.endswith(".md") for recording in summary.recordings if recording.reason)


LONG_PROGRAM = """if True:
    import sys
    from pathlib import Path
    from rvc_engine.config import TrainingConfig
    from rvc_engine.reporting import StageReport
    from rvc_engine.audio import slicing
    from rvc_engine.workspace.layout import Workspace
    summary = slicing.run(Path(sys.argv[1]), Workspace(Path(sys.argv[2]), "anna"), TrainingConfig(),
                          StageReport("slice", lambda event: None))
    # getrusage would count what the parent held.
    print(summary.seconds, int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


@proc
@pytest.mark.parametrize("minutes", [20, pytest.param(180, marks=pytest.mark.long)])
def test_a_long_recording_takes_little_memory(dataset: Path, workspace: Workspace, voice: Voice, minutes: int) -> None:
    minute = np.concatenate([voice(50.0), np.zeros(441_000, np.float32)])
    with soundfile.SoundFile(dataset / "long.wav", "w", 44_100, 1) as file:
        for _ in range(minutes):
            file.write(minute)
    done = subprocess.run(
        [sys.executable, "-c", LONG_PROGRAM, dataset, workspace.root], capture_output=True, text=True, check=True
    )
    seconds, megabytes = done.stdout.split()
    assert float(seconds) > 50 * minutes
    assert int(megabytes) < 400
