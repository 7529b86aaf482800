"""A short way from the train stage to the models, and a rollback that frees what it replaces."""

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

from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event, Warned
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.reporting import StageReport
from rvc_engine.training import trainer
from rvc_engine.training.step import StepResult
from rvc_engine.training.trainer import BaseWeights
from rvc_engine.workspace.layout import Workspace

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


def train(workspace: Workspace) -> tuple[TrainProgress, list[Event]]:
    events: list[Event] = []
    report = StageReport("train", events.append)
    return trainer.run(workspace, CONFIG, torch.device("cpu"), BaseWeights(), "noise", report), events


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
