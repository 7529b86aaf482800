"""The whole training command, ours and RVC WebUI's, on the same preprocessed folder, from start to saved voice.

Both train v2 40k with pitch, batch 4, without base weights, for the same epochs, and save at the end, in turns. The
reference fills its last batches by repeating clips; the steps of each are in the notes.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import rvc_webui
from benchmarks.lines import cpu_name, print_line
from benchmarks.made_up_clips import write_clips
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import list_clips, write_filelist
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.workspace.layout import Workspace

BATCH_SIZE = 4
OURS, THEIRS = "ours", "reference"
SCRIPT = Path(__file__).parents[1] / "rvc_training_pipeline.py"
PREPARED = ("0_gt_wavs", "1_16k_wavs", "2a_f0", "2b-f0nsf", "3_feature768")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser)
    parser.add_argument("--prepared", type=Path, help="a preprocessed v2 40k folder; by default synthetic clips")
    parser.add_argument("--clips", type=int, default=16, help="number of synthetic clips, of 3.7 s")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rvc-bench-") as name:
        reference = rvc_webui.Reference.place(options.reference, options.reference_python, Path(name) / "rvc")
        prepared = options.prepared or Path(name) / "prepared"
        if options.prepared is None:
            write_clips(prepared, Hyperparameters.from_config(TrainingConfig()), options.clips, 3.7)
        seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
        for _ in range(options.rounds):
            seconds[OURS].append(train_ours(reference.folder, prepared, options.epochs))
            seconds[THEIRS].append(train_theirs(reference, prepared, options.epochs))
        notes = (
            f"v2 40k f0, batch {BATCH_SIZE}, {options.epochs} epochs of {count_clips(prepared)} clips, whole commands "
            f"in turns, median of {options.rounds}; steps: ours {steps(reference.folder, OURS)}, "
            f"RVC WebUI {steps(reference.folder, THEIRS)}; stand-ins for: {reference.stand_ins()}"
        )
        print_line(
            "training command", *(statistics.median(seconds[name]) for name in (OURS, THEIRS)), "s", notes, _device()
        )


def train_ours(folder: Path, prepared: Path, epochs: int) -> float:
    """Run our script in the reference's folder; returns its seconds."""
    _place(folder, prepared, OURS)
    command = [sys.executable, SCRIPT, "-e", OURS, "-sr", "40k", "-f0", "1", "-v", "v2", "-bs", BATCH_SIZE]
    command += ["-te", epochs, "-se", epochs, "--skip-index", "--pretrained", "none"]
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], cwd=folder, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def train_theirs(reference: rvc_webui.Reference, prepared: Path, epochs: int) -> float:
    """Run its `train.train`; returns its seconds. Its exit code does not show failures: the last pair must exist."""
    _place(reference.folder, prepared, THEIRS)
    arguments = ["-e", THEIRS, "-sr", "40k", "-f0", 1, "-v", "v2", "-bs", BATCH_SIZE, "-te", epochs, "-se", epochs]
    seconds = reference.run("train.train", [*arguments, "-g", "0", "-l", 0, "-c", 0, "-sw", 0])
    assert steps(reference.folder, THEIRS), "RVC WebUI saved nothing; see its train.log"
    return seconds


def _place(folder: Path, prepared: Path, name: str) -> None:
    """Copy the preprocessed folder to `logs/`, with the file list and configuration that both read."""
    root = folder / "logs" / name
    shutil.rmtree(root, ignore_errors=True)
    for part in PREPARED:
        shutil.copytree(prepared / part, root / part)
    config = TrainingConfig(total_epochs=1, pretrained="none")
    hparams, workspace = Hyperparameters.from_config(config), Workspace(root, name)
    clips, _ = list_clips(workspace, hparams)
    write_filelist(workspace, clips, config.seed)
    (root / "config.json").write_text(hparams.workspace_config(config, BATCH_SIZE))


def steps(folder: Path, name: str) -> int | None:
    """Step of the last saved pair of a run."""
    saved = [int(path.stem.removeprefix("G_")) for path in (folder / "logs" / name).glob("G_*.pth")]
    return max(saved, default=None)


def count_clips(prepared: Path) -> int:
    """Number of slices in a preprocessed folder."""
    return len(list((prepared / "0_gt_wavs").glob("*.wav")))


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_name()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
