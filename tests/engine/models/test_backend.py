"""The CPU's layouts and formats give the numbers of PyTorch's own calls, and gradients stay those of float32."""

from contextlib import nullcontext
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
from rvc_engine.models import losses
from rvc_engine.models.backend import (
    PYTORCH,
    CpuBackend,
    PeriodConvolution,
    backend_for,
    conv1d_channels_last,
    gated_activation,
    use_backend,
    weight_gradient,
)
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.encoders import PosteriorEncoder
from rvc_engine.models.synthesizer import Noise
from rvc_engine.models.weight_norm import WeightNormConv1d, WeightNormConv2d, cached_weights, weights_at_once
from rvc_engine.training.step import training_step

CPU = torch.device("cpu")
BF16 = Precision("bf16", "cpu")


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
    output_gradient = torch.randn_like(theirs)
    for our_gradient, their_gradient in zip(
        torch.autograd.grad(ours, (x, weight, bias), output_gradient),
        torch.autograd.grad(theirs, (x, weight, bias), output_gradient),
        strict=True,
    ):
        assert torch.allclose(our_gradient, their_gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("kernel_size", "stride"), [(5, 3), (3, 1), (1, 1)])
def test_weight_gradients_by_one_product_are_pytorchs_own(kernel_size: int, stride: int) -> None:
    x, weight = drawn(2, 6, 3, 20), drawn(5, 6, 1, kernel_size)
    y = F.conv2d(x, weight, None, (1, stride), (0, kernel_size // 2))
    output_gradient = torch.randn_like(y)
    (theirs,) = torch.autograd.grad(y, weight, output_gradient)
    with torch.no_grad():
        ours = weight_gradient(x, output_gradient, kernel_size, stride, kernel_size // 2)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_layers_in_bf16_differ_from_float32_by_rounding_alone() -> None:
    torch.manual_seed(0)
    layer = WeightNormConv2d(32, 48, 5, 3, padding=2)
    x = drawn(2, 32, 40, 3, dtype=torch.float32)
    fp32 = layer(x, 0.1)
    with BF16.autocast():
        bf16 = layer(x, 0.1)
    assert (bf16.dtype, bf16.shape) == (torch.bfloat16, fp32.shape)
    inputs = (x, *layer.parameters())
    output_gradient = torch.randn_like(fp32)
    fp32_gradients = torch.autograd.grad(fp32, inputs, output_gradient)
    bf16_gradients = torch.autograd.grad(bf16, inputs, output_gradient.bfloat16())
    for ours, theirs in zip((bf16, *bf16_gradients), (fp32, *fp32_gradients), strict=True):
        assert cosine(ours.detach(), theirs.detach()) > 0.9999
    assert {gradient.dtype for gradient in bf16_gradients} == {torch.float32}


@pytest.mark.parametrize(("keep_fp32", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_a_sensitive_layer_is_in_float32_instead_of_bfloat16_on_each_device(
    keep_fp32: bool, dtype: torch.dtype
) -> None:
    layer = WeightNormConv2d(4, 4, 3, keep_fp32=keep_fp32)
    x = torch.randn(1, 4, 9, 2)
    with BF16.autocast():
        assert layer(x).dtype == dtype
        use_backend(layer, PYTORCH)
        assert layer(x).dtype == dtype
        with torch.no_grad():
            assert PYTORCH.cached_weight(layer.weight(), torch.bfloat16, keep_fp32).dtype == dtype
    with Precision("fp16", "cpu").autocast():
        assert layer(x).dtype == torch.float16
    assert PYTORCH.residual_sum(x.bfloat16()).dtype == torch.float32
    assert PYTORCH.residual_sum(x.half()).dtype == torch.float16


@pytest.mark.parametrize("dilation", [1, 5])
def test_channels_last_computes_the_dilated_convolution(dilation: int) -> None:
    x, weight, bias = (drawn(*shape, dtype=torch.float32) for shape in ((2, 8, 50), (8, 8, 3), (8,)))
    with BF16.autocast():
        ours = conv1d_channels_last(x, weight, bias, 1, dilation, dilation, torch.bfloat16)
        theirs = F.conv1d(x, weight, bias, 1, dilation, dilation)
    assert ours.stride(1) == 1
    assert torch.allclose(ours.float(), theirs.float(), atol=0.02, rtol=0.01)


@pytest.mark.parametrize(("channels", "dilation"), [((32, 128), 5), ((64, 64), 1), ((64, 64), 3)])
def test_a_narrow_convolution_in_float32_gives_the_same_in_its_faster_layout(
    channels: tuple[int, int], dilation: int
) -> None:
    layer = WeightNormConv1d(*channels, 7, padding=3 * dilation, dilation=dilation)
    x = torch.randn(2, channels[0], 200).requires_grad_()
    outputs = []
    for backend in (CpuBackend("AVX512"), PYTORCH):
        use_backend(layer, backend)
        outputs.append(layer(x, 0.1))
    ours, theirs = outputs
    assert (ours.stride(1), theirs.stride(2)) == (1, 1)
    output_gradient = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(output, (x, *layer.parameters()), output_gradient) for output in outputs]
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
        ((64, 64), torch.float32, 3, "", False),
    ],
)
def test_channels_last_is_used_where_it_was_measured_to_be_faster(
    channels: tuple[int, int], dtype: torch.dtype, dilation: int, capability: str, is_last: bool
) -> None:
    x, weight = torch.zeros(1, channels[0], 8, dtype=dtype), torch.zeros(channels[1], channels[0], 3, dtype=dtype)
    assert CpuBackend(capability).prefers_channels_last(x, weight, dilation) is is_last


def test_a_model_has_the_backend_of_the_device_that_it_is_built_on_and_moved_to() -> None:
    model = Discriminators("v2", 1 / 8)
    layers = [layer for layer in model.modules() if hasattr(layer, "backend")]
    assert {layer.backend for layer in layers} == {backend_for("cpu")}
    model.to("meta")
    assert {layer.backend for layer in layers} == {PYTORCH}
    with torch.device("meta"):
        assert WeightNormConv1d(1, 1, 1).backend is PYTORCH


# --- cached weights


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_cached_weights_give_the_same_scores_and_gradients(name: precision.FormatName) -> None:
    torch.manual_seed(0)
    net = Discriminators("v2", 1 / 8).requires_grad_(False)
    wave = 0.1 * torch.randn(1, 1, 1600)

    def scores_and_gradient() -> tuple[Tensor, Tensor]:
        x = wave.clone().requires_grad_()
        with Precision(name, "cpu").autocast():
            scores = torch.cat([score.float() for score, _ in net(x)], dim=1)
        return scores, torch.autograd.grad(scores.sum(), x)[0]

    fresh = scores_and_gradient()
    with cached_weights(net, Precision(name, "cpu").dtype):
        cached = scores_and_gradient()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cached, fresh, strict=True))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_weights_computed_at_once_give_the_very_gradients_of_each_by_itself(name: precision.FormatName) -> None:
    torch.manual_seed(0)
    net = Discriminators("v2", 1 / 8)
    use_backend(net, PYTORCH)
    format_, layers = Precision(name, "cpu"), [layer for layer in net.modules() if hasattr(layer, "weight_v")]
    wave, found = 0.1 * torch.randn(1, 1, 1600), []
    for at_once in (False, True):
        net.zero_grad()
        with format_.autocast(), weights_at_once(net, format_.dtype) if at_once else nullcontext():
            scores = torch.cat([score.float() for score, _ in net(wave)], dim=1)
        scores.square().sum().backward()
        found.append([scores.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    assert len(found[0]) == 1 + len(list(net.parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    assert all(layer._cached is None and layer._cached_bias is None for layer in layers)


def test_plain_convolutions_are_cast_with_those_under_weight_norm() -> None:
    torch.manual_seed(0)
    net = PosteriorEncoder(20, 8, 4)
    use_backend(net, PYTORCH)
    inputs = torch.rand(2, 20, 12), torch.ones(2, 1, 12), torch.randn(2, 4, 1), torch.randn(2, 8, 12)
    found = []
    for at_once in (False, True):
        net.zero_grad()
        with Precision("fp16", "cpu").autocast(), weights_at_once(net, torch.float16) if at_once else nullcontext():
            assert (net.pre._cached is not None) == at_once
            latent, _, log_std = net(*inputs)
        (latent.square().sum() + log_std.sum()).backward()
        found.append([latent.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    assert len(found[0]) == 1 + len(list(net.parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_a_gate_is_tanh_times_sigmoid_with_the_gradients_of_its_values() -> None:
    x, condition = drawn(2, 6, 5), drawn(2, 6, 1)
    wave, gate = (x + condition).chunk(2, dim=1)
    assert torch.allclose(gated_activation(x, condition), wave.tanh() * gate.sigmoid(), rtol=1e-12)
    assert torch.autograd.gradcheck(gated_activation, (x, condition))
    with torch.no_grad():
        assert torch.allclose(gated_activation(x, condition), wave.tanh() * gate.sigmoid(), rtol=1e-12)


def test_cached_weights_are_dropped_also_when_memory_runs_out() -> None:
    layer = WeightNormConv2d(2, 2, 3)
    before = layer.weight().clone()
    with pytest.raises(torch.OutOfMemoryError), cached_weights(layer, torch.bfloat16):
        raise torch.OutOfMemoryError
    with torch.no_grad():
        layer.weight_g.mul_(2)
    assert torch.allclose(layer.weight(), 2 * before)


# --- the loss over feature maps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_feature_losss_gradient_is_the_exact_sign_of_every_difference(dtype: torch.dtype) -> None:
    real, fake = drawn(2, 3, 40, dtype=dtype).detach(), drawn(2, 3, 41, dtype=dtype)[..., :40].detach().requires_grad_()
    score = torch.zeros(2, 1)
    loss = losses.feature_loss([(score, [real])], [(score, [fake])])
    loss.backward()
    difference = fake.detach().double() - real.double()
    assert loss.item() == pytest.approx(2 * float(difference.abs().mean()), rel=1e-3)
    assert torch.equal(fake.grad, (difference.sign() * (2 / fake.numel())).to(dtype))


def test_losses_of_scores_are_sums_of_each_discriminators_mean() -> None:
    scores = [drawn(4, 7), drawn(4, 30), drawn(4, 1)]
    real_and_fake = [score.chunk(2) for score in scores]
    expected = sum((1 - real).square().mean() + fake.square().mean() for real, fake in real_and_fake)
    assert torch.allclose(losses.discriminator_loss(scores), expected, rtol=1e-12)
    expected = sum((1 - score).square().mean() for score in scores)
    assert torch.allclose(losses.generator_loss([(score, []) for score in scores]), expected, rtol=1e-12)


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
    """Two clips of glides with harmonics, different ones for each step: from noise the models could learn nothing."""
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
    """Gradients of G and of D at a learning rate of 0, for four clips and segments as long as a real run's."""
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


@pytest.mark.parametrize("steps", [0, pytest.param(40, marks=pytest.mark.long)])
def test_gradients_in_bf16_have_the_direction_of_those_in_float32(steps: int) -> None:
    torch.manual_seed(1)
    state = GanTrainState.build(HPARAMS, CPU, 1e-4, BF16)
    for step in range(steps):
        training_step(state, *voiced_batch(step))
    weights = [model.state_dict() for model in (state.synthesizer, state.discriminators)]
    for name, ours, theirs in zip("GD", gradients(weights, "bf16"), gradients(weights, "fp32"), strict=True):
        assert cosine(ours, theirs) > 0.999, name


@pytest.mark.parametrize("num_frames", range(1, 9))
def test_period_convolutions_of_a_few_frames_are_those_of_float32_but_for_rounding(num_frames: int) -> None:
    """oneDNN's own are wrong on CPUs with AMX where the output has a single frame."""
    torch.manual_seed(0)
    layer = WeightNormConv2d(64, 64, 5, 3, padding=2).requires_grad_(False)
    x = torch.randn(2, 64, num_frames, 11)

    def output_and_gradient(name: precision.FormatName) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        with Precision(name, "cpu").autocast():
            y = layer(leaf).float()
        return y.detach(), torch.autograd.grad(y.sum(), leaf)[0]

    for ours, exact in zip(output_and_gradient("bf16"), output_and_gradient("fp32"), strict=True):
        assert F.cosine_similarity(ours.flatten(), exact.flatten(), dim=0) > 0.9999
