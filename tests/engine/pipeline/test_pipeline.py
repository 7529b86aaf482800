"""From recordings to the two files, in one process, with small nets and real sound."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import list_clips, load_clip
from rvc_engine.errors import ArtifactInvalid, InvalidDataset, MissingWeights
from rvc_engine.events import STAGES, ArtifactReady, Event, Metric, Progress, StageChanged
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pipeline.pipeline import StageSelection, _Run, _StageResult, make_voice, progress_span
from rvc_engine.voices import export
from rvc_engine.voices.extract import load_voice_or_save
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]


def stages(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.stage, event.state) for event in events if isinstance(event, StageChanged)]


def test_a_voice_is_made_and_every_file_of_it_is_whole(make: Make) -> None:
    workspace, events = make(save_every_epochs=1, save_every_weights=True)

    artifacts = {event.kind: event for event in events if isinstance(event, ArtifactReady)}
    assert artifacts["voice"].name == "anna.pth"
    assert artifacts["index"].name == "anna.index"
    voice = torch.load(workspace.voice_file, weights_only=True)
    assert voice["embedder_model"] == "whisper-tiny.en-l2l3"
    assert (voice["sr"], voice["f0"], voice["version"], voice["info"]) == ("40k", 1, "v2", "2epoch")
    assert len(voice["config"]) == 18
    assert not any(name.startswith("enc_q") for name in voice["weight"])
    assert {value.dtype for value in voice["weight"].values()} == {torch.float16}
    steps = max(event.step for event in events if isinstance(event, Metric))
    pair = torch.load(workspace.root / f"G_{steps}.pth", weights_only=True)
    assert set(pair) == {"model", "iteration", "optimizer", "learning_rate"}
    assert pair["iteration"] == 2
    assert pair["optimizer"]["param_groups"][0]["initial_lr"] == 1e-3
    assert len(pair["optimizer"]["state"]) == len(pair["model"])
    assert [path.name for path in workspace.weights.glob("anna_e1_*.pth")] == [f"anna_e1_s{steps // 2}.pth"]
    progress = [event.progress for event in events if isinstance(event, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert json.loads(workspace.hyperparameters.read_text())["data"]["sampling_rate"] == 40_000


def test_a_voice_carries_the_median_pitch_of_its_clips_and_a_save_of_its_run_has_the_same(finished: Workspace) -> None:
    curves = np.concatenate([np.load(path) for path in finished.f0_hz.glob("*.npy")])
    stored = torch.load(finished.voice_file, weights_only=True)["median_pitch"]
    assert stored == {0: pytest.approx(np.median(curves[curves > 0]), rel=0.1)}  # held-out clips are left out
    save = max(finished.root.glob("G_*.pth"))
    assert load_voice_or_save(save, torch.device("cpu")).median_pitch == stored


def test_the_index_holds_every_row_and_finds_it(finished: Workspace) -> None:
    workspace = finished
    index = faiss.read_index(str(workspace.index_file))
    rows = np.load(workspace.total_features)
    assert index.ntotal == len(rows) == sum(len(np.load(path)) for path in workspace.features.glob("*.npy"))
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), rows)
    assert (index.search(rows[::7].copy(), 1)[1][:, 0] == np.arange(0, len(rows), 7)).mean() > 0.99
    [added] = workspace.root.glob("added_*.index")
    assert added.name == f"added_IVF{index.nlist}_Flat_nprobe_1_anna_v2.index"


def test_a_second_run_repeats_nothing_that_is_unchanged(make: Make, finished: Workspace) -> None:
    _, events = make(total_epochs=2)

    assert stages(events)[:4] == [
        ("slice", "skipped"),
        ("pitch", "skipped"),
        ("content", "skipped"),
        ("train", "started"),
    ]
    metrics = [event for event in events if isinstance(event, Metric)]
    assert {event.epoch for event in metrics} == {2}
    _, events = make(total_epochs=2)
    assert ("train", "skipped") in stages(events)


def test_a_run_whose_checkpoints_were_taken_away_is_trained_anew(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.recovery)
    for path in finished.root.glob("[GD]_*.pth"):
        path.unlink()
    _, events = make(total_epochs=1)
    assert ("train", "finished") in stages(events)
    assert min(event.step for event in events if isinstance(event, Metric)) == 1


def test_another_run_on_the_same_recordings_takes_slices_pitch_and_features_from_the_cache(
    make: Make, finished: Workspace
) -> None:
    first = finished
    second, events = make("two", wanted=StageSelection(training=False))
    assert stages(events)[:3] == [("slice", "skipped"), ("pitch", "skipped"), ("content", "skipped")]
    for folder in ("0_gt_wavs", "2a_f0", "3_feature768"):
        names = sorted(path.name for path in (first.root / folder).iterdir())
        assert names == sorted(path.name for path in (second.root / folder).iterdir())
    assert second.mute_features.is_file()


def test_every_clip_comes_once_an_epoch_and_silence_twice_at_the_end(finished: Workspace) -> None:
    workspace = finished
    lines = workspace.filelist.read_text().splitlines()
    slices = {path.name for path in workspace.slices.glob("*.wav")}
    assert {Path(line.split("|")[0]).name for line in lines[:-2]} == slices
    assert len(lines) == len(slices) + 2
    assert lines[-1] == lines[-2]
    assert "mute" in lines[-1]
    assert all(len(line.split("|")) == 5 for line in lines)


def test_missing_weights_are_told_before_slicing(tmp_path: Path, recordings: Path) -> None:
    events: list[Event] = []
    machine = Machine(device="cpu", weights_folder=tmp_path / "none")
    workspace = Workspace(tmp_path / "run", "anna")
    with pytest.raises(MissingWeights, match="weights fetch") as caught:
        make_voice(recordings, workspace, TrainingConfig(), machine, events.append)
    assert "weights import" in str(caught.value)
    assert "content=whisper-tiny" in str(caught.value)
    assert "pretrained=none" in str(caught.value)
    assert not workspace.slices.exists()
    assert stages(events) == []


def test_only_the_index_is_made_when_training_is_not_wanted(make: Make) -> None:
    workspace, events = make(wanted=StageSelection(training=False))
    assert workspace.index_file.is_file()
    assert not workspace.voice_file.exists()
    assert [event.kind for event in events if isinstance(event, ArtifactReady)] == ["index"]


def test_training_that_fails_leaves_the_index_and_the_failure(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InvalidDataset("made to fail")

    monkeypatch.setattr("rvc_engine.training.trainer.run", fail)
    with pytest.raises(InvalidDataset, match="made to fail"):
        make("fails", wanted=StageSelection(continue_on_error=True))
    assert (tmp_path / "fails" / "weights" / "fails.index").is_file()


def test_an_export_that_sounds_otherwise_is_not_published(finished: Workspace) -> None:
    workspace = finished
    config = TrainingConfig(content="whisper-tiny", pretrained="none", pitch="dio", width=24)
    hparams = Hyperparameters.from_config(config)
    weights, _ = load_trained_synthesizer(workspace)
    clip = load_clip(list_clips(workspace, hparams)[0][0])
    export.check_voice(workspace.voice_file, weights, hparams, clip, torch.device("cpu"))
    for name in weights:
        if name.startswith("dec.ups.2"):
            weights[name] = weights[name].flip(0)
    with pytest.raises(ArtifactInvalid, match="does not sound"):
        export.check_voice(workspace.voice_file, weights, hparams, clip, torch.device("cpu"))
    assert not workspace.voice_file.exists()


@pytest.mark.parametrize("fault", ["renamed", "reshaped", "float32", "nan", "empty"])
def test_a_wrong_voice_file_is_refused(tmp_path: Path, fault: str) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    details = export.VoiceDetails("x", 1, 1, "contentvec", 60.0)
    tree = export.voice_tree(Synthesizer(hparams).state_dict(), hparams, details)
    weight = tree["weight"]
    if fault == "renamed":
        weight["dec.conv_pre.weights"] = weight.pop("dec.conv_pre.weight")
    elif fault == "reshaped":
        weight["dec.conv_pre.bias"] = weight["dec.conv_pre.bias"][1:]
    elif fault == "float32":
        weight["dec.conv_pre.bias"] = weight["dec.conv_pre.bias"].float()
    elif fault == "nan":
        weight["dec.conv_pre.bias"][0] = float("nan")
    else:
        tree = {}
    torch.save(tree, tmp_path / "x.pth")
    with pytest.raises(ArtifactInvalid):
        export.read_voice(tmp_path / "x.pth")


def test_a_full_size_voice_file_has_the_published_names_and_shapes(tmp_path: Path) -> None:
    published = json.loads((Path(__file__).parents[2] / "golden" / "state_dicts.json").read_text())["G/v2/40k/f0=1"]
    hparams = Hyperparameters.from_config(TrainingConfig())
    details = export.VoiceDetails("anna", 3, 120, "contentvec", 3725.0)
    export.write_voice(tmp_path / "anna.pth", Synthesizer(hparams).state_dict(), hparams, details)
    voice = torch.load(tmp_path / "anna.pth", weights_only=True)
    expected = {name: shape for name, shape in published.items() if not name.startswith("enc_q.")}
    assert {name: list(value.shape) for name, value in voice["weight"].items()} == expected
    assert voice["dataset_length"] == "01:02:05"
    assert voice["config"] == [
        1025, 32, 192, 192, 768, 2, 6, 3, 0, "1", [3, 7, 11], [[1, 3, 5]] * 3, [10, 10, 2, 2], 512, [16, 16, 4, 4],
        109, 256, 40000,
    ]  # fmt: skip


def test_another_encoder_in_the_same_workspace_leaves_the_cached_features_alone(
    finished: Workspace, cache: Path
) -> None:
    """The workspace's files are hard links into the cache; computing a stage again must not write through them."""
    kept = {path: path.read_bytes() for path in (cache / "content").rglob("*.npy")}
    stage_folders = [finished.features, finished.mute_features.parent]
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24)
    run = _Run(finished, config, Machine(device="cpu", cache_folder=cache), lambda _: None, lambda: False)

    with run.compute(_StageResult("content", "another fingerprint", stage_folders)):
        for path in kept:
            target = finished.root / path.relative_to(path.parents[1])
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"other features")
    assert kept
    assert all(path.read_bytes() == data for path, data in kept.items())


@pytest.mark.parametrize(("total_epochs", "most"), [(200, 0.02), (10, 0.2)])
def test_progress_is_a_share_of_time_of_which_many_epochs_take_most(total_epochs: int, most: float) -> None:
    spans = [progress_span(stage, TrainingConfig(total_epochs=total_epochs)) for stage in STAGES]
    assert (spans[0][0], spans[-1][1]) == (0, 1)
    assert [end for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    start, end = progress_span("train", TrainingConfig(total_epochs=total_epochs))
    assert 0 < start < most
    assert end > 1 - most / 2
