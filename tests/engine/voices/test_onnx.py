"""Export of voices as ONNX graphs that compute what the model does."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from rvc_engine.cli.main import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import ArtifactInvalid, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices import onnx
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_engine.voices.onnx import example_inputs, export_onnx


def make_voice(path: Path, f0: bool) -> Path:
    torch.manual_seed(0)
    hparams = Hyperparameters.from_config(TrainingConfig(pretrained="none", width=24, f0=f0))
    write_voice(path, Synthesizer(hparams).state_dict(), hparams, VoiceDetails("anna", 1, 1, "contentvec", 60.0))
    return path


def open_graph(path: Path) -> "onnxruntime.InferenceSession":
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_voice_is_exported_with_the_inputs_of_rvcs_own_graphs(tmp_path: Path) -> None:
    voice, target = make_voice(tmp_path / "anna.pth", f0=True), tmp_path / "anna.onnx"
    exported = CliRunner().invoke(app, ["onnx", str(voice), "-o", str(target)])
    assert exported.exit_code == 0, exported.output
    assert exported.output.count("frames: differs from PyTorch by at most") == 2

    graph = open_graph(target)
    assert [each.name for each in graph.get_inputs()] == ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]
    assert [each.name for each in graph.get_outputs()] == ["audio"]
    facts = graph.get_modelmeta().custom_metadata_map
    assert (facts["sample_rate"], facts["version"], facts["embedder_model"]) == ("40000", "v2", "contentvec")
    hparams = Hyperparameters.from_config(TrainingConfig(pretrained="none", width=24))
    for frames in (20, 333):  # neither length is one of the export's check
        inputs = example_inputs(hparams, frames, seed=5)
        [audio] = graph.run(None, inputs)
        assert audio.shape == (1, 1, frames * 400)
        assert np.abs(audio).max() > 0.01
        assert np.array_equal(graph.run(None, inputs)[0], audio)
    [other] = graph.run(None, {**inputs, "ds": np.array([7])})
    assert np.abs(other - audio).max() > 1e-4


@pytest.mark.long
def test_a_voice_without_pitch_is_exported_too(tmp_path: Path) -> None:
    checks = export_onnx(make_voice(tmp_path / "flat.pth", f0=False), tmp_path / "flat.onnx")
    assert max(check.difference for check in checks) < 1e-4
    names = [each.name for each in open_graph(tmp_path / "flat.onnx").get_inputs()]
    assert names == ["phone", "phone_lengths", "ds", "rnd"]


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "_write", lambda *given: given[2].write_bytes(b"graph"))
    monkeypatch.setattr(onnx, "_check", lambda *given: onnx.Check(given[2], 1e-3))
    with pytest.raises(ArtifactInvalid, match=r"samples differ by up to 0\.001, allowed 0\.0001"):
        export_onnx(make_voice(tmp_path / "anna.pth", f0=False), tmp_path / "anna.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["anna.pth"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InvalidConfig, match=r"onnxscript.*pip install .*\[onnx\]"):
        export_onnx(tmp_path / "anna.pth", tmp_path / "anna.onnx")
