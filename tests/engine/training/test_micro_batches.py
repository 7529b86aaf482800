"""A split step equals the whole step: micro-batches, processes, out of memory, 16-bit formats, checkpointed blocks."""

import copy
import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import MIN_LOSS_SCALE, FormatName, Precision
from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.errors import GpuOutOfMemory
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models import losses
from rvc_engine.models.activation_checkpointing import set_activation_checkpointing
from rvc_engine.models.synthesizer import Noise
from rvc_engine.models.weight_norm import WeightNormConv1d
from rvc_engine.training import step
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import BatchTotals, StepResult, training_step

CPU = torch.device("cpu")
HPARAMS = replace(Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none")), segment_frames=8)
"""The smallest nets, and segments a quarter as long as a real run's, to be quick."""
EQUAL, UNEQUAL = [60, 60, 60, 60], [40, 47, 60, 90]


@dataclass
class Input:
    batch: Batch
    starts: Tensor
    noise: Noise


def made_up(lengths: list[int], dtype: torch.dtype) -> Input:
    """Clips of noise, with zeros behind the end of each."""
    rng = torch.Generator().manual_seed(5)
    clips, frames = len(lengths), max(lengths)
    ends = torch.tensor(lengths)
    mask = (torch.arange(frames) < ends[:, None]).to(dtype)
    wave = 0.1 * torch.randn(clips, frames * HPARAMS.hop_length, generator=rng, dtype=dtype)
    batch = Batch(
        features=torch.randn(clips, frames, 768, generator=rng, dtype=dtype) * mask[:, :, None],
        coarse_f0=torch.randint(1, 256, (clips, frames), generator=rng) * mask.long(),
        f0=torch.full((clips, frames), 220.0, dtype=dtype) * mask,
        spec=spectrogram(wave, HPARAMS.n_fft, HPARAMS.hop_length) * mask[:, None],
        wave=wave,
        lengths=ends,
        speakers=torch.arange(clips) % 2,
    )
    noise = Noise(
        torch.randn(clips, 24, frames, generator=rng, dtype=dtype),
        torch.randn(clips, HPARAMS.segment_samples, generator=rng, dtype=dtype),
    )
    return Input(batch, torch.tensor([3, 0, 8, 5])[:clips], noise)


def fresh_state(dtype: torch.dtype = torch.float32, precision: Precision | None = None) -> GanTrainState:
    torch.manual_seed(1)
    state = GanTrainState.build(HPARAMS, CPU, 1e-3, precision)
    state.synthesizer.to(dtype)
    state.discriminators.to(dtype)
    return state


def gradients(state: GanTrainState) -> Tensor:
    return torch.cat([p.grad.flatten() for net in (state.synthesizer, state.discriminators) for p in net.parameters()])


def weights(state: GanTrainState) -> Tensor:
    return torch.cat(
        [p.detach().flatten() for net in (state.synthesizer, state.discriminators) for p in net.parameters()]
    )


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


# --- micro-batches


@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL], ids=["equal lengths", "unequal lengths"])
def test_micro_batches_add_up_to_the_whole_batch(lengths: list[int]) -> None:
    given = made_up(lengths, torch.float64)
    whole = fresh_state(torch.float64)
    expected = training_step(whole, given.batch, given.starts, given.noise)
    for limit in (3, 1):  # two micro-batches of two; four of one
        state = fresh_state(torch.float64)
        result = training_step(state, given.batch, given.starts, given.noise, None, MicroBatcher(limit))
        assert distance(gradients(state), gradients(whole)) < 1e-9
        assert distance(weights(state), weights(whole)) < 1e-9
        assert result.stacked().tolist() == pytest.approx(expected.stacked().tolist(), rel=1e-6)


def test_a_micro_batch_is_padded_to_its_own_longest_clip_only() -> None:
    state, given = fresh_state(), made_up(UNEQUAL, torch.float32)
    seen: list[tuple[int, ...]] = []
    state.synthesizer.flow.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    training_step(state, given.batch, given.starts, given.noise, None, MicroBatcher(2))
    assert seen == [(2, 24, 47), (2, 24, 90)]


# --- out of memory


def out_of_memory_once(work: Callable[..., object], call: int = 1) -> Callable[..., object]:
    """The same function, which runs out of memory at one of its calls."""
    calls = 0

    def faulty(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return work(*arguments, **named)

    return faulty


def in_backward_once(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function, whose result runs out of memory the first time that its gradient passes."""
    fault = out_of_memory_once(lambda gradient: gradient)

    def faulty(*arguments: object) -> Tensor:
        result = work(*arguments)
        result.register_hook(fault)
        return result

    return faulty


FAULTS = {
    "the generator's forward": lambda state, patch: patch(state.synthesizer, "forward", out_of_memory_once),
    "the discriminators' forward": lambda state, patch: patch(state.discriminators, "forward", out_of_memory_once),
    "their backward": lambda state, patch: patch(losses, "discriminator_loss", in_backward_once),
    "their optimizer": lambda state, patch: patch(state.discriminator_optimizer, "step", out_of_memory_once),
    "the generator's half": lambda state, patch: patch(
        state.discriminators, "forward", lambda work: out_of_memory_once(work, call=3)
    ),
    "the mel loss": lambda state, patch: patch(step, "mel_distance", out_of_memory_once),
    "the generator's backward": lambda state, patch: patch(losses, "kl_sum", in_backward_once),
    "its optimizer": lambda state, patch: patch(state.generator_optimizer, "step", out_of_memory_once),
}


@pytest.fixture(scope="module")
def expected_weights() -> Tensor:
    """The weights after a step that does not run out of memory."""
    state, given = fresh_state(torch.float64), made_up(UNEQUAL, torch.float64)
    training_step(state, given.batch, given.starts, given.noise)
    return weights(state)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_runs_out_of_memory_is_repeated_in_halves_with_the_same_result(
    fault: str, expected_weights: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, given, warnings = fresh_state(torch.float64), made_up(UNEQUAL, torch.float64), []

    def patch(owner: object, name: str, wrap: Callable[..., object]) -> None:
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name)))

    micro_batcher = MicroBatcher(4, warn=warnings.append)
    FAULTS[fault](state, patch)
    training_step(state, given.batch, given.starts, given.noise, None, micro_batcher)
    assert distance(weights(state), expected_weights) < 1e-9
    assert micro_batcher.limit == 2
    [warning] = warnings
    assert "4 clips at a time; going on with 2" in warning
    assert all(p.requires_grad for p in state.discriminators.parameters())


def test_a_single_clip_that_does_not_fit_fails_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    state, given, warnings = fresh_state(), made_up(EQUAL, torch.float32), []

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(state.synthesizer, "forward", full)
    monkeypatch.setattr(state.synthesizer, "generate", full)
    with pytest.raises(GpuOutOfMemory, match=r"single clip.*gradient_checkpointing"):
        training_step(state, given.batch, given.starts, given.noise, None, MicroBatcher(4, warn=warnings.append))
    assert [warning.split(";")[1].split(" at")[0] for warning in warnings] == [" going on with 2", " going on with 1"]


@pytest.mark.parametrize("name", ["discriminator_optimizer", "generator_optimizer"])
def test_in_float16_an_optimizer_that_runs_out_of_memory_is_retried_with_the_same_loss_scale(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupted step has unscaled the gradients, which a scaler allows once between two updates."""
    state, given = fresh_state(precision=Precision("fp16", "cpu")), made_up([24, 20], torch.float32)
    before, scale = weights(state), 1.0
    for scaler in (state.generator_scaler, state.discriminator_scaler):
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale})
    optimizer = getattr(state, name)
    monkeypatch.setattr(optimizer, "step", out_of_memory_once(optimizer.step))
    micro_batcher = MicroBatcher(2)
    training_step(state, given.batch, given.starts, given.noise, None, micro_batcher)
    assert micro_batcher.limit == 1
    assert state.min_loss_scale == scale
    assert not torch.equal(weights(state), before)


def test_other_errors_than_out_of_memory_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    state, given = fresh_state(), made_up(EQUAL, torch.float32)

    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(state.synthesizer, "forward", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        training_step(state, given.batch, given.starts, given.noise)


# --- 16-bit formats


def three_steps(name: FormatName) -> tuple[GanTrainState, list[StepResult]]:
    state, given = fresh_state(precision=Precision(name, "cpu")), made_up(UNEQUAL, torch.float32)
    return state, [training_step(state, given.batch, given.starts, given.noise) for _ in range(3)]


def test_bfloat16_trains_with_losses_near_those_of_float32() -> None:
    state, results = three_steps("bf16")
    _, in_fp32 = three_steps("fp32")
    for ours, theirs in zip(results, in_fp32, strict=True):
        assert ours.stacked()[:5].tolist() == pytest.approx(theirs.stacked()[:5].tolist(), rel=0.05)
        assert ours.stacked().tolist() != theirs.stacked().tolist()
    assert {value.dtype for value in state.synthesizer.state_dict().values()} == {torch.float32}
    assert results[-1].grad_norm_g == pytest.approx(float(in_fp32[-1].grad_norm_g), rel=0.3)


def test_spectra_losses_latents_and_norms_stay_in_float32_inside_a_16_bit_format() -> None:
    state, given = fresh_state(precision=Precision("bf16", "cpu")), made_up(EQUAL, torch.float32)
    seen: dict[str, torch.dtype] = {}
    net = state.synthesizer
    net.dec.m_source.register_forward_hook(lambda *a: seen.update(source=a[2].dtype))
    net.dec.resblocks[0].convs1[0].register_forward_hook(lambda *a: seen.update(block=a[2].dtype))
    with state.precision.autocast():
        out = net(
            given.batch.features,
            given.batch.coarse_f0,
            given.batch.f0,
            given.batch.spec,
            given.batch.lengths,
            given.batch.speakers,
            given.starts,
            given.noise,
        )
        seen["weight norm"] = WeightNormConv1d(2, 2, 3).weight().dtype
    for name in ("wave", "prior_mean", "prior_log_std", "log_std", "latent_prior"):
        seen[name] = getattr(out, name).dtype
    assert seen.pop("block") == torch.bfloat16  # most of the work is in 16 bits
    assert set(seen.values()) == {torch.float32}, seen


def test_a_float16_gradient_beyond_its_range_leaves_the_weights_alone_and_lowers_the_scale() -> None:
    state, given = fresh_state(precision=Precision("fp16", "cpu")), made_up([24, 20], torch.float32)
    before, scale = weights(state), state.min_loss_scale
    state.generator_scaler.load_state_dict({**state.generator_scaler.state_dict(), "scale": 2.0**60})
    state.discriminator_scaler.load_state_dict({**state.discriminator_scaler.state_dict(), "scale": 2.0**60})
    result = training_step(state, given.batch, given.starts, given.noise)
    assert not result.grad_norm_g.isfinite()
    assert torch.equal(weights(state), before)
    assert state.min_loss_scale == 2.0**59
    assert scale is not None
    assert scale > MIN_LOSS_SCALE


# --- gradient checkpointing


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    given = made_up(UNEQUAL, torch.float64)
    kept, twice = fresh_state(torch.float64), fresh_state(torch.float64)
    set_activation_checkpointing(twice.synthesizer, enabled=True)
    stored = {}
    for name, state in (("kept", kept), ("twice", twice)):
        seen: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: seen.__setitem__(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) or t,
            lambda t: t,
        ):
            out = state.synthesizer(
                given.batch.features,
                given.batch.coarse_f0,
                given.batch.f0,
                given.batch.spec,
                given.batch.lengths,
                given.batch.speakers,
                given.starts,
                given.noise,
            )
        stored[name] = sum(seen.values())
        del out
        training_step(state, given.batch, given.starts, given.noise)
    assert distance(gradients(twice), gradients(kept)) < 1e-12
    assert stored["twice"] < stored["kept"] / 2


def test_copies_of_a_model_have_their_own_gradient_checkpointing() -> None:
    """`checkpoints_activations` is an attribute of the object, not of its class."""
    state = fresh_state()
    other = copy.deepcopy(state.synthesizer)
    set_activation_checkpointing(state.synthesizer, enabled=True)
    assert state.synthesizer.dec.checkpoints_activations
    assert not other.dec.checkpoints_activations


# --- several processes

LENGTHS = {"equal": EQUAL, "unequal": UNEQUAL, "one clip more on one": [90, 40, 60], "no clip on one": [60]}


def share_of(batch: Batch, share: slice) -> Batch | None:
    """The clips of a rank's shard; None without any."""
    if not len(batch.lengths[share]):
        return None
    return Batch(*(getattr(batch, field.name)[share] for field in fields(Batch)))


def save_gradients_of_one_of_two(rank: int, port: int, folder: Path) -> None:
    """One of two processes, each with half of every batch; in the last case one runs out of memory.

    Gradients go through a file: sent between processes they lie in /dev/shm, of which a container has 64 MB.
    """
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo"
    )
    distributed = DistributedContext.init(CPU)
    found = {}
    for name in [*LENGTHS, "out of memory"]:
        given, state = made_up(LENGTHS.get(name, UNEQUAL), torch.float32), fresh_state()
        lengths = given.batch.lengths
        share, micro_batcher = distributed.shard(lengths.tolist()), MicroBatcher(2, distributed)
        if name == "out of memory" and rank == 1:
            state.discriminators.forward = out_of_memory_once(state.discriminators.forward, call=3)  # type: ignore[method-assign]
        training_step(
            state,
            share_of(given.batch, share),
            given.starts[share],
            Noise(*(noise[share] for noise in given.noise)),
            BatchTotals(len(lengths), int(lengths.sum())),
            micro_batcher,
        )
        found[name] = gradients(state)
        found[f"limit, {name}"] = torch.tensor(micro_batcher.limit)
    torch.distributed.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


def test_two_processes_with_half_the_batch_each_give_the_gradients_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(save_gradients_of_one_of_two, [0, 1], [port, port], [tmp_path, tmp_path]))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name in [*LENGTHS, "out of memory"]:
        given, alone = made_up(LENGTHS.get(name, UNEQUAL), torch.float32), fresh_state()
        training_step(alone, given.batch, given.starts, given.noise)
        assert distance(first[name], gradients(alone)) < 1e-5, name
        assert torch.equal(first[name], second[name]), name
    # The rank that ran out of memory did not leave the other waiting: both repeated the half in smaller micro-batches.
    assert [int(each["limit, out of memory"]) for each in (first, second)] == [1, 1]
    assert [int(each["limit, unequal"]) for each in (first, second)] == [2, 2]
