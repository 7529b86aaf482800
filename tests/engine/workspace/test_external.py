"""Files of other programs in a workspace are found by their names and lists, and checked before a run starts."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvc_engine.config import TrainingConfig
from rvc_engine.workspace.external import check_workspace, clip_paths
from rvc_engine.workspace.layout import Workspace

CONFIG = TrainingConfig(width=24, pretrained="none")
RVC = ("0_gt_wavs", "2a_f0", "2b-f0nsf", "3_feature768")
APPLIO = ("sliced_audios", "f0", "f0_voiced", "extracted")


def add_clip(root: Path, stem: str, names: tuple[str, ...] = RVC, *, rate: int = 40_000, size: int = 768) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    waves, coarse, hz, features = (root / name for name in names)
    soundfile.write(waves / f"{stem}.wav", np.zeros(rate, np.float32), rate, subtype="FLOAT")
    np.save(coarse / f"{stem}.wav.npy", np.ones(100, np.int64))
    np.save(hz / f"{stem}.wav.npy", np.zeros(100))
    np.save(features / f"{stem}.npy", np.zeros((50, size), np.float32))


def speakers_and_waves(workspace: Workspace) -> list[tuple[int | None, str]]:
    clips = clip_paths(workspace, f0=True)
    assert not any(clip.missing for clip in clips)
    return [(clip.speaker, str(clip.wave.relative_to(workspace.root.parent))) for clip in clips]


def test_applios_folders_are_found_and_their_files_name_the_speaker(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    for stem in ("0_0_0", "0_10_0", "0_9_1", "3_0_0"):
        add_clip(workspace.root, stem, APPLIO)
    assert speakers_and_waves(workspace) == [
        (0, "anna/sliced_audios/0_0_0.wav"),
        (0, "anna/sliced_audios/0_9_1.wav"),
        (0, "anna/sliced_audios/0_10_0.wav"),
        (3, "anna/sliced_audios/3_0_0.wav"),
    ]
    assert check_workspace(workspace, CONFIG).faults == []


def test_rvcs_own_folders_win_over_applios(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "0_0", RVC)
    add_clip(workspace.root, "0_0_0", APPLIO)
    assert speakers_and_waves(workspace) == [(None, "anna/0_gt_wavs/0_0.wav")]


def line(root: Path, stem: str, speaker: int = 5) -> str:
    parts = ("0_gt_wavs/{}.wav", "3_feature768/{}.npy", "2a_f0/{}.wav.npy", "2b-f0nsf/{}.wav.npy")
    return "|".join([*(str(root / part.format(stem)) for part in parts), str(speaker)])


def test_a_file_list_may_name_clips_elsewhere_and_clips_that_are_gone(tmp_path: Path) -> None:
    workspace, other = Workspace(tmp_path / "anna", "anna"), tmp_path / "other"
    add_clip(workspace.root, "0_0")
    add_clip(other, "8_0")
    add_clip(other, "mute")
    copied = tmp_path / "where it was before"
    add_clip(copied, "0_0")
    lines = [
        line(workspace.root, "0_0"),
        line(other, "8_0"),
        line(other, "8_0"),
        line(other, "mute"),  # RVC's silence, of its own encoder
        line(copied, "0_0"),
        line(tmp_path / "gone", "1_0"),
        "no line of a list",
        "",
    ]
    workspace.filelist.write_text("\n".join(lines), encoding="utf-8")
    assert speakers_and_waves(workspace) == [
        (5, "anna/0_gt_wavs/0_0.wav"),
        (5, "other/0_gt_wavs/8_0.wav"),
        (5, "other/0_gt_wavs/8_0.wav"),  # as in RVC, a clip that is named twice counts twice
        (5, "where it was before/0_gt_wavs/0_0.wav"),
    ]


def test_slices_without_all_parts_are_left_out_and_counted(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    for number in range(6):
        add_clip(workspace.root, f"{number}_0")
    (workspace.features / "1_0.npy").unlink()
    (workspace.f0_hz / "2_0.wav.npy").unlink()
    (workspace.coarse_f0 / "3_0.wav.npy").unlink()
    found = check_workspace(workspace, CONFIG)
    assert found.faults == []
    assert found.remarks == [
        "1 of 6 slices have no features and are left out: 1_0.wav",
        "2 of 6 slices have no pitch and are left out: 2_0.wav, 3_0.wav",
    ]
    assert [bool(clip.missing) for clip in clip_paths(workspace, f0=True)] == [False, True, True, True, False, False]


def test_a_voice_without_pitch_needs_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "0_0")
    (workspace.f0_hz / "0_0.wav.npy").unlink()
    without = TrainingConfig(width=24, pretrained="none", f0=False)
    assert check_workspace(workspace, without).faults == []
    [fault] = check_workspace(workspace, CONFIG).faults
    assert fault.endswith("train a voice without pitch: f0=false")


@pytest.mark.parametrize(
    ("part", "values", "fault"),
    [
        ("2a_f0/0_0.wav.npy", np.full(100, 256), "2a_f0/0_0.wav.npy holds values out of range (0 to 255)"),
        ("2a_f0/0_0.wav.npy", np.full(100, -1), "2a_f0/0_0.wav.npy holds values out of range (0 to 255)"),
        ("2b-f0nsf/0_0.wav.npy", np.full(100, np.nan), "2b-f0nsf/0_0.wav.npy holds values out of range (0 or above)"),
        ("2b-f0nsf/0_0.wav.npy", np.ones((100, 1)), "has 2 dimensions"),
        ("3_feature768/0_0.npy", np.full((50, 768), np.inf, np.float32), "0_0.npy holds NaN or infinite values"),
        ("0_gt_wavs/0_0.wav", np.zeros((40_000, 2), np.float32), "2 channels, but slices must be mono"),
    ],
)
def test_files_that_training_could_not_read_are_a_fault_before_it(
    tmp_path: Path, part: str, values: np.ndarray, fault: str
) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "²_0")  # a name that only looks like a number
    add_clip(workspace.root, "0_0")
    assert check_workspace(workspace, CONFIG).faults == []
    if part.endswith(".npy"):
        np.save(workspace.root / part, values)
    else:
        soundfile.write(workspace.root / part, values, 40_000, subtype="FLOAT")
    [found] = check_workspace(workspace, CONFIG).faults
    assert fault in found
    assert "0_0.wav" in found


@pytest.mark.parametrize(
    ("part", "fault"),
    [("0_gt_wavs/0_0.wav", r"cannot be read"), ("3_feature768/0_0.npy", "cannot be read")],
)
def test_a_damaged_file_is_a_fault_of_its_own(tmp_path: Path, part: str, fault: str) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "0_0")
    add_clip(workspace.root, "1_0", rate=48_000)
    (workspace.root / part).write_bytes(b"damage")
    faults = check_workspace(workspace, CONFIG).faults
    assert len(faults) == 2
    assert fault in faults[0]
    assert "1 of 2 slices" in faults[1]
    assert "48000 Hz" in faults[1]


def test_features_of_another_size_in_the_folder_are_a_fault(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "0_0", size=256)
    [fault] = check_workspace(workspace, CONFIG).faults
    assert "have rows of 256 numbers, but a v2 voice needs rows of 768 (0_0.npy)" in fault


def test_the_index_alone_needs_features_only(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "anna", "anna")
    add_clip(workspace.root, "0_0", rate=48_000)
    assert check_workspace(workspace, CONFIG, trains=False).faults == []
    (workspace.features / "0_0.npy").unlink()
    assert len(check_workspace(workspace, CONFIG, trains=False).faults) == 1
