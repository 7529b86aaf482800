"""A short way from the train stage to the models, and a rollback that frees what it replaces."""

import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import soundfile
import torch

from rvc_engine.checkpoints import recovery
from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import GraphsFailed
from rvc_engine.events import Event, Log, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.reporting import StageReport
from rvc_engine.training import trainer
from rvc_engine.training.step import StepResult
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.workspace.layout import Workspace
from tests.engine.training.failing_graphs import UnusableGraphs
from tests.engine.training.test_compiled_steps import Recorder

ENGINE = Path(trainer.__file__).parents[1]
MAX_FRAMES_TO_THE_MODEL = 4
CONFIG = TrainingConfig(
    width=24,
    pretrained="none",
    f0=False,
    batch_size=2,
    total_epochs=1,
    evaluate="never",
    precision="fp32",
    checkpoint_every_steps=1,
)


@pytest.fixture
def prepared(tmp_path: Path) -> Workspace:
    """A workspace with four slices of noise and their features: two steps an epoch."""
    workspace, random = Workspace(tmp_path / "run", "anna"), np.random.default_rng(3)
    workspace.slices.mkdir(parents=True)
    workspace.features.mkdir()
    for number in range(4):
        wave = random.uniform(-0.5, 0.5, CONFIG.sample_rate_hz // 2).astype(np.float32)
        soundfile.write(workspace.slices / f"0_{number}.wav", wave, CONFIG.sample_rate_hz, subtype="FLOAT")
        np.save(workspace.features / f"0_{number}.npy", random.normal(size=(26, 768)).astype(np.float32))
    return workspace


def train(workspace: Workspace, config: TrainingConfig = CONFIG) -> tuple[TrainProgress, list[Event]]:
    events: list[Event] = []
    report = StageReport("train", events.append)
    return trainer.run(workspace, config, torch.device("cpu"), BaseWeights(), "noise", report), events


@contextmanager
def first_call_of(function: Callable[..., object]) -> Iterator[list[str]]:
    """The engine's frames at the first call of a function, outermost first: `module.function`."""
    path: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or frame.f_code is not function.__code__ or path:  # type: ignore[attr-defined]
            return
        caller: FrameType | None = frame
        while caller is not None:
            file = Path(caller.f_code.co_filename)
            if file.is_relative_to(ENGINE):
                path.insert(0, f"{file.stem}.{caller.f_code.co_qualname}")
            caller = caller.f_back

    sys.setprofile(profile)
    try:
        yield path
    finally:
        sys.setprofile(None)


def test_four_calls_lead_from_the_stage_to_the_model(prepared: Workspace) -> None:
    with first_call_of(Synthesizer.forward) as path:
        train(prepared)
    assert path[0] == "trainer.run"
    assert path[-1] == "synthesizer.Synthesizer.forward"
    assert len(path) <= MAX_FRAMES_TO_THE_MODEL, " -> ".join(path)


def test_after_a_failed_capture_the_run_goes_on_without_graphs_to_the_very_weights(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"total_epochs": 3, "checkpoint_every_steps": None})
    plain = Workspace(tmp_path / "plain", "anna")
    shutil.copytree(prepared.root, plain.root)
    train(plain, config)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "has_graphs", lambda _: True)
        patch.setattr(trainer, "CudaGraphCapturer", UnusableGraphs)
        with pytest.raises(GraphsFailed, match="stream is capturing"):
            train(prepared, config)
        [path] = prepared.recovery.glob("*.pt")
        assert path.name == "step_000000003.pt"
        patch.setenv("RVC_ENGINE_GRAPHS", "off")
        progress, events = train(prepared, config)
    logged = [event.message for event in events if isinstance(event, Log)]
    assert "resuming after step 3, in epoch 2" in logged
    assert "training runs without CUDA graphs, one kernel after another" in logged
    assert progress.step == 6
    ours, theirs = (load_trained_synthesizer(workspace)[0] for workspace in (prepared, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_engine_whose_capture_fails_starts_again_without_graphs_and_makes_the_voice(prepared: Workspace) -> None:
    settings = {**CONFIG.model_dump(exclude_defaults=True), "total_epochs": 2, "content": "whisper-tiny"}
    del settings["checkpoint_every_steps"]
    command = [
        sys.executable,
        "-m",
        "tests.engine.training.failing_graphs",
        "run",
        "--voice",
        "anna",
        "--device",
        "cpu",
    ]
    command += ["--workspace", str(prepared.root), "--threads", "1"]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (prepared.root / "train.log").read_text()
    assert log.count("the engine starts again without them and goes on from its last checkpoint") == 1
    assert log.count("resuming after step 3, in epoch 2") == 1
    assert prepared.voice_file.is_file()


def test_graphs_are_left_out_where_the_configuration_says_so(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "has_graphs", lambda _: True)
    monkeypatch.setattr(trainer, "CudaGraphCapturer", UnusableGraphs)
    progress, _ = train(prepared, CONFIG.model_copy(update={"total_epochs": 3, "graphs": "off"}))
    assert progress.step == 6


def test_a_run_with_compiled_parts_goes_on_without_them_from_the_same_checkpoint(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled is a function of the models, whose weights keep their names."""
    recorder, plain = Recorder(), Workspace(tmp_path / "plain", "anna")
    shutil.copytree(prepared.root, plain.root)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(trainer, "Compiler", lambda *_: recorder)
    train(prepared, CONFIG.model_copy(update={"compile": True}))
    assert recorder.calls == {"decoder": 2, "discriminators": 6}
    longer = CONFIG.model_copy(update={"total_epochs": 2})
    progress, events = train(prepared, longer)
    assert progress.step == 4
    assert any(isinstance(event, Log) and event.message.startswith("resuming after step 2,") for event in events)
    train(plain, longer)
    assert recorder.calls["decoder"] == 2
    ours, theirs = (load_trained_synthesizer(workspace)[0] for workspace in (prepared, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_gpu_resumes_from_a_file_in_the_machines_memory(prepared: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy of the state in the GPU's memory may be one too many."""
    train(prepared)
    read: list[tuple[object, ...]] = []
    load = recovery.load_file

    def load_and_note(path: Path, device: str = "cpu", lazily: bool = False) -> object:
        read.append((device, lazily))
        return load(path, device, lazily)

    monkeypatch.setattr(recovery, "load_file", load_and_note)
    for device in ("cuda:0", "cpu"):
        with monkeypatch.context() as patch:
            patch.setattr(GanTrainState, "device", torch.device(device))
            state = GanTrainState.build(Hyperparameters.from_config(CONFIG), torch.device("cpu"), 1e-4)
            store = recovery.RecoveryStore(prepared, trainer.run_identity(CONFIG, BaseWeights(), "noise"))
            assert store.load(state, pytest.fail) is not None
    assert read == [("cpu", True), ("cpu", False)]


def test_a_rollback_frees_the_models_before_it_builds_them_again(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a small GPU that has room for one train state and not for two runs out of memory."""
    models: list[weakref.ref[Synthesizer]] = []
    build, step = GanTrainState.build, trainer.training_step

    def watched_build(*arguments: object) -> GanTrainState:
        assert not any(model() for model in models)
        state = build(*arguments)  # type: ignore[arg-type]
        models.append(weakref.ref(state.synthesizer))
        return state

    def spoiled_step(*arguments: object) -> StepResult:
        result = step(*arguments)  # type: ignore[arg-type]
        return StepResult(*[torch.tensor(float("nan"))] * 7) if len(models) == 1 and result else result

    monkeypatch.setattr(GanTrainState, "build", watched_build)
    monkeypatch.setattr(trainer, "training_step", spoiled_step)
    progress, events = train(prepared)
    assert len(models) == 2
    assert (progress.step, progress.num_rollbacks, progress.learning_rate_scale) == (2, 1, 0.5)
    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert "no longer finite (loss/disc" in warning
    assert "went back to step 0 with 0.5 times the learning rate" in warning
