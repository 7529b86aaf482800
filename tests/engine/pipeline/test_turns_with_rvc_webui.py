"""RVC WebUI's own programs and the pipeline command in turns on one folder: each resumes from the newest pair.

RVC_WEBUI: a checkout of RVC WebUI of 2026; RVC_WEBUI_PYTHON: the Python that it runs in, by default this one. Models of
the published size: some minutes for each version.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.made_up_clips import write_clips
from benchmarks.rvc_webui import Reference
from rvc_engine.checkpoints.pair_files import read_pair_file
from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters

SCRIPT = Path(__file__).parents[3] / "rvc_training_pipeline.py"
CHECKOUT = os.environ.get("RVC_WEBUI")
BATCH_SIZE = 2
LEARNING_RATE = 5e-5

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(CHECKOUT is None, reason="RVC_WEBUI names no checkout of RVC WebUI"),
]


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    assert CHECKOUT is not None
    placed = Reference.place(Path(CHECKOUT), Path(os.environ.get("RVC_WEBUI_PYTHON", sys.executable)), tmp_path / "rvc")
    if importlib.util.find_spec("sklearn") is None:  # train_index imports it, and uses it above 200,000 rows only
        (placed.folder / "sklearn").mkdir()
        (placed.folder / "sklearn" / "__init__.py").touch()
        (placed.folder / "sklearn" / "cluster.py").write_text("MiniBatchKMeans = None\n")
    return placed


def prepare(folder: Path, checkout: Path, version: str, scratch: Path) -> None:
    """A run folder as RVC WebUI leaves it: three clips, of which the list names two of two lengths."""
    hparams = Hyperparameters.from_config(TrainingConfig(version=version))
    write_clips(folder, hparams, 2, 1.5)
    write_clips(scratch, hparams, 1, 2.5)
    for path in scratch.rglob("0_0.*"):
        path.rename(folder / path.parent.name / path.name.replace("0_0", "9_0"))
    parts = ("0_gt_wavs", f"3_feature{hparams.feature_size}", "2a_f0", "2b-f0nsf")
    endings = (".wav", ".npy", ".wav.npy", ".wav.npy")
    lines = [
        "|".join([*(f"{folder / part / stem}{ending}" for part, ending in zip(parts, endings, strict=True)), "0"])
        for stem in ("0_0", "9_0")
    ]
    (folder / "filelist.txt").write_text("\n".join(lines))
    shutil.copy(checkout / "configs" / "v1" / "40k.json", folder / "config.json")


def newest(folder: Path) -> tuple[int, dict[str, Any]]:
    """Number and contents of the G_ file that RVC WebUI resumes from."""
    path = max(folder.glob("G_*.pth"), key=lambda path: int(path.stem.removeprefix("G_")))
    assert max(folder.glob("D_*.pth"), key=lambda path: path.stat().st_mtime).stem[2:] == path.stem[2:]
    return int(path.stem.removeprefix("G_")), torch.load(path, weights_only=True)


def edit(folder: Path) -> None:
    """Edit list and config: one clip in place of another, all of speaker 3, and a lower learning rate.

    The number of steps an epoch stays: RVC numbers its saves by it, and fewer would put them below those of before.
    """
    text = (folder / "filelist.txt").read_text().replace("/0_0.", "/1_0.")
    (folder / "filelist.txt").write_text("\n".join(line.removesuffix("|0") + "|3" for line in text.splitlines()))
    config = json.loads((folder / "config.json").read_text())
    config["train"]["learning_rate"] = LEARNING_RATE
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def trained_speakers(folder: Path, number: int) -> list[int]:
    """Rows of the speakers' embedding that have had gradients."""
    moments = read_pair_file(folder / f"G_{number}.pth").moments
    assert moments is not None
    return moments["emb_g.weight"]["exp_avg_sq"].any(dim=1).nonzero().flatten().tolist()


def num_updates(tree: dict[str, Any]) -> int:
    """Optimizer steps that a pair has seen since the first turn."""
    return max(int(entry["step"]) for entry in tree["optimizer"]["state"].values())


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_four_turns_of_two_programs_are_one_training(reference: Reference, tmp_path: Path, version: str) -> None:
    name, log = f"turns-{version}", ""
    folder = reference.folder / "logs" / name
    prepare(folder, reference.folder, version, tmp_path / "scratch")
    words = ["-e", name, "-sr", "40k", "-f0", "1", "-v", version, "-bs", str(BATCH_SIZE), "-se", "1", "-g", "0"]
    words += ["-l", "0", "-c", "0", "-sw", "0"]

    def ours(total_epochs: int) -> None:
        command = [sys.executable, str(SCRIPT), *words, "-te", str(total_epochs), "--pretrained", "none"]
        done = subprocess.run(command, cwd=reference.folder, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def theirs(total_epochs: int) -> None:
        reference.run("train.train", [*words, "-te", total_epochs])

    reference.run("train.train_index", [name, version, "assets/indices", 1])
    [index] = folder.glob("added_*.index")
    index_bytes = index.read_bytes()
    found = []
    for epoch, turn in enumerate((ours, theirs, ours, theirs), start=1):
        if epoch == 3:
            edit(folder)
        turn(epoch)
        number, tree = newest(folder)
        found.append(
            (number, tree["iteration"], num_updates(tree), tree["learning_rate"], trained_speakers(folder, number))
        )
    numbers, epochs, updates, rates, speakers = zip(*found, strict=True)
    print(found)
    assert epochs == (1, 2, 3, 4)
    assert list(numbers) == sorted(set(numbers))
    # Ours takes one step an epoch; theirs takes two, and trains the last epoch again.
    assert updates == (1, 5, 6, 10)
    assert rates == (1e-4, 1e-4, LEARNING_RATE, LEARNING_RATE)
    assert speakers == ([0], [0], [0, 3], [0, 3])

    log = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    assert f"resuming after epoch 2 of G_{numbers[1]}.pth" in log
    mel = [float(line.split("loss/mel=")[1].split()[0]) for line in log.splitlines() if "loss/mel=" in line]
    assert len(mel) == 2
    assert mel[1] < mel[0]
    assert f'config.json: "learning_rate": {LEARNING_RATE:g} instead of 0.0001' in log
    assert log.count("filelist.txt decides which clips are trained: 2 clips; 1 of the 3 slices") == 2

    reference.run("train.train_index", [name, version, "assets/indices", 1])  # finds an index, and leaves it
    assert index_bytes in [path.read_bytes() for path in folder.glob("added_*.index*")]
