"""A GPU's path on a device that computes nothing: no tensor on the CPU, no value read by the host, few operations."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.fake_device import DEVICE, FakeStep, Operations, fake_device, to_fake_device
from benchmarks.step_operations import enough_gib, peaks
from rvc_engine.config import TrainingConfig
from rvc_engine.content.hubert_model import Hubert, HubertSizes, weight_shapes
from rvc_engine.content.whisper_model import WhisperEncoder
from rvc_engine.content.whisper_model import log_mel as whisper_mel
from rvc_engine.index.device_kmeans import DeviceMeans, nearest
from rvc_engine.pitch.neural.crepe_model import WINDOW, Crepe, normalize
from rvc_engine.pitch.neural.fcpe_model import Fcpe
from rvc_engine.pitch.neural.fcpe_model import log_mel as fcpe_mel
from rvc_engine.pitch.neural.rmvpe_model import Rmvpe
from rvc_engine.pitch.neural.rmvpe_model import log_mel as rmvpe_mel

CONFIG = TrainingConfig(pretrained="none")
RATE = 16_000
MAX_KERNELS, MAX_CASTS = 2500, 125
"""Operations of a step of v2 40k in float16, and copies between formats among them."""
MAX_GB = {"state": 1.34, "forward": 2.5, "step": 2.77, "capture": 2.77, "evaluation": 1.6, "beside_graphs": 4.2}
"""Memory of each phase at batch 4."""


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    with fake_device():
        yield


@pytest.fixture(scope="module")
def step() -> FakeStep:
    """A train state in the format that GPUs train in, after its first step, which makes constants."""
    step = FakeStep.build(CONFIG, "fp16")
    step.take()
    return step


def test_a_step_has_no_more_operations_than_it_had_and_each_phase_of_a_training_no_more_memory(step: FakeStep) -> None:
    operations = Operations()
    found = peaks(step, 4, operations)
    assert not operations.elsewhere
    assert operations.num_kernels <= MAX_KERNELS
    assert operations.num_casts <= MAX_CASTS
    in_gb = {name: round(getattr(found, name) / 1e9, 3) for name in MAX_GB}
    for name, most in MAX_GB.items():
        assert 0.9 * most < in_gb[name] <= most, in_gb
    # Ten minutes of speech: on 4 GiB without graphs, to which an engine without memory for them goes on by itself.
    assert enough_gib(found.beside_graphs, CONFIG, 10) == [6, 8]
    assert enough_gib(found.step, CONFIG, 10) == [4, 6, 8]


def test_a_step_in_micro_batches_stays_on_the_device(step: FakeStep) -> None:
    with Operations() as operations:
        step.take(limit=2)
    assert not operations.elsewhere
    assert not any(p.grad is not None for p in step.state.discriminators.parameters())  # its memory is G's


def test_evaluations_and_conversions_stay_on_the_device(step: FakeStep) -> None:
    model, inputs, hparams = step.state.synthesizer, step.inputs, step.state.hparams
    batch, clips, frames = inputs.batch, inputs.num_clips, inputs.batch.spec.shape[2]
    source = torch.ones(clips, frames * hparams.hop_length, device=DEVICE)
    with Operations() as operations, torch.no_grad():
        rendered = model.infer(
            batch.features, batch.coarse_f0, batch.f0, batch.lengths, batch.speakers, inputs.noise.posterior, source
        )
        segments = model.generate(*inputs.generate_arguments)
    assert (rendered.device, segments.device) == (DEVICE, DEVICE)
    assert rendered.shape == (clips, 1, frames * hparams.hop_length)
    assert not operations.elsewhere


def _moved(model: nn.Module) -> nn.Module:
    to_fake_device(model)
    return model.eval()


def _hubert(waves: Tensor) -> Tensor:
    sizes = HubertSizes(num_hidden_layers=1)
    weights = {name: torch.ones(shape, device=DEVICE) for name, shape in weight_shapes(sizes).items()}
    return Hubert(sizes, weights, torch.float16)([waves[0], waves[1, : RATE // 2]])[1]


NETS: dict[str, Callable[[Tensor], Tensor]] = {
    "hubert": _hubert,
    "whisper": lambda waves: _moved(WhisperEncoder(384, 1, 1536))(whisper_mel(waves, 160, 100), [1], [50, 20])[0],
    "rmvpe": lambda waves: _moved(Rmvpe(width=2))(rmvpe_mel(waves)[:, :, :96]),
    "fcpe": lambda waves: _moved(Fcpe())(fcpe_mel(waves)),
    "crepe": lambda waves: _moved(Crepe("crepe-tiny"))(normalize(waves.unfold(1, WINDOW, 160)[0])),
}


@pytest.mark.parametrize("name", NETS)
def test_content_and_pitch_nets_run_on_the_device(name: str) -> None:
    waves = torch.ones(2, RATE, device=DEVICE)
    with torch.no_grad():
        assert NETS[name](waves).device == DEVICE


@pytest.mark.parametrize(
    "work",
    [lambda x: x + torch.ones(3), lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x[x > 0].sum()],
    ids=["two devices", "a number", "a truth value", "a mask"],
)
def test_a_read_by_the_host_and_a_tensor_elsewhere_are_found(work: Callable[[Tensor], object]) -> None:
    with pytest.raises(Exception, match=r"device|data.dependent|_local_scalar_dense|nonzero"):
        work(torch.ones(3, device=DEVICE))


def test_the_indexs_products_stay_on_the_device() -> None:
    means = DeviceMeans(np.ones((50, 16), np.float32), DEVICE)
    batch = torch.ones(300, 16, device=DEVICE)
    with Operations() as operations:
        means.begin_pass()
        means.move(batch)
        assert nearest(batch, means.centres).shape == (300,)
    assert not operations.elsewhere
