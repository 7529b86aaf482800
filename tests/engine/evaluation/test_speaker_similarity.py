"""Speaker similarity: measured if its weights are installed, skipped if not."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.evaluation.speaker_similarity import ResemblyzerScorer, _VoiceEncoder, installed_scorer
from rvc_engine.weights import packages

RATE = 16_000


def made_up_weights(path: Path) -> Path:
    """A file in the published format with weights from a formula."""
    tree = {"similarity_weight": torch.ones(1), "similarity_bias": torch.zeros(1)}
    for number, (name, value) in enumerate(_VoiceEncoder().state_dict().items()):
        angles = torch.arange(value.numel(), dtype=torch.float64).square() * 0.7 + number
        size = 100 if name == "lstm.weight_ih_l0" else 0.15  # so that the output depends on the sound too
        tree[name] = (torch.sin(angles) * size).float().view(value.shape)
    torch.save({"step": 1, "model_state": tree}, path)
    return path


def chirp(seconds: float, loudness: float = 0.1) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ResemblyzerScorer:
    return ResemblyzerScorer(made_up_weights(tmp_path_factory.mktemp("weights") / "pretrained.pt"))


REFERENCE = {
    0.6: ([9, 118, 221, 6, 131], [0.231477, 0.204024, 0.197396, 0.187407, 0.181917]),
    1.9: ([156, 10, 30, 135, 105], [0.262337, 0.222882, 0.208075, 0.198307, 0.18923]),
    4.0: ([9, 81, 10, 8, 156], [0.238857, 0.175517, 0.173451, 0.165279, 0.146346]),
}
"""Largest values of Resemblyzer 0.1.4 with these weights and sounds: by seconds, their positions and values."""


@pytest.mark.parametrize("seconds", sorted(REFERENCE))
def test_embeddings_are_those_of_the_package(scorer: ResemblyzerScorer, seconds: float) -> None:
    places, values = REFERENCE[seconds]
    found = scorer.embed(chirp(seconds, 0.01))
    assert np.argsort(-found)[:5].tolist() == places
    assert found[places] == pytest.approx(values, abs=1e-5)


def test_a_voice_is_like_itself_and_loudness_does_not_matter(scorer: ResemblyzerScorer) -> None:
    one = scorer.embed(chirp(2.0, 0.01))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ scorer.embed(chirp(2.0, 0.005)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.3, 1.6])
def test_short_and_silent_clips_have_an_embedding_too(scorer: ResemblyzerScorer, seconds: float) -> None:
    for wave in (chirp(seconds), np.zeros(int(seconds * RATE), np.float32)):
        assert np.isfinite(scorer.embed(wave)).all()


def test_the_weights_are_found_in_the_installed_package_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "resemblyzer"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this needs webrtcvad')")
    made_up_weights(package / "pretrained.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = torch.get_rng_state()
    found = installed_scorer()
    assert found is not None
    assert found.name == "resemblyzer"
    assert "resemblyzer" not in sys.modules
    assert torch.equal(torch.get_rng_state(), before)


def test_damaged_weights_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "pretrained.pt").write_bytes(b"half of it")
    with pytest.raises(IncompatibleCheckpoint, match=r"pretrained\.pt"):
        ResemblyzerScorer(tmp_path / "pretrained.pt")
    torch.save({"something": "else"}, tmp_path / "pretrained.pt")
    with pytest.raises(IncompatibleCheckpoint, match="resemblyzer"):
        ResemblyzerScorer(tmp_path / "pretrained.pt")


def test_without_the_package_there_is_no_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    assert installed_scorer() is None
