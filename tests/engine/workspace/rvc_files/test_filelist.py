"""A user's `filelist.txt` decides which clips are trained and whose they are; lines that cannot be used are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import list_clips, write_filelist
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.workspace.external import check_workspace, clip_paths
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.filelist import decides, has_silence, keep_users_copy, note_kept, users_filelist

CONFIG = TrainingConfig(width=24, pretrained="none")
FOLDERS = ("0_gt_wavs", "3_feature768", "2a_f0", "2b-f0nsf")
WINDOWS = r"E:\\RVC"
"""The root of RVC's folder as its page writes it on Windows, with doubled backslashes."""


def add_clip(root: Path, stem: str, wave: str | None = None) -> None:
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    soundfile.write(root / "0_gt_wavs" / f"{wave or stem}.wav", np.zeros(40_000, np.float32), 40_000, subtype="FLOAT")
    np.save(root / "3_feature768" / f"{stem}.npy", np.zeros((50, 768), np.float32))
    np.save(root / "2a_f0" / f"{stem}.wav.npy", np.ones(100, np.int64))
    np.save(root / "2b-f0nsf" / f"{stem}.wav.npy", np.zeros(100))


def line(root: Path | str, stem: str, speaker: object = 0, *, f0: bool = True, wave: str | None = None) -> str:
    parts = [f"{root}/0_gt_wavs/{wave or stem}.wav", f"{root}/3_feature768/{stem}.npy"]
    parts += [f"{root}/2a_f0/{stem}.wav.npy", f"{root}/2b-f0nsf/{stem}.wav.npy"] if f0 else []
    return "|".join([*parts, str(speaker)])


def mute(root: Path | str, speaker: object = 0) -> str:
    return line(f"{root}/mute", "mute", speaker, wave="mute40k")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """`logs/anna` with six clips, and `logs/mute`, as RVC leaves them."""
    for number in range(6):
        add_clip(tmp_path / "logs" / "anna", f"{number}_0")
    add_clip(tmp_path / "logs" / "mute", "mute", wave="mute40k")
    return Workspace(tmp_path / "logs" / "anna", "anna")


Lines = list[str]


def everything(logs: Path | str) -> Lines:
    return [line(f"{logs}/anna", f"{number}_0") for number in range(6)] + [mute(logs)] * 2


def saved(lines: Lines, encoding: str = "utf-8", ending: str = "\n") -> bytes:
    return ending.join(lines).encode(encoding)


ALL = [0, 1, 2, 3, 4, 5]
EDITS: dict[str, tuple[Callable[[str], bytes], list[int] | str, int]] = {
    # edit: the file's content by the folder `logs`; the clips that are trained or the refusal; the silent clips
    "untouched": (lambda logs: saved(everything(logs)), ALL, 2),
    "clips taken out": (lambda logs: saved(everything(logs)[2:4] + everything(logs)[6:]), [2, 3], 2),
    "mute lines removed": (lambda logs: saved(everything(logs)[:6]), ALL, 0),
    "one mute line": (lambda logs: saved(everything(logs)[:7]), ALL, 1),
    "a line twice": (lambda logs: saved(everything(logs)[:2] + everything(logs)[:1]), [0, 1, 0], 0),
    "saved by Notepad": (lambda logs: saved(["", *everything(logs), "", ""], "utf-8-sig", "\r\n"), ALL, 2),
    "saved as Unicode": (lambda logs: saved(everything(logs), "utf-16"), ALL, 2),
    "another machine's": (lambda logs: saved(everything("/home/other/RVC/logs")), ALL, 2),
    "Windows": (lambda logs: saved([text.replace("/", "\\") for text in everything(rf"{WINDOWS}\\logs")]), ALL, 2),
    "Windows, another name, GBK": (
        lambda logs: saved([t.replace("/anna/", "/安娜/") for t in everything(f"{WINDOWS}/唱歌")], "gbk"),
        ALL,
        2,
    ),
    "relative": (lambda logs: saved(everything("./logs")), ALL, 2),
    "spaces around": (lambda logs: saved([f"  {text} ".replace("|", " | ") for text in everything(logs)]), ALL, 2),
    "empty": (lambda logs: b"\n \r\n", "filelist.txt is empty; correct it, or delete it", 0),
    "silence alone": (lambda logs: saved(everything(logs)[6:]), "names no clip but silence", 0),
    "no list": (lambda logs: b"{}", "1 do not have the 5 parts of a voice with pitch, namely line 1: {}", 0),
    "without pitch": (
        lambda logs: saved([line(f"{logs}/anna", f"{number}_0", f0=False) for number in range(6)]),
        "6 do not have the 5 parts of a voice with pitch (f0=false takes 3)",
        0,
    ),
    "all gone": (
        lambda logs: saved([line("/nowhere/bob", f"{number}_9") for number in range(6)]),
        "6 name a file that is not there, namely line 1: 0_9.wav, line 2: 1_9.wav, line 3: 2_9.wav, ...",
        0,
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_list_edited_by_hand_trains_what_rvc_trains_or_is_refused_in_words(workspace: Workspace, edit: str) -> None:
    content, expected, silent = EDITS[edit]
    workspace.filelist.write_bytes(content(str(workspace.root.parent)))
    check = check_workspace(workspace, CONFIG)
    if isinstance(expected, str):
        [fault] = check.faults
        assert expected in fault
        return
    assert (check.faults, check.remarks) == ([], [])
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    voiced = [clip for clip in clips if clip.wave.parent == workspace.slices]
    assert [int(clip.wave.stem[0]) for clip in voiced] == expected
    assert [clip.wave for clip in clips[len(voiced) :]] == [
        workspace.root.parent / "mute" / "0_gt_wavs" / "mute40k.wav"
    ] * silent


def test_the_numbers_of_speakers_are_those_of_the_list_also_for_silence_and_clips_elsewhere(
    workspace: Workspace, tmp_path: Path
) -> None:
    add_clip(tmp_path / "elsewhere", "8_0")
    logs = workspace.root.parent
    lines = [line(workspace.root, "0_0", 3), line(tmp_path / "elsewhere", "8_0", 7), mute(logs, 3), mute(logs, 7)]
    workspace.filelist.write_text("\n".join(lines))
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    assert [(clip.wave.stem, clip.speaker) for clip in clips] == [
        ("0_0", 3),
        ("8_0", 7),
        ("mute40k", 3),
        ("mute40k", 7),
    ]


def test_lines_that_cannot_be_used_are_counted_and_named_by_reason(workspace: Workspace, tmp_path: Path) -> None:
    lines = [
        line(workspace.root, "0_0"),
        line(tmp_path / "bob", "1_0"),  # of another voice, on a drive that is not mounted: not this folder's 1_0
        line(workspace.root, "2_0", 109),
        line(workspace.root, "3_0", "anna"),
        "a note",
        line(workspace.root, "4_0").replace("|", "||", 1),
    ]
    workspace.filelist.write_text("\n".join(lines))
    assert [clip.wave.stem for clip in clip_paths(workspace, f0=True)] == ["0_0"]
    assert check_workspace(workspace, CONFIG).remarks == [
        "5 of 6 lines of filelist.txt cannot be used and are left out: 1 name a file that is not there, namely line "
        "2: 1_0.wav; 2 have no speaker from 0 to 108 at the end, namely line 3: 2_0.wav, line 4: 3_0.wav; 2 do not "
        "have the 5 parts of a voice with pitch, namely line 5: a note, line 6: 4_0.wav"
    ]


def test_a_list_with_pitch_is_refused_for_a_voice_without(workspace: Workspace) -> None:
    workspace.filelist.write_text("\n".join(everything(workspace.root.parent)))
    [fault] = check_workspace(workspace, CONFIG.model_copy(update={"f0": False})).faults
    assert "do not have the 3 parts of a voice without pitch (f0=true takes 5)" in fault


def test_a_list_that_this_engine_wrote_decides_once_it_is_edited_and_keeps_what_was_held_out(
    workspace: Workspace,
) -> None:
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    write_filelist(workspace, clips[1:], seed=0, held_out=clips[:1])
    assert not decides(workspace)
    lines = [text for text in workspace.filelist.read_text().splitlines() if "/2_0.wav" not in text]
    workspace.filelist.write_text("\n".join(lines))
    assert decides(workspace)
    listed = users_filelist(workspace, f0=True)
    assert listed is not None
    assert sorted(clip.wave.stem for clip in listed.clips) == ["0_0", "1_0", "3_0", "4_0", "5_0"]


def test_a_list_of_slices_that_were_prepared_again_does_not_decide_and_a_copy_is_kept(workspace: Workspace) -> None:
    workspace.filelist.write_text("of RVC")
    workspace.mark_done("slice", "of our own")
    assert not decides(workspace)
    copies = []
    for text in ("of RVC", "of RVC", "edited"):
        workspace.filelist.write_text(text)
        copy = keep_users_copy(workspace)
        assert copy is not None
        copies.append(copy.name)
    assert copies == ["filelist.txt.bak", "filelist.txt.bak", "filelist.txt.bak2"]
    assert workspace.filelist.with_name("filelist.txt.bak").read_text() == "of RVC"


def test_the_list_of_a_run_from_before_lists_were_recorded_is_this_engines(workspace: Workspace) -> None:
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    workspace.filelist.write_text("\n".join(clip.filelist_line() for clip in clips[:6]))
    assert decides(workspace)
    workspace.recovery.mkdir()
    (workspace.recovery / "step_000000003.pt").touch()
    assert not decides(workspace)
    assert keep_users_copy(workspace) is None
    workspace.filelist.write_text("\n".join(everything(workspace.root.parent)))  # RVC's page wrote it again
    assert decides(workspace)


def test_a_list_without_silence_decides_in_a_run_that_is_resumed_too(workspace: Workspace) -> None:
    workspace.filelist.write_text("\n".join(everything(workspace.root)[:4]).replace("/anna/anna/", "/anna/"))
    assert decides(workspace)
    note_kept(workspace)
    workspace.recovery.mkdir()
    (workspace.recovery / "step_000000003.pt").touch()
    assert decides(workspace)


def test_rvcs_silence_beside_the_folder_is_used_without_a_list_too(workspace: Workspace) -> None:
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    silence = workspace.root.parent / "mute"
    assert has_silence(workspace, CONFIG)
    assert [(clip.wave, clip.features) for clip in clips[6:]] == [
        (silence / "0_gt_wavs" / "mute40k.wav", silence / "3_feature768" / "mute.npy")
    ] * 2
    (silence / "3_feature768" / "mute.npy").unlink()
    assert not has_silence(workspace, CONFIG)
    assert len(list_clips(workspace, Hyperparameters.from_config(CONFIG))[0]) == 6


def test_silence_that_a_list_names_and_that_is_gone_is_replaced_by_the_runs_own(workspace: Workspace) -> None:
    workspace.filelist.write_text("\n".join([*everything(workspace.root)[:6], mute("/gone/logs", 4)]))
    (workspace.root.parent / "mute" / "2a_f0" / "mute.wav.npy").unlink()
    workspace.filelist.write_text("\n".join([*everything(workspace.root.parent)[:6], mute("/gone/logs", 4)]))
    assert not has_silence(workspace, CONFIG)
    workspace.mute_features.parent.mkdir()
    np.save(workspace.mute_features, np.zeros((149, 768), np.float32))
    clips, _ = list_clips(workspace, Hyperparameters.from_config(CONFIG))
    assert [(clip.features, clip.speaker) for clip in clips[6:]] == [(workspace.mute_features, 4)]
