"""A prepared workspace: real recordings through slicing, pitch and content, once per session."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection, make_voice
from rvc_engine.workspace.layout import Workspace

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.flac"))

TINY = {
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "width": 24,
    "batch_size": 2,
    "total_epochs": 2,
    "learning_rate": 1e-3,
}


ALL = StageSelection()


def tiny_config(**changes: object) -> TrainingConfig:
    return TrainingConfig.model_validate({**TINY, **changes})


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of the sample voice: four slices or so."""
    folder = tmp_path_factory.mktemp("recordings")
    for path in SAMPLES[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def machine(cache: Path, short_foreign_speakers: None) -> Machine:
    return Machine(device="cpu", num_threads=1, cache_folder=cache)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory, recordings: Path, machine: Machine) -> Path:
    """The folder of a run of one epoch."""
    root = tmp_path_factory.mktemp("finished") / "anna"
    make_voice(recordings, Workspace(root, "anna"), tiny_config(total_epochs=1), machine, lambda _: None)
    return root


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Workspace:
    """A copy of that run, where `make` makes a voice of the same name."""
    shutil.copytree(finished_once, tmp_path / "anna")
    return Workspace(tmp_path / "anna", "anna")


@pytest.fixture
def make(tmp_path: Path, recordings: Path, machine: Machine) -> Callable[..., tuple[Workspace, list[Event]]]:
    """Make a voice in this process; returns its workspace and all events."""

    def make_one(
        name: str = "anna", dataset: Path | None = recordings, wanted: StageSelection = ALL, **changes: object
    ) -> tuple[Workspace, list[Event]]:
        config = tiny_config(**changes)
        workspace = Workspace(tmp_path / name, name, config.version)
        events: list[Event] = []
        make_voice(dataset, workspace, config, machine, events.append, selection=wanted)
        return workspace, events

    return make_one
