"""Convolutions in bfloat16 on a CPU give what PyTorch's own give, and the nets' gradients stay those of float32."""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute import precision
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models import losses, weight_norm
from rvc_engine.models.cpu_convolution import (
    PeriodConvolution,
    conv1d_channels_last,
    prefers_channels_last,
    weight_gradient,
)
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.synthesizer import Noise
from rvc_engine.models.weight_norm import WeightNormConv1d, WeightNormConv2d, cached_weights
from rvc_engine.training.step import training_step

CPU = torch.device("cpu")
SHORT = Precision("bf16", "cpu")


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()


def cosine(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.double().flatten(), theirs.double().flatten()
    return float(ours @ theirs / (ours.norm() * theirs.norm()))


# --- the convolution of the period discriminators


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("slope", [None, 0.1])
def test_the_period_convolutions_gradients_are_those_of_its_values(stride: int, slope: float | None) -> None:
    inputs = drawn(2, 3, 11, 2), drawn(4, 3, 5, 1), drawn(4)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: PeriodConvolution.apply(x, weight, bias, stride, 2, slope, torch.float64), inputs
    )


@pytest.mark.parametrize(("stride", "slope"), [(1, None), (3, 0.1)])
def test_the_period_convolution_is_a_convolution_along_time(stride: int, slope: float | None) -> None:
    x, weight, bias = drawn(2, 3, 29, 7), drawn(4, 3, 5, 1), drawn(4)
    ours = PeriodConvolution.apply(x, weight, bias, stride, 2, slope, torch.float64)
    theirs = F.conv2d(x, weight, bias, (stride, 1), (2, 0))
    theirs = theirs if slope is None else F.leaky_relu(theirs, slope)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    pull = torch.randn_like(theirs)
    for mine, given in zip(
        torch.autograd.grad(ours, (x, weight, bias), pull),
        torch.autograd.grad(theirs, (x, weight, bias), pull),
        strict=True,
    ):
        assert torch.allclose(mine, given, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 3), (3, 1), (1, 1)])
def test_weight_gradients_by_one_product_are_pytorchs_own(kernel_size: int, stride: int) -> None:
    x, weight = drawn(2, 6, 3, 20), drawn(5, 6, 1, kernel_size)
    y = F.conv2d(x, weight, None, (1, stride), (0, kernel_size // 2))
    pull = torch.randn_like(y)
    (theirs,) = torch.autograd.grad(y, weight, pull)
    with torch.no_grad():
        ours = weight_gradient(x, pull, kernel_size, stride, kernel_size // 2)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_short_layers_differ_from_full_ones_by_rounding_alone() -> None:
    torch.manual_seed(0)
    layer = WeightNormConv2d(32, 48, 5, 3, padding=2)
    x = drawn(2, 32, 40, 3, dtype=torch.float32)
    full = layer(x, 0.1)
    with SHORT.autocast():
        short = layer(x, 0.1)
    assert (short.dtype, short.shape) == (torch.bfloat16, full.shape)
    wanted = (x, *layer.parameters())
    pull = torch.randn_like(full)
    of_full = torch.autograd.grad(full, wanted, pull)
    of_short = torch.autograd.grad(short, wanted, pull.bfloat16())
    for ours, theirs in zip((short, *of_short), (full, *of_full), strict=True):
        assert cosine(ours.detach(), theirs.detach()) > 0.9999
    assert {gradient.dtype for gradient in of_short} == {torch.float32}


@pytest.mark.parametrize("dilation", [1, 5])
def test_channels_last_computes_the_dilated_convolution(dilation: int) -> None:
    x, weight, bias = (drawn(*shape, dtype=torch.float32) for shape in ((2, 8, 50), (8, 8, 3), (8,)))
    with SHORT.autocast():
        ours = conv1d_channels_last(x, weight, bias, 1, dilation, dilation, torch.bfloat16)
        theirs = F.conv1d(x, weight, bias, 1, dilation, dilation)
    assert ours.stride(1) == 1
    assert torch.allclose(ours.float(), theirs.float(), atol=0.02, rtol=0.01)


@pytest.mark.parametrize(("channels", "dilation"), [((32, 128), 5), ((64, 64), 1), ((64, 64), 3)])
def test_a_narrow_convolution_in_float32_gives_the_same_in_its_faster_layout(
    channels: tuple[int, int], dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    layer = WeightNormConv1d(*channels, 7, padding=3 * dilation, dilation=dilation)
    x = torch.randn(2, channels[0], 200).requires_grad_()
    ours = layer(x, 0.1)
    monkeypatch.setattr(weight_norm, "prefers_channels_last", lambda *_: False)
    theirs = layer(x, 0.1)
    assert (ours.stride(1), theirs.stride(2)) == (1, 1)
    pull = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(out, (x, *layer.parameters()), pull) for out in (ours, theirs)]
    for one, other in zip((ours, *gradients[0]), (theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "dtype", "dilation", "capability", "is_last"),
    [
        ((64, 64), torch.float32, 1, "AVX512", True),
        ((64, 64), torch.float32, 1, "AVX2", False),
        ((64, 64), torch.float32, 3, "AVX2", True),
        ((256, 256), torch.float32, 3, "AVX512", False),
        ((1, 32), torch.float32, 1, "AVX512", False),
        ((64, 64), torch.float64, 3, "AVX512", False),
    ],
)
def test_the_faster_layout_is_taken_where_it_was_found_faster(
    channels: tuple[int, int],
    dtype: torch.dtype,
    dilation: int,
    capability: str,
    is_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    x, weight = torch.zeros(1, channels[0], 8, dtype=dtype), torch.zeros(channels[1], channels[0], 3, dtype=dtype)
    assert prefers_channels_last(x, weight, dilation) is is_last
    assert prefers_channels_last(x.to("meta"), weight, dilation) is False


# --- weights that stand still


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_kept_weights_give_the_same_judgements_and_gradients(name: precision.FormatName) -> None:
    torch.manual_seed(0)
    net = Discriminators("v2", 1 / 8).requires_grad_(False)
    wave = 0.1 * torch.randn(1, 1, 1600)

    def judged() -> tuple[Tensor, Tensor]:
        given = wave.clone().requires_grad_()
        with Precision(name, "cpu").autocast():
            scores = torch.cat([score.float() for score, _ in net(given)], dim=1)
        return scores, torch.autograd.grad(scores.sum(), given)[0]

    fresh = judged()
    with cached_weights(net, Precision(name, "cpu").dtype):
        kept = judged()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, fresh, strict=True))


def test_kept_weights_are_forgotten_also_when_memory_runs_out() -> None:
    layer = WeightNormConv2d(2, 2, 3)
    before = layer.weight().clone()
    with pytest.raises(torch.OutOfMemoryError), cached_weights(layer, torch.bfloat16):
        raise torch.OutOfMemoryError
    with torch.no_grad():
        layer.weight_g.mul_(2)
    assert torch.allclose(layer.weight(), 2 * before)


# --- the loss over feature maps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_feature_matching_learns_from_the_exact_sign_of_every_difference(dtype: torch.dtype) -> None:
    real, fake = drawn(2, 3, 40, dtype=dtype).detach(), drawn(2, 3, 41, dtype=dtype)[..., :40].detach().requires_grad_()
    score = torch.zeros(2, 1)
    loss = losses.feature_loss([(score, [real])], [(score, [fake])])
    loss.backward()
    difference = fake.detach().double() - real.double()
    assert loss.item() == pytest.approx(2 * float(difference.abs().mean()), rel=1e-3)
    assert torch.equal(fake.grad, (difference.sign() * (2 / fake.numel())).to(dtype))


# --- which format a CPU gets


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"avx512f", "avx512_bf16"}, "bf16"),
        ({"amx_tile", "amx_bf16"}, "bf16"),
        ({"asimd", "bf16"}, "bf16"),
        ({"avx512f"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_auto_is_bfloat16_on_cpus_that_multiply_it(monkeypatch: pytest.MonkeyPatch, flags: set[str], name: str) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(precision, "_onednn_supports_bf16", lambda: True)
    assert Precision.choose("auto", CPU).name == name
    monkeypatch.setattr(precision, "_onednn_supports_bf16", lambda: False)
    assert Precision.choose("auto", CPU).name == "fp32"


# --- gradients against float32

HPARAMS = replace(Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none")), segment_frames=8)


def voiced_batch(step: int, frames: int = 40) -> tuple[Batch, Tensor, Noise]:
    """Two clips of glides with harmonics, others at each step: noise would leave the nets nothing to learn."""
    rng = torch.Generator().manual_seed(step)
    ends = 120 + 150 * torch.rand(2, 2, generator=rng)
    hz = torch.stack([torch.linspace(*pair, frames) for pair in ends.tolist()])
    phase = 2 * torch.pi * (hz.repeat_interleave(HPARAMS.hop_length, 1) / HPARAMS.sample_rate).cumsum(1)
    wave = sum(0.1 / k * (k * phase).sin() for k in range(1, 9)) + 0.003 * torch.randn(phase.shape, generator=rng)
    batch = Batch(
        features=torch.randn(2, frames, 768, generator=rng),
        coarse_f0=(hz / 4).long(),
        f0=hz,
        spec=spectrogram(wave, HPARAMS.n_fft, HPARAMS.hop_length),
        wave=wave,
        lengths=torch.tensor([frames, frames]),
        speakers=torch.zeros(2, dtype=torch.long),
    )
    return batch, torch.tensor([3, 20]), Noise.draw(HPARAMS, 2, frames, rng)


def gradients(weights: list[dict[str, Tensor]], name: precision.FormatName) -> list[Tensor]:
    """G's and D's in a step of length 0, on four clips and segments as long as a real run's."""
    hparams = replace(HPARAMS, segment_frames=32)
    state = GanTrainState.build(hparams, CPU, 0.0, Precision(name, "cpu"))
    state.synthesizer.load_state_dict(weights[0])
    state.discriminators.load_state_dict(weights[1])
    pairs = [voiced_batch(1000 + n, 60)[0] for n in range(2)]
    batch = Batch(*(torch.cat([getattr(pair, part.name) for pair in pairs]) for part in fields(Batch)))
    noise = Noise.draw(hparams, 4, 60, torch.Generator().manual_seed(9))
    training_step(state, batch, torch.tensor([3, 20, 11, 0]), noise)
    return [
        torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (state.synthesizer, state.discriminators)
    ]


@pytest.mark.parametrize("steps", [0, 40])
def test_short_gradients_point_where_those_of_float32_point(steps: int) -> None:
    torch.manual_seed(1)
    state = GanTrainState.build(HPARAMS, CPU, 1e-4, SHORT)
    for step in range(steps):
        training_step(state, *voiced_batch(step))
    state = [net.state_dict() for net in (state.synthesizer, state.discriminators)]
    for net, ours, theirs in zip("GD", gradients(state, "bf16"), gradients(state, "fp32"), strict=True):
        assert cosine(ours, theirs) > 0.999, net
