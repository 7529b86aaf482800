"""A voice with two speakers, from two folders of recordings to a voice file and an index for each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rvc_engine.checkpoints.io import load_file
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.cli.pipeline_script import app
from rvc_engine.config import TrainingConfig
from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter
from rvc_engine.data.clips import epoch_batches, list_clips
from rvc_engine.data.speakers import Speakers
from rvc_engine.errors import ArtifactInvalid, InvalidConfig, InvalidDataset
from rvc_engine.evaluation.evaluator import Evaluator
from rvc_engine.events import ArtifactReady, Event, Log, StageChanged
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.pitch.estimators import create_estimator
from rvc_engine.reporting import StageReport
from rvc_engine.voices import export
from rvc_engine.voices.inspect import describe, inspect_file
from rvc_engine.voices.merge import merge
from rvc_engine.workspace.layout import Workspace

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.flac"))
CHOICES = {
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "width": 24,
    "batch_size": 4,
    "total_epochs": 2,
    "learning_rate": 1e-3,
    "evaluate": "never",
    "speakers": {"anna": 2, "bob": 5},
}
CONFIG = TrainingConfig.model_validate(CHOICES)
CPU = torch.device("cpu")

Make = Callable[..., tuple[Workspace, list[Event]]]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of anna's and one of bob's (in truth of the same voice)."""
    root = tmp_path_factory.mktemp("folders")
    for folder, paths in {"anna": SAMPLES[:2], "bob": SAMPLES[2:3]}.items():
        (root / folder).mkdir()
        for path in paths:
            shutil.copy(path, root / folder)
    return root


def artifacts(events: list[Event]) -> dict[str, str]:
    return {event.name: event.kind for event in events if isinstance(event, ArtifactReady)}


def states(events: list[Event]) -> dict[str, str]:
    return {event.stage: event.state for event in events if isinstance(event, StageChanged)}


@pytest.fixture(scope="session")
def duo_once(tmp_path_factory: pytest.TempPathFactory, folders: Path, machine: Machine) -> tuple[Path, list[Event]]:
    """The folder of a finished run of both."""
    root = tmp_path_factory.mktemp("duo") / "duo"
    events: list[Event] = []
    make_voice(folders, Workspace(root, "duo"), CONFIG, machine, events.append)
    return root, events


@pytest.fixture
def duo(duo_once: tuple[Path, list[Event]], tmp_path: Path) -> Workspace:
    """A copy of that run, where `make` makes a voice called duo."""
    shutil.copytree(duo_once[0], tmp_path / "duo")
    return Workspace(tmp_path / "duo", "duo")


def test_every_clip_carries_its_speaker_and_every_speaker_its_silence(duo: Workspace) -> None:
    lines = [line.split("|") for line in duo.filelist.read_text().splitlines()]
    recordings = {Path(line[0]).stem.split("_")[0]: line[-1] for line in lines if "mute" not in line[0]}
    assert recordings == {"0": "2", "1": "2", "2": "5"}
    assert sorted(line[-1] for line in lines if "mute" in line[0]) == ["2", "2", "5", "5"]


def test_the_voice_names_its_speakers_and_learns_them_alone(duo: Workspace) -> None:
    tree = load_file(duo.voice_file)
    assert (tree["speakers_id"], tree["speaker_names"]) == (6, {2: "anna", 5: "bob"})
    torch.manual_seed(1234)
    fresh = GanTrainState.build(Hyperparameters.from_config(CONFIG), CPU, 1e-3).synthesizer
    moved = (tree["weight"]["emb_g.weight"].float() - fresh.state_dict()["emb_g.weight"]).abs().mean(dim=1)
    assert set(moved.topk(2).indices.tolist()) == {2, 5}
    assert moved[[2, 5]].min() > 5 * moved[[0, 1, 3, 4]].max()


def test_batches_mix_the_speakers(duo: Workspace) -> None:
    clips, _ = list_clips(duo, Hyperparameters.from_config(CONFIG), Speakers.from_workspace(duo, CONFIG))
    plans = [epoch_batches([clip.frames for clip in clips], 4, 1234, epoch) for epoch in range(1, 6)]
    mixed = [{clips[number].speaker for number in batch} for plan in plans for batch in plan]
    assert {2, 5} in mixed


def test_there_is_an_index_for_each_speaker_and_one_over_all(
    duo: Workspace, duo_once: tuple[Path, list[Event]]
) -> None:
    assert artifacts(duo_once[1]) == {
        "duo.pth": "voice",
        "duo-anna.index": "speaker_index",
        "duo-bob.index": "speaker_index",
        "duo.index": "index",
    }
    assert list(artifacts(duo_once[1]))[-1] == "duo.index"
    anna, bob, both = (faiss.read_index(str(duo.weights / f"duo{part}.index")) for part in ("-anna", "-bob", ""))
    rows = np.load(duo.total_features)
    np.testing.assert_array_equal(
        np.concatenate([each.reconstruct_n(0, each.ntotal) for each in (anna, bob)]), both.reconstruct_n(0, len(rows))
    )
    own = np.concatenate([np.load(path) for path in sorted(duo.features.glob("2_*.npy"))])
    assert np.array_equal(bob.reconstruct_n(0, bob.ntotal), own)
    assert bob.search(own[5:6], 1)[0][0, 0] < 1e-3
    added = {path.name: path.stat().st_mtime_ns for path in duo.root.glob("added_IVF*.index")}
    assert {name.split("nprobe_1_")[1] for name in added} == {"duo-anna_v2.index", "duo-bob_v2.index", "duo_v2.index"}


def test_a_speakers_index_that_does_not_answer_is_not_published(duo: Workspace) -> None:
    victim = duo.weights / "duo-bob.index"
    victim.unlink()
    victim.write_bytes(b"no index")
    with pytest.raises(ArtifactInvalid, match=r"duo-bob\.index"):
        export.run(duo, CONFIG, CPU, StageReport("export", lambda _: None))


def test_conversion_takes_a_speaker_by_name_or_number_and_they_sound_different(duo: Workspace) -> None:
    converter = Converter(duo.voice_file, duo.index_file, Analysis(Machine(num_threads=1), CPU))
    assert [converter.find_speaker(word) for word in ("anna", "bob", "5", "")] == [2, 5, 5, 2]
    with pytest.raises(InvalidConfig, match="no speaker 'eve'; it has 2 anna, 5 bob"):
        converter.find_speaker("eve")
    wave = 0.3 * np.sin(2 * np.pi * 200 * np.arange(8000) / 16_000).astype(np.float32)
    one, same, other = (
        converter.convert(wave, ConversionOptions(pitch="dio", speaker=converter.find_speaker(name))).samples.astype(
            float
        )
        for name in ("anna", "2", "bob")
    )
    assert np.array_equal(one, same)
    assert np.abs(one - other).mean() > 0.01 * np.abs(one).mean()


def test_inspecting_and_merging_keep_the_names(duo: Workspace, tmp_path: Path) -> None:
    report = inspect_file(duo.voice_file)
    assert report.speaker_names == {2: "anna", 5: "bob"}
    assert any("2 anna, 5 bob" in line for line in describe(report))
    other = load_file(duo.voice_file)
    torch.save({**other, "speaker_names": {2: "anna", 5: "rob", 7: "eve"}}, tmp_path / "other.pth")
    merge(duo.voice_file, tmp_path / "other.pth", 0.5, tmp_path / "merged.pth", "merged")
    merged = load_file(tmp_path / "merged.pth")
    assert (merged["speaker_names"], merged["speakers_id"]) == ({2: "anna", 5: "bob+rob", 7: "eve"}, 8)


def test_a_render_is_compared_with_recordings_of_its_own_speaker(duo: Workspace) -> None:
    class Scorer:
        """Scorer that embeds the n-th clip as the n-th unit vector."""

        num_clips = 0

        def embed(self, wave_16k: np.ndarray) -> np.ndarray:
            self.num_clips += 1
            return np.eye(9, dtype=np.float32)[self.num_clips - 1]

    hparams = Hyperparameters.from_config(CONFIG)
    clips = [
        clip
        for clip in list_clips(duo, hparams, Speakers.from_workspace(duo, CONFIG))[0]
        if "mute" not in clip.wave.name
    ]
    chosen = [next(clip for clip in clips if clip.speaker == number) for number in (2, 5)]
    evaluator = Evaluator(chosen, hparams, CPU, create_estimator("dio", Machine(num_threads=1)), Scorer())
    assert evaluator._speakers is not None
    assert {number: len(np.flatnonzero(mean)) for number, mean in evaluator._speakers.items()} == {2: 1, 5: 1}


def test_another_choice_repeats_no_preparation_and_takes_the_speakers_indexes_away(
    make: Make, folders: Path, duo: Workspace
) -> None:
    shutil.rmtree(duo.recovery)
    for path in duo.root.glob("[GD]_*.pth"):
        path.unlink()
    _, events = make("duo", folders, StageSelection(training=False), **{**CHOICES, "speakers": "one"})
    assert [states(events)[stage] for stage in ("slice", "pitch", "content")] == ["skipped"] * 3
    assert artifacts(events) == {"duo.index": "index"}
    assert [path.name for path in duo.weights.glob("*.index")] == ["duo.index"]
    assert any(isinstance(event, Log) and "set speakers=folders" in event.message for event in events)


def test_a_run_is_gone_on_with_by_what_its_folder_remembers(make: Make, duo: Workspace) -> None:
    _, events = make("duo", None, StageSelection(training=False), **CHOICES)
    assert set(artifacts(events)) == {"duo-anna.index", "duo-bob.index", "duo.index"}


def test_a_wrong_choice_of_speakers_is_told_by_its_flag() -> None:
    result = CliRunner().invoke(app, ["-e", "duo", "--pretrained", "none", "--speakers", "anna=109"])
    assert result.exit_code == 2
    assert "--speakers: set one, or folders, or the number of each folder's speaker" in result.stderr


def test_folders_that_do_not_fit_are_told_before_any_work(make: Make, folders: Path) -> None:
    with pytest.raises(InvalidDataset, match="speakers does not name the folder 'bob'"):
        make("duo", folders, speakers={"anna": 0})
    with pytest.raises(InvalidDataset, match="--dataset"):
        make("trio", None, speakers="folders")
