"""Voices that began with a pair, or that total_epochs=auto chose, are loaded by the own code of RVC WebUI and Applio.

RVC_WEBUI and APPLIO: checkouts of these programs; without the variable the program's tests are skipped. Packages that
are missing, and that loading does not use, are replaced by empty ones.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.data import split
from rvc_engine.evaluation import evaluator, stopping
from rvc_engine.events import Event, TrainingEnded
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.workspace.index_files import read_index
from rvc_engine.workspace.layout import Workspace

LOADER = Path(__file__).parent / "foreign_loader.py"
CHECKOUTS = {"rvc": "RVC_WEBUI", "applio": "APPLIO"}
FIELDS = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}


@pytest.fixture(scope="module")
def voices(
    finished_once: Path, recordings: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Workspace]:
    """A voice from scratch, one that goes on from it, and one from base weights of the user's own."""
    [generator], [discriminator] = finished_once.glob("G_*.pth"), finished_once.glob("D_*.pth")
    config = TrainingConfig.model_validate(FIELDS | {"total_epochs": 1, "evaluate": "never"})
    made = {"from scratch": Workspace(finished_once, "anna")}
    begun = replace(machine, pretrained_g=generator, pretrained_d=discriminator)
    for name, origin in (("goes on", "the save of the job job_1 (anna), number 2"), ("own base", "the base weights x")):
        made[name] = Workspace(tmp_path_factory.mktemp("voices") / "berta", "berta")
        make_voice(recordings, made[name], config, replace(begun, base_origin=origin), lambda _: None)
    return made


@pytest.fixture(scope="module")
def chosen(recordings: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The voice that total_epochs=auto chose: the best save, which is not the last one."""
    workspace, events = Workspace(tmp_path_factory.mktemp("chosen") / "carla", "carla"), list[Event]()
    more = {"total_epochs": "auto", "stop_share": 0.2, "max_epochs": 40, "learning_rate": 1e-3, "lr_decay": 0.4}
    with pytest.MonkeyPatch.context() as patch:  # an evaluation of one short clip after each epoch
        patch.setattr(split, "NUM_TRAINING_CLIPS", 1)
        patch.setattr(evaluator, "PREVIEW_FRAMES", 60)
        patch.setattr(stopping, "MIN_SPACING", 1)
        patch.setattr(stopping, "MIN_EVALUATIONS", 5)
        make_voice(recordings, workspace, TrainingConfig.model_validate(FIELDS | more), machine, events.append)
    [end] = [event for event in events if isinstance(event, TrainingEnded)]
    assert (end.reason, (end.best_step or 0) < end.step) == ("no_better_save", True)
    return workspace


def layout(tree: dict[str, Any]) -> dict[str, Any]:
    """Keys, types, shapes and number formats of a voice file."""
    tensors = {name: (value.shape, value.dtype) for name, value in tree["weight"].items()}
    return {name: type(value) for name, value in tree.items()} | {"weight": tensors, "config": tree["config"]}


@pytest.mark.parametrize("kind", ["goes on", "own base"])
def test_a_voice_that_began_with_a_pair_has_the_form_of_one_that_did_not(
    voices: dict[str, Workspace], kind: str
) -> None:
    plain, begun = (torch.load(voices[each].voice_file, weights_only=True) for each in ("from scratch", kind))
    assert isinstance(begun.pop("base_weights"), str)
    plain.pop("base_weights", None)
    assert layout(begun) == layout(plain)
    one, other = (read_index(voices[each].index_file) for each in ("from scratch", kind))
    assert (type(one), one.d, one.ntotal, one.metric_type) == (type(other), other.d, other.ntotal, other.metric_type)


@pytest.mark.parametrize("kind", ["from scratch", "goes on", "own base", "chosen"])
@pytest.mark.parametrize("program", CHECKOUTS)
def test_the_own_loading_code_of_another_program_takes_the_voice_and_its_index(
    request: pytest.FixtureRequest, voices: dict[str, Workspace], program: str, kind: str
) -> None:
    checkout = os.environ.get(CHECKOUTS[program])
    if checkout is None:
        pytest.skip(f"{CHECKOUTS[program]} names no checkout of {program}")
    workspace = request.getfixturevalue("chosen") if kind == "chosen" else voices[kind]
    voice = workspace.voice_file
    done = subprocess.run(
        [sys.executable, LOADER, program, checkout, voice], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["missing"], found["unknown"], found["different"]) == ([], [], [])
    assert (found["samples"], found["is_finite"]) == (60 * 400, True)  # 10 ms each, at 40 kHz
    assert 0 < found["loudest"] <= 1
    assert found["index"] == workspace.index_file.name
    assert found["finds_itself"]
    assert found["rows"] > 100
