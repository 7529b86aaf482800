"""Names and shapes of all models are the published ones; parts of them compute what their papers describe."""

import json
from pathlib import Path

import pytest
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.attention import MASK_FILL, WINDOW, RelativeAttention
from rvc_engine.models.decoder import SineSource
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.encoders import frame_mask
from rvc_engine.models.flow import Coupling, Flow
from rvc_engine.models.synthesizer import Synthesizer, cut_segments

GOLDEN = Path(__file__).parents[2] / "golden"
STATE_DICTS = json.loads((GOLDEN / "state_dicts.json").read_text())
PUBLISHED = json.loads((GOLDEN / "hyperparameters.json").read_text())
KINDS = [(v, r, f) for v in ("v1", "v2") for r in ("32k", "40k", "48k") for f in (True, False)]


@pytest.mark.parametrize(("version", "rate", "f0"), KINDS)
def test_generator_has_the_published_names_and_shapes_in_order(version: str, rate: str, f0: bool) -> None:
    config = TrainingConfig(version=version, sample_rate=rate, f0=f0)
    with torch.device("meta"):
        net = Synthesizer(Hyperparameters.from_config(config))
    ours = {name: list(value.shape) for name, value in net.state_dict().items()}
    published = STATE_DICTS[f"G/{version}/{rate}/f0={int(f0)}"]
    assert ours == published
    assert list(ours) == list(published)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_discriminators_have_the_published_names_and_shapes_in_order(version: str) -> None:
    with torch.device("meta"):
        net = Discriminators(version)
    ours = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert list(ours.items()) == list(STATE_DICTS[f"D/{version}"].items())


@pytest.mark.parametrize(("version", "rate"), [(v, r) for v, r, f in KINDS if f])
def test_workspace_config_holds_the_published_numbers(version: str, rate: str) -> None:
    config = TrainingConfig(version=version, sample_rate=rate)
    written = json.loads(Hyperparameters.from_config(config).workspace_config(config, 4))
    for part, numbers in PUBLISHED[f"{version}/{rate}"].items():
        assert written[part] == numbers


@pytest.mark.parametrize(("version", "rate", "f0"), KINDS)
def test_sizes_come_back_from_a_voice_files_list(version: str, rate: str, f0: bool) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(version=version, sample_rate=rate, f0=f0))
    assert len(hparams.voice_config()) == 18
    assert Hyperparameters.from_voice_config(hparams.voice_config(), version, f0, 109) == hparams


def test_flow_undoes_itself() -> None:
    torch.manual_seed(0)
    flow = Flow(8, 4).double()
    for layer in flow.flows:
        if isinstance(layer, Coupling):  # the published initialisation is zero, which would prove nothing
            torch.nn.init.normal_(layer.post.weight)
    x, speaker = torch.randn(2, 8, 12).double(), torch.randn(2, 4, 1).double()
    mask = frame_mask(torch.tensor([12, 9]), 12, torch.float64)
    there = flow(x * mask, mask, speaker)
    assert not torch.allclose(there, x * mask)
    assert torch.allclose(flow(there, mask, speaker, reverse=True), x * mask)


def test_sine_source_has_the_pitch_and_stays_in_tune() -> None:
    source = SineSource(40_000, 400)
    f0 = torch.full((1, 6000), 441.25)  # a minute
    wave = source.sine(f0, torch.zeros(1, 6000 * 400))[0].double()
    n = torch.arange(1, len(wave) + 1, dtype=torch.float64)
    assert torch.allclose(wave, 0.1 * torch.sin(2 * torch.pi * 441.25 / 40_000 * n), atol=2e-4)


def test_sine_source_is_noise_where_unvoiced() -> None:
    source = SineSource(40_000, 400)
    noise = torch.randn(1, 800)
    wave = source.sine(torch.tensor([[0.0, 200.0]]), noise)
    assert torch.allclose(wave[:, :400], noise[:, :400] * 0.1 / 3)
    assert (wave[:, 400:] - noise[:, 400:] * 0.003).abs().max() > 0.09


@pytest.mark.parametrize("frames", [1, 7, WINDOW, 30])
def test_attention_has_a_term_for_each_distance_within_its_window(frames: int) -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(8).double()
    x = torch.randn(2, 8, frames, dtype=torch.float64)
    is_padding = torch.zeros(2, 1, frames, frames, dtype=torch.bool)
    is_padding[1, :, :, frames // 2 + 1 :] = True

    query, key, value = (
        conv(x).view(2, 2, 4, frames) for conv in (attention.conv_q, attention.conv_k, attention.conv_v)
    )
    near_key, near_value = (torch.zeros(frames, frames, 4, dtype=torch.float64) for _ in range(2))
    for i in range(frames):
        for j in range(max(0, i - WINDOW), min(frames, i + WINDOW + 1)):
            near_key[i, j] = attention.emb_rel_k[0, j - i + WINDOW]
            near_value[i, j] = attention.emb_rel_v[0, j - i + WINDOW]
    scores = torch.einsum("bhdi,bhdj->bhij", query, key) + torch.einsum("bhdi,ijd->bhij", query, near_key)
    share = (scores / 2).masked_fill(is_padding, MASK_FILL).softmax(-1)  # 2: the root of a head's size
    mixed = torch.einsum("bhij,bhdj->bhdi", share, value) + torch.einsum("bhij,ijd->bhdi", share, near_value)
    assert torch.allclose(attention(x, is_padding), attention.conv_o(mixed.flatten(1, 2)), rtol=1e-10)


def test_cut_segments_takes_each_clips_own_stretch() -> None:
    x = torch.arange(2 * 3 * 10).view(2, 3, 10)
    cut = cut_segments(x, torch.tensor([1, 6]), 4)
    assert torch.equal(cut[0], x[0, :, 1:5])
    assert torch.equal(cut[1], x[1, :, 6:10])


@pytest.mark.parametrize("width", [24, 48, 96])
def test_small_models_give_as_many_samples_as_full_ones(width: int) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=width, pretrained="none"))
    net = Synthesizer(hparams)
    wave = net.infer(
        torch.randn(1, 10, 768),
        torch.ones(1, 10, dtype=torch.long),
        torch.full((1, 10), 200.0),
        torch.tensor([10]),
        torch.tensor([0]),
        torch.zeros(1, width, 10),
        torch.zeros(1, 4000),
    )
    assert wave.shape == (1, 1, 4000)
    assert len(Discriminators("v2", width / 192)(wave)) == 9
