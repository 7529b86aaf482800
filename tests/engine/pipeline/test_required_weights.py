"""Check of the weights that a run needs, before any work and with all missing files in one message."""

import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights


def test_missing_weights_are_told_before_any_work_with_the_three_ways_out(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        check_weights(TrainingConfig(), Machine(weights_folder=tmp_path))
    message = str(caught.value)
    for way in (
        "rvc-engine weights fetch hubert",
        "rvc-engine weights import FOLDER",
        "content=whisper-tiny",
        "rvc-engine weights fetch pretrained-v2-40k",
        "pretrained=none",
    ):
        assert way in message


def test_the_carried_encoder_from_scratch_needs_no_weights(tmp_path):
    check_weights(TrainingConfig(content="whisper-tiny", pretrained="none"), Machine(weights_folder=tmp_path))


def test_the_encoder_that_is_missing_is_the_one_that_was_chosen(tmp_path):
    machine = Machine(weights_folder=tmp_path)
    for name in ("spin", "spin-v2"):
        with pytest.raises(MissingWeights, match=f"the content encoder {name} cannot .* fetch embedder-{name} "):
            check_weights(TrainingConfig(content=name, pretrained="none"), machine)
    with pytest.raises(MissingWeights, match="no folder is set on this machine; set --content-folder"):
        check_weights(TrainingConfig(content="local", pretrained="none"), machine)


def test_base_weights_of_ones_own_need_no_published_ones(tmp_path):
    own = tmp_path / "g.pth"
    own.write_bytes(b"weights")
    config = TrainingConfig(content="whisper-tiny")
    check_weights(config, Machine(weights_folder=tmp_path, pretrained_g=own, pretrained_d=own))
    with pytest.raises(MissingWeights, match=r"pretrained-v2-40k: f0D40k\.pth\."):
        check_weights(config, Machine(weights_folder=tmp_path, pretrained_g=own))
    with pytest.raises(MissingWeights, match="there is no file"):
        check_weights(config, Machine(weights_folder=tmp_path, pretrained_g=tmp_path / "gone", pretrained_d=own))


def test_a_run_without_training_or_recordings_needs_less(tmp_path):
    machine = Machine(weights_folder=tmp_path)
    with pytest.raises(MissingWeights) as caught:
        check_weights(TrainingConfig(), machine, trains=False)
    assert "base weights" not in str(caught.value)
    with pytest.raises(MissingWeights) as caught:
        check_weights(TrainingConfig(), machine, prepares=False)
    assert "content encoder" not in str(caught.value)
