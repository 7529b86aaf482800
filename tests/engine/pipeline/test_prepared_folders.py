"""The script, as a program, on a folder laid out by hand as RVC WebUI and Applio leave it after preprocessing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pytest
import soundfile
import torch

from rvc_engine import events
from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint, MissingWeights
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.pipeline import preflight
from rvc_engine.workspace.layout import Workspace

SCRIPT = Path(__file__).parents[3] / "rvc_training_pipeline.py"
NAME = 'it\'s "pretrained" v1.2 日本'
STEM = "it's _pre-train-ed_ v1.2 日本"
NUM_SLICES = 5
SMALL = ["--pretrained", "none", "--set", "width=24", "--set", "evaluate=never"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the script."""
    return tmp_path_factory.mktemp("here")


@pytest.fixture(scope="module")
def script(place: Path) -> Run:
    """Runner of the script as a process, without a GPU and without weights."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
        "XDG_DATA_HOME": str(place / "nothing"),
        "COLUMNS": "200",
    }

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *map(str, words)]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)

    return run


def lay_out(root: Path, *, rate: int = 40_000, size: int = 768, applio: bool = False, seconds: float = 1.0) -> Path:
    """A folder fresh from preprocessing: no file list, no config.json, no silent clips; coarse pitch as int64."""
    rng = np.random.default_rng(0)
    names = ("0_gt_wavs", "1_16k_wavs", "2a_f0", "2b-f0nsf", f"3_feature{size}")
    if applio:
        names = ("sliced_audios", "sliced_audios_16k", "f0", "f0_voiced", "extracted")
    folders = [root / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    frames = round(100 * seconds)
    for number in range(NUM_SLICES):
        stem = f"0_{number}_0" if applio else f"{number}_0"
        hz = np.full(frames, 150.0 + 10 * number)
        for folder, wave_rate in ((folders[0], rate), (folders[1], 16_000)):
            times = np.arange(round(seconds * wave_rate)) / wave_rate
            soundfile.write(folder / f"{stem}.wav", 0.3 * np.sin(2 * np.pi * hz[0] * times), wave_rate, subtype="FLOAT")
        np.save(folders[2] / f"{stem}.wav.npy", np.full(frames, 40 + number, np.int64))
        np.save(folders[3] / f"{stem}.wav.npy", hz)
        np.save(folders[4] / f"{stem}.npy", rng.standard_normal((frames // 2, size)).astype(np.float32))
    return root


@pytest.fixture(scope="module")
def base_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Base weights of the small net."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(7)
    config = TrainingConfig(width=24, pretrained="none")
    state = GanTrainState.build(Hyperparameters.from_config(config), torch.device("cpu"), 1e-4)
    pair = write_pair(Workspace(folder, "base").root, pair_trees(state, TrainProgress(1, 1, 1, 1.0, 2, 5), 1e-4, 1))
    return pair[0], pair[1]


def paired(voice: Path, indexes: Sequence[Path]) -> Path | None:
    """The index that RVC pairs with a voice, by the rules in FORMATS ("The index")."""
    full = voice.stem.lower()
    name = re.sub(r"_e\d+_s\d+$", "", full)
    seen = [index for index in indexes if "trained" not in index.name.lower()]
    fitting = [
        index
        for index in seen
        if index.name.lower().startswith(f"{name}_added_")
        or f"_{name}_v1" in index.name.lower()
        or f"_{name}_v2" in index.name.lower()
        or full in index.name.lower()
    ]
    return max(fitting, key=lambda index: index.stat().st_mtime, default=None)


@pytest.fixture(scope="module")
def first_run(script: Run, place: Path, base_pair: tuple[Path, Path]) -> subprocess.CompletedProcess[str]:
    """Two epochs with the short form of every flag, on RVC's folder with one slice that lacks its features."""
    root = lay_out(place / "logs" / NAME)
    (root / "config.json").write_text('{"data": {"sampling_rate": 40000}}')  # of which RVC could not train
    (root / "3_feature768" / "4_0.npy").unlink()
    generator, discriminators = base_pair
    words = ["-e", NAME, "-sr", "40k", "-f0", "1", "-bs", "2", "-te", "2", "-se", "1", "-g", "0", "-v", "v2", "-l", "0"]
    words += ["-pg", str(generator), "-pd", str(discriminators), "-c", "1", "-sw", "1", "-o", "outside"]
    return script(*words, *SMALL, "--log-level", "warning")


def test_every_flag_does_what_it_says_and_every_file_that_the_script_promises_is_there(
    first_run: subprocess.CompletedProcess[str], place: Path
) -> None:
    root, done = place / "logs" / NAME, first_run
    assert done.returncode == events.EXIT_SUCCEEDED, done.stderr

    # Lines on the console at this level, and lines in the log.
    assert "1 of 5 slices have no features and are left out: 4_0.wav" in done.stderr
    assert "without the two silent clips" in done.stderr
    assert "weights fetch hubert" in done.stderr
    assert "stage train finished" not in done.stderr
    log = (root / "train.log").read_text()
    assert "stage train finished" in log
    assert re.search(r"base weights: G_1\.pth [0-9a-f]{12} D_1\.pth [0-9a-f]{12}", log)

    # The files.
    assert (root / "config.json.bak").read_text() == '{"data": {"sampling_rate": 40000}}'
    assert "replaced; the old one is kept as config.json.bak" in done.stderr
    assert json.loads((root / "config.json").read_text())["data"]["sampling_rate"] == 40_000
    assert json.loads((root / "config.json").read_text())["train"]["batch_size"] == 2
    steps = sorted(int(path.stem.removeprefix("G_")) for path in root.glob("G_*.pth"))
    assert steps == [2, 4]
    assert {path.name for path in root.glob("D_*.pth")} == {"D_2.pth", "D_4.pth"}
    rows = np.load(root / "total_fea.npy")
    assert rows.shape == (4 * 50, 768)
    [added] = root.glob("added_IVF*.index")
    weights = {path.name for path in (root / "weights").iterdir()}
    saves = {f"{STEM}_e1_s2.pth", f"{STEM}_e2_s4.pth"}
    assert weights == {f"{STEM}.pth", f"{STEM}.index", *saves, "card.json", "card.md"}
    assert faiss.read_index(str(root / "weights" / f"{STEM}.index")).ntotal == len(rows)
    voice = torch.load(root / "weights" / f"{STEM}.pth", weights_only=True)
    assert (voice["sr"], voice["f0"], voice["version"], voice["info"]) == ("40k", 1, "v2", "2epoch")
    assert len((root / "filelist.txt").read_text().splitlines()) == 4

    # The link, and the pairing of each voice with an index by RVC's rules.
    [link] = (place / "outside").iterdir()
    assert link.name == f"{STEM}_{added.name}"
    assert link.resolve() == added.resolve()
    for name in (f"{STEM}.pth", f"{STEM}_e1_s2.pth"):
        for indexes in ([link], [added]):
            assert paired(root / "weights" / name, indexes) == indexes[0]


@pytest.mark.long
def test_the_long_spellings_go_on_and_keep_one_pair(
    first_run: subprocess.CompletedProcess[str], script: Run, place: Path, base_pair: tuple[Path, Path]
) -> None:
    assert first_run.returncode == events.EXIT_SUCCEEDED
    root = place / "logs" / NAME
    generator, discriminators = base_pair
    before = {path.name: path.read_bytes() for path in root.glob("G_*.pth")}
    [added] = root.glob("added_IVF*.index")
    built = added.stat().st_mtime_ns
    words = ["--exp_dir", NAME, "--sample_rate", "40k", "--if_f0", "1", "--batch_size", "2", "--total_epoch", "3"]
    words += ["--save_every_epoch", "1", "--gpus", "0-1", "--version", "v2", "--if_latest", "1"]
    words += ["--pretrain_g", str(generator), "--pretrain_d", str(discriminators), "--if_cache_data_in_gpu", "0"]
    words += ["--save_every_weights", "0", "--skip-index"]
    done = script(*words, *SMALL)
    assert done.returncode == events.EXIT_SUCCEEDED, done.stderr
    assert "resuming after step 4" in done.stdout
    assert "none of the 2 GPUs was found; training on the CPU" in done.stderr
    assert {path.name for path in root.glob("G_*.pth")} == {*before, "G_2333333.pth"}
    assert added.stat().st_mtime_ns == built
    assert not list((root / "weights").glob("*_e3_*"))

    with_index = script(
        "--exp_dir", NAME, "--skip-training", "--outside_index_root", "elsewhere", "--log-level", "ERROR", *SMALL
    )
    assert with_index.returncode == events.EXIT_SUCCEEDED, with_index.stderr
    assert with_index.stderr == ""
    [link] = (place / "elsewhere").iterdir()
    assert link.resolve() == next(root.glob("added_IVF*.index")).resolve()
    assert link.resolve().stat().st_mtime_ns > built


def test_a_folder_of_applios_trains_with_silence_made_by_the_encoder_at_hand(script: Run, place: Path) -> None:
    root = lay_out(place / "logs" / "dora", rate=32_000, applio=True)
    words = ["-e", "dora", "-sr", "32k", "-f0", "0", "-te", "1", "--content", "whisper-tiny", "--skip-index"]
    done = script(*words, *SMALL)
    assert done.returncode == events.EXIT_SUCCEEDED, done.stderr
    lines = [line.split("|") for line in (root / "filelist.txt").read_text().splitlines()]
    assert len(lines) == NUM_SLICES + 2
    assert {len(line) for line in lines} == {3}  # no pitch
    assert {Path(wave).parent.name for wave, *_ in lines[:NUM_SLICES]} == {"sliced_audios"}
    assert [Path(wave).name for wave, *_ in lines[NUM_SLICES:]] == ["mute32k.wav"] * 2
    voice = torch.load(root / "weights" / "dora.pth", weights_only=True)
    assert (voice["sr"], voice["f0"], voice["version"]) == ("32k", 0, "v2")
    assert not list(root.glob("*.index"))


def test_training_that_cannot_start_leaves_the_index_and_its_link_when_asked_to_go_on(script: Run, place: Path) -> None:
    root = lay_out(place / "logs" / "bella", size=256)
    done = script("-e", "bella", "-v", "v1", "-o", "links", "--continue-on-error", "--pretrained", "auto")  # none here
    assert done.returncode == events.EXIT_FAILED
    assert "weights fetch pretrained-v1-40k" in done.stderr
    assert "going on to the index" in done.stderr
    [link] = (place / "links").iterdir()
    [added] = root.glob("added_IVF*.index")
    assert added.name.endswith("_bella_v1.index")
    assert link.resolve() == added.resolve()
    assert (root / "weights" / "bella.index").exists()


def test_all_that_is_wrong_is_told_at_once_before_training(script: Run, place: Path) -> None:
    root = lay_out(place / "logs" / "carla", rate=48_000, size=256)
    shutil.rmtree(root / "2a_f0")
    before = sorted(root.rglob("*"))
    done = script("-e", "carla", "-pg", "gone_g.pth", "-pd", "gone_d.pth")
    assert done.returncode == events.EXIT_USAGE
    for text in (
        "-pg/--pretrain_g: there is no file gone_g.pth",
        "-pd/--pretrain_d: there is no file gone_d.pth",
        "3_feature768 holds no features, but 3_feature256 does: those are for v1; use -v v1",
        "none of the 5 slices has pitch in 2a_f0 and 2b-f0nsf",
        "5 of 5 slices in logs/carla/0_gt_wavs have 48000 Hz, but the voice has 40000 Hz",
        "use -sr 48k",
    ):
        assert text in done.stderr
    assert sorted(root.rglob("*")) == before


def look(workspace: Workspace, config: TrainingConfig, machine: Machine, dataset: Path | None = None) -> None:
    preflight.check(dataset, workspace, config, machine, lambda _: None, trains=True, continues_to_index=False)


def test_missing_base_weights_are_told_together_with_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    workspace = Workspace(lay_out(tmp_path / "carla", rate=48_000, size=256), "carla")
    machine = Machine(device="cpu", weights_folder=tmp_path / "weights")
    with pytest.raises(MissingWeights) as raised:
        look(workspace, TrainingConfig(), machine)
    for text in ("the base weights cannot be used", "set version=v1", "set sample_rate=48k"):
        assert text in str(raised.value)


def test_base_weights_of_another_kind_are_told_before_any_work(
    tmp_path: Path, base_pair: tuple[Path, Path], recordings: Path
) -> None:
    workspace = Workspace(tmp_path / "carla", "carla")
    swapped = Machine(device="cpu", pretrained_g=base_pair[1], pretrained_d=base_pair[0])
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24)
    with pytest.raises(
        IncompatibleCheckpoint, match=r"pretrained generator: .*D_1\.pth.*pretrained discriminator"
    ) as raised:
        look(workspace, config, swapped, recordings)
    assert "does not fit" in str(raised.value)
    assert not workspace.root.exists()
