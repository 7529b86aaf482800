"""All twelve kinds of voice at full size: two steps of training, the small file, the published names and shapes."""

import json
from pathlib import Path

import pytest
import torch

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.step import draw_starts, training_step
from rvc_engine.voices.export import VoiceDetails, read_voice, write_voice

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden" / "state_dicts.json").read_text())
VARIANTS = [(version, rate, f0) for version in ("v1", "v2") for rate in ("32k", "40k", "48k") for f0 in (True, False)]
DAILY = {("v1", "48k", False)}
"""A variant without golden numbers; the others take minutes."""
CPU = torch.device("cpu")


def batch_of(hparams: Hyperparameters) -> Batch:
    """One clip of random numbers, a little longer than a segment."""
    frames = hparams.segment_frames + 4
    random = torch.Generator().manual_seed(1)
    f0 = 200 + 20 * torch.rand(1, frames, generator=random)
    return Batch(
        features=torch.randn(1, frames, hparams.feature_size, generator=random),
        coarse_f0=torch.full((1, frames), 60) if hparams.f0 else None,
        f0=f0 if hparams.f0 else None,
        spec=torch.rand(1, hparams.n_fft // 2 + 1, frames, generator=random),
        wave=0.1 * torch.randn(1, frames * hparams.hop_length, generator=random),
        lengths=torch.tensor([frames]),
        speakers=torch.tensor([0]),
    )


def shapes(tree: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in tree.items()}


@pytest.mark.parametrize(
    ("version", "rate", "f0"),
    [pytest.param(*kind, marks=() if kind in DAILY else pytest.mark.long) for kind in VARIANTS],
)
def test_a_variant_trains_and_exports_under_the_published_names(
    tmp_path: Path, version: str, rate: str, f0: bool
) -> None:
    config = {"version": version, "sample_rate": rate, "f0": f0, "pretrained": "none"}
    hparams = Hyperparameters.from_config(TrainingConfig.model_validate(config))
    torch.manual_seed(0)
    state, batch = GanTrainState.build(hparams, CPU, 1e-4), batch_of(hparams)
    random = torch.Generator().manual_seed(2)
    before = {name: value.clone() for name, value in state.synthesizer.state_dict().items()}
    for _ in range(2):
        starts = draw_starts(batch.lengths, hparams.segment_frames, random)
        result = training_step(state, batch, starts, Noise.draw(hparams, 1, batch.spec.shape[2], random))
        assert torch.isfinite(result.stacked()).all()
    trained = state.synthesizer.state_dict()
    published = PUBLISHED[f"G/{version}/{rate}/f0={int(f0)}"]
    assert shapes(trained) == published
    assert shapes(state.discriminators.state_dict()) == PUBLISHED[f"D/{version}"]
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    path = tmp_path / "voice.pth"
    write_voice(path, trained, hparams, VoiceDetails("voice", 1, 2, "contentvec", 1.0))
    weights = torch.load(path, weights_only=True)["weight"]
    assert shapes(weights) == {name: shape for name, shape in published.items() if not name.startswith("enc_q.")}
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert read_voice(path) is not None
