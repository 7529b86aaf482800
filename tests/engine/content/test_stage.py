"""The stage `content` in a workspace."""

import hashlib

import numpy as np
import pytest
import scipy.io.wavfile
import torch

from rvc_engine.compute.parallel import LOOK_AHEAD
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.errors import InvalidDataset, MissingWeights, StopRequested
from rvc_engine.events import Progress, Warned
from rvc_engine.machine import Machine
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace

CONFIG = TrainingConfig(content="whisper-tiny", pretrained="none")
CPU = torch.device("cpu")


class TenfoldEncoder:
    """Encoder whose feature is ten times the sample at each frame; NaN for clips that begin with 0.5."""

    name = "tenfold"
    feature_size = 1

    def __init__(self):
        self.batches = []

    def encode(self, waves_16k):
        self.batches.append([len(wave) for wave in waves_16k])
        return [self._one(wave) for wave in waves_16k]

    def _one(self, wave):
        rows = 10 * wave[: (len(wave) - 80) // 320 * 320 : 320, None]
        return np.full_like(rows, np.nan) if len(wave) and wave[0] == 0.5 else rows


@pytest.fixture
def encoder(monkeypatch):
    fake = TenfoldEncoder()
    monkeypatch.setattr(content_stage, "create_encoder", lambda *_, **__: fake)
    return fake


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "run", "anna")


def add_slice(workspace, name, wave):
    workspace.slices_16k.mkdir(parents=True, exist_ok=True)
    scipy.io.wavfile.write(workspace.slices_16k / f"{name}.wav", 16_000, np.asarray(wave, np.float32))


def run(workspace, is_stopping=lambda: False, config=CONFIG):
    events = []
    content_stage.run(workspace, config, Machine(), CPU, StageReport("content", events.append, is_stopping))
    return events


def test_every_slice_gets_its_features_and_silence_too(workspace):
    rng = np.random.default_rng(0)
    for name, length in (("0_0", 64_000), ("0_1", 8_000), ("1_0", 64_000)):
        add_slice(workspace, name, 0.1 * rng.standard_normal(length))
    events = run(workspace)
    shapes = {path.stem: np.load(path).shape for path in workspace.features.iterdir()}
    assert shapes == {"0_0": (199, 768), "0_1": (24, 768), "1_0": (199, 768)}
    assert np.load(workspace.features / "0_0.npy").dtype == np.float32
    assert np.load(workspace.mute_features).shape == (149, 768)
    assert [event.stage_progress for event in events if isinstance(event, Progress)][-1] == 1


def test_slices_of_like_length_are_encoded_together_and_the_batch_is_bounded(workspace, encoder, monkeypatch):
    monkeypatch.setattr(content_stage, "BATCH_BYTES", 4 * 3100 * 8)
    for n in range(10):
        add_slice(workspace, f"0_{n}", np.full(3000, n / 10))
    add_slice(workspace, "1_0", np.zeros(2000))
    run(workspace)
    assert sorted(encoder.batches[1:]) == [[2000] + [3000] * 7, [3000] * 3]
    for n in (0, 3, 9):
        np.testing.assert_allclose(np.load(workspace.features / f"0_{n}.npy"), n, atol=1e-6)


def test_features_of_a_former_run_are_gone(workspace, encoder):
    workspace.features.mkdir(parents=True)
    (workspace.features / "9_9.npy").write_bytes(b"old")
    add_slice(workspace, "0_0", np.zeros(3000))
    run(workspace)
    assert [path.name for path in workspace.features.iterdir()] == ["0_0.npy"]


def test_a_slice_without_usable_features_is_left_out_with_a_warning(workspace, encoder):
    add_slice(workspace, "0_0", np.full(3000, 0.5))
    add_slice(workspace, "0_1", np.zeros(3000))
    add_slice(workspace, "0_2", np.zeros(100))
    [warning] = [event for event in run(workspace) if isinstance(event, Warned)]
    assert warning.message.startswith("2 of 3 slices")
    assert "0_0.wav, 0_2.wav" in warning.message
    assert [path.name for path in workspace.features.iterdir()] == ["0_1.npy"]


def test_no_usable_features_at_all_is_an_invalid_dataset(workspace, encoder):
    add_slice(workspace, "0_0", np.zeros(100))
    with pytest.raises(InvalidDataset, match=r"0_0\.wav"):
        run(workspace)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_it_stops_between_batches(workspace, encoder, monkeypatch):
    monkeypatch.setattr(content_stage, "BATCH_BYTES", 0)
    for n in range(50):
        add_slice(workspace, f"0_{n}", np.zeros(2000 + 320 * n))
    with pytest.raises(StopRequested):
        run(workspace, is_stopping=lambda: len(encoder.batches) > 2)
    assert 2 <= len(list(workspace.features.iterdir())) <= 2 + 2 * LOOK_AHEAD * 2


def test_the_fingerprint_of_a_local_encoder_is_that_of_its_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config, machine = TrainingConfig(content="local"), Machine(content_folder=tmp_path)
    seen = []
    for weights in (b"one", b"other"):
        (tmp_path / "pytorch_model.bin").write_bytes(weights)
        seen.append(content_stage.fingerprint_parts(config, machine))
        assert content_stage.made_with(config, machine) == seen[-1][1] == f"local-{hashlib.sha256(weights).hexdigest()}"
    assert seen[0] != seen[1]


def test_the_fingerprint_holds_the_encoder_and_the_checksum_of_its_weights(tmp_path):
    machine = Machine(weights_folder=tmp_path)
    parts = content_stage.fingerprint_parts(CONFIG, machine)
    assert "whisper-tiny.en-l2l3" in parts
    assert any(len(part) == 64 for part in parts)
    with pytest.raises(MissingWeights):
        content_stage.fingerprint_parts(TrainingConfig(), machine)
