"""Parts of recordings that are left out: no clip has a moment of them, and they count for nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from rvc_engine.audio import slicing
from rvc_engine.audio.parts import MAX_PARTS, PARTS_FILE, Part, merged, parse_parts, stretches
from rvc_engine.audio.recordings import list_dataset
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset
from rvc_engine.pipeline.pipeline import find_recordings
from rvc_engine.report.report import make_report
from rvc_engine.workspace.layout import Workspace

Save = Callable[..., Path]
RATE = 44_100
MARK_HZ = 3000
"""Only the parts that are left out have this frequency."""
PARTS = [(0.0, 0.8), (2.25, 4.5), (5.3, 5.4), (9.7, 11.0)]


def spoken(seconds: float) -> np.ndarray:
    """A tone with pauses, and one of MARK_HZ, at twice its level and over full scale, in PARTS."""
    times = np.arange(int(seconds * RATE)) / RATE
    sound = 0.3 * np.sin(2 * np.pi * 180 * times) * (times % 2.2 < 1.7)
    for start, end in PARTS:
        marked = (times >= start) & (times < end)
        sound[marked] += 1.4 * np.sin(2 * np.pi * MARK_HZ * times[marked])
    return sound.astype(np.float32)


def marked_level(path: Path) -> float:
    """Share of the energy of a clip near MARK_HZ."""
    sound, rate = soundfile.read(path)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    hz = np.fft.rfftfreq(len(sound), 1 / rate)
    return float(power[np.abs(hz - MARK_HZ) < 200].sum() / power.sum())


@pytest.fixture
def recording(dataset: Path, save: Save) -> Path:
    """A recording in a folder that lists its parts, out of order and overlapping."""
    (dataset / "anna").mkdir()
    lines = ["# a cough", "9.7\t12\tanna/take 1.wav", "2.25 3.9 anna/take 1.wav", "", "0 0.8 anna/take 1.wav"]
    (dataset / "anna" / PARTS_FILE).write_text("3.5 4.5 take 1.wav\r\n5.3 5.4 take 1.wav\r\n")
    (dataset / PARTS_FILE).write_text("\n".join(lines))
    save("b.wav", spoken(1.0)[int(0.8 * RATE) :])
    return save("anna/take 1.wav", spoken(11.0), subtype="FLOAT")


@pytest.mark.parametrize(
    "config",
    [{}, {"slicing": "fixed", "slice_seconds": 0.9}, {"slicing": "none"}, {"normalize": False, "sample_rate": "32k"}],
)
def test_no_clip_has_a_moment_of_a_part_that_is_left_out(
    recording: Path, dataset: Path, workspace: Workspace, listener: Any, config: dict[str, Any]
) -> None:
    summary = slicing.run(dataset, workspace, TrainingConfig(**config), listener.report("slice"))
    clips = sorted(workspace.slices.iterdir())
    assert clips
    assert max(marked_level(clip) for clip in [*clips, *workspace.slices_16k.iterdir()]) < 1e-4
    sliced = summary.recordings[0]
    assert sliced.dropped_seconds["left_out"] == pytest.approx(sum(end - start for start, end in PARTS), abs=0.05)
    assert sliced.kept_seconds + sum(sliced.dropped_seconds.values()) == pytest.approx(11.0, abs=0.01)
    assert not sliced.remarks  # only what is left out is over full scale
    kept = sum(sliced.slice_seconds)
    assert kept < (11.0 - sum(end - start for start, end in PARTS)) * 1.5


def test_the_report_measures_the_rest_and_names_the_parts(recording: Path, dataset: Path) -> None:
    report = make_report(dataset)
    file = report.files[0]
    parts = [(part.from_seconds, part.to_seconds) for part in file.without_parts]
    assert parts == [(0.0, 0.8), (2.25, 4.5), (5.3, 5.4), (9.7, pytest.approx(11.0, abs=0.001))]
    assert file.seconds == pytest.approx(11.0 - sum(end - start for start, end in PARTS), abs=0.01)
    assert report.seconds == pytest.approx(file.seconds + report.files[1].seconds)
    assert (file.peak < 0.31, file.over_full_scale_db, file.clipped_share) == (True, 0, 0)
    assert report.dropped_seconds["left_out"] == pytest.approx(4.45, abs=0.05)
    assert [each.name for each in report.left_out] == []
    assert not [finding for finding in report.findings if finding.code == "dropped"]


def test_recordings_with_other_parts_are_other_inputs_and_without_parts_the_ones_of_before(
    recording: Path, dataset: Path
) -> None:
    whole, listed = find_recordings(dataset), dataset / PARTS_FILE
    listed.write_text("\n".join(reversed(listed.read_text().splitlines())))
    assert find_recordings(dataset) == whole
    (dataset / "anna" / PARTS_FILE).unlink()
    fewer = find_recordings(dataset)
    listed.unlink()
    assert len({whole.sha256, fewer.sha256, find_recordings(dataset).sha256}) == 3


def test_a_manifest_has_parts_too(recording: Path, dataset: Path) -> None:
    rows = [{"path": "b.wav", "name": "x.wav", "without": [[0.05, 0.1], [0.01, 0.06]]}]
    (dataset / "recordings.json").write_text(json.dumps({"files": rows}))
    assert list_dataset(dataset).recordings[0].without == (Part(0.01, 0.1),)


def test_nothing_but_silence_may_remain_of_one_recording_but_not_of_all(
    recording: Path, dataset: Path, workspace: Workspace, listener: Any
) -> None:
    (dataset / PARTS_FILE).write_text("0 1.75 anna/take 1.wav\n2.15 99 anna/take 1.wav")  # a pause is left
    reason = "the longest sound .*: nothing but silence remains of it without the parts that are left out"
    with pytest.raises(InvalidDataset, match=reason):
        slicing.run(dataset, workspace, TrainingConfig(slicing="none"), listener.report("slice"))
    report = make_report(dataset)
    assert (report.usable, "nothing but silence remains" in (report.reason or "")) == (False, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.5 anna/1.wav", "line 1 of left_out_parts.txt is not a part of a recording"),
        ("\n4 1.5 a.wav", "line 2 of left_out_parts.txt is not a part"),
        ("-1 2 a.wav", "is not a part"),
        ("nan 2 a.wav", "is not a part"),
        ("0 inf a.wav", "is not a part"),
        ("0 1 b.wav", "names 'b.wav', which is no recording of the dataset"),
        ("".join(f"{n} {n}.5 a.wav\n" for n in range(MAX_PARTS + 1)), f"more than {MAX_PARTS} parts"),
    ],
)
def test_a_list_of_parts_with_a_fault_is_refused_with_its_line(
    dataset: Path, save: Save, text: str, words: str
) -> None:
    save("a.wav", spoken(1.0))
    (dataset / PARTS_FILE).write_text(text)
    with pytest.raises(InvalidDataset, match=words):
        list_dataset(dataset)


def test_parts_that_overlap_or_touch_are_one() -> None:
    assert merged([Part(3, 4), Part(1, 2), Part(2, 2.5), Part(3.2, 3.4), Part(5, 5)]) == (Part(1, 2.5), Part(3, 4))
    assert list(stretches(10, 100, [Part(0, 0.5), Part(2, 3), Part(9, 20)], 10)) == [(10, 20), (30, 90)]
    assert list(stretches(50, 60, [Part(1, 20)], 10)) == []
    assert parse_parts("1\t2\ta b.wav", ["a b.wav"]) == {"a b.wav": (Part(1, 2),)}
