"""Voices that began with a pair of another one are loaded by the own code of RVC WebUI and Applio, with their index.

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


@pytest.mark.parametrize("kind", ["from scratch", "goes on", "own base"])
@pytest.mark.parametrize("program", CHECKOUTS)
def test_the_own_loading_code_of_another_program_takes_the_voice_and_its_index(
    voices: dict[str, Workspace], program: str, kind: str
) -> None:
    checkout = os.environ.get(CHECKOUTS[program])
    if checkout is None:
        pytest.skip(f"{CHECKOUTS[program]} names no checkout of {program}")
    voice = voices[kind].voice_file
    done = subprocess.run(
        [sys.executable, LOADER, program, checkout, voice], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["missing"], found["unknown"], found["different"]) == ([], [], [])
    assert (found["samples"], found["is_finite"]) == (60 * 400, True)  # 10 ms each, at 40 kHz
    assert 0 < found["loudest"] <= 1
    assert found["index"] == voices[kind].index_file.name
    assert found["finds_itself"]
    assert found["rows"] > 100
