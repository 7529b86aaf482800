"""A run in a folder of RVC whose list and config were edited: both decide, and both files stay as they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import soundfile
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidConfig
from rvc_engine.events import Event, Log, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.workspace.layout import Workspace

SMALL: dict[str, Any] = {"width": 24, "pretrained": "none", "evaluate": "never", "total_epochs": 1}


def lay_out(root: Path, stems: Sequence[str], wave: str = "") -> None:
    """Clips of a second in RVC's layout."""
    rng = np.random.default_rng(0)
    for name in ("0_gt_wavs", "3_feature768", "2a_f0", "2b-f0nsf"):
        (root / name).mkdir(parents=True)
    for stem in stems:
        times = np.arange(40_000) / 40_000
        sound = 0.3 * np.sin(2 * np.pi * 150 * times) if stem != "mute" else np.zeros(40_000)
        soundfile.write(root / "0_gt_wavs" / f"{stem}{wave}.wav", sound, 40_000, subtype="FLOAT")
        np.save(root / "3_feature768" / f"{stem}.npy", rng.standard_normal((50, 768)).astype(np.float32))
        np.save(root / "2a_f0" / f"{stem}.wav.npy", np.full(100, 40, np.int64))
        np.save(root / "2b-f0nsf" / f"{stem}.wav.npy", np.full(100, 150.0))


def line(root: Path, stem: str, speaker: int, wave: str = "") -> str:
    return (
        f"{root}/0_gt_wavs/{stem}{wave}.wav|{root}/3_feature768/{stem}.npy|{root}/2a_f0/{stem}.wav.npy"
        f"|{root}/2b-f0nsf/{stem}.wav.npy|{speaker}"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Workspace:
    """`logs/anna` with six clips, of which the list names four of the speakers 3 and 7, and `logs/mute`."""
    root, mute = tmp_path / "logs" / "anna", tmp_path / "logs" / "mute"
    lay_out(root, [f"{number}_0" for number in range(6)])
    lay_out(mute, ["mute"], wave="40k")
    lines = [line(root, f"{number}_0", speaker) for number, speaker in ((0, 3), (1, 3), (2, 7), (4, 7))]
    lines += [line(root, "9_0", 3), line(mute, "mute", 3, "40k"), line(mute, "mute", 3, "40k")]
    (root / "filelist.txt").write_text("\n".join(lines))
    return Workspace(root, "anna")


def make(workspace: Workspace, **options: Any) -> list[Event]:
    events: list[Event] = []
    config = TrainingConfig.model_validate(SMALL | options)
    make_voice(None, workspace, config, Machine(device="cpu", num_threads=1), events.append)
    return events


def test_the_edited_list_and_config_decide_and_stay(folder: Workspace) -> None:
    config = TrainingConfig.model_validate(SMALL)
    tree = Hyperparameters.from_config(config).workspace_tree(config, 4)
    tree["train"] |= {"learning_rate": 3e-5, "c_mel": 90, "seed": 7, "lr_decay": 0.99, "betas": [0.7, 0.9]}
    folder.hyperparameters.write_text(json.dumps(tree))
    before = folder.filelist.read_bytes(), folder.hyperparameters.read_bytes()

    events = make(folder)
    assert (folder.filelist.read_bytes(), folder.hyperparameters.read_bytes()) == before
    log = "\n".join(event.message for event in events if isinstance(event, Log | Warned))
    assert "filelist.txt decides which clips are trained: 4 clips; 2 of the 6 slices" in log
    assert "1 of 7 lines of filelist.txt cannot be used and are left out: 1 name a file that is not there" in log
    assert 'config.json: "c_mel": 90 instead of 45' in log
    assert 'config.json: "learning_rate": 3e-05 instead of 0.0001' in log
    assert "silent" not in log  # RVC's silence is at hand
    assert "training 6 clips" in log

    [pair] = folder.root.glob("G_*.pth")
    saved = torch.load(pair, weights_only=False)
    assert saved["learning_rate"] == pytest.approx(3e-5)
    assert saved["optimizer"]["param_groups"][0]["betas"] == (0.7, 0.9)
    number = list(saved["model"]).index("emb_g.weight")
    trained = saved["optimizer"]["state"][number]["exp_avg_sq"].abs().sum(1).nonzero().flatten().tolist()
    assert trained == [3, 7]
    voice = torch.load(folder.voice_file, weights_only=True)
    assert voice["speaker_names"] == {3: "3", 7: "7"}
    # Of all features in the folder, as in RVC; a speaker's own index has those that the list gives to the speaker.
    sizes = {path.name: faiss.read_index(str(path)).ntotal for path in folder.weights.glob("*.index")}
    assert sizes == {"anna.index": 300, "anna-3.index": 100, "anna-7.index": 100}

    folder.filelist.write_text(folder.filelist.read_text() + "\n" + line(folder.root, "5_0", 7))
    events = make(folder)  # not skipped as done
    assert "training 7 clips" in "\n".join(event.message for event in events if isinstance(event, Log))


def test_a_config_of_another_rate_is_refused_before_any_work(folder: Workspace) -> None:
    folder.hyperparameters.write_text('{"data": {"sampling_rate": 48000}}')
    before = sorted(folder.root.rglob("*"))
    with pytest.raises(InvalidConfig, match="sampling_rate is 48000, but the voice has 40000 Hz"):
        make(folder)
    assert sorted(folder.root.rglob("*")) == before
