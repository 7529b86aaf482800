"""Captured steps equal eager steps: same weights, same losses, static buffers. A failed capture ends the process."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.errors import GraphsFailed
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training import cuda_graphs
from rvc_engine.training.cuda_graphs import WARM_UP_STEPS, Capturer, CudaGraphCapturer, GraphedSteps, Step, StepInputs
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import BatchTotals, StepResult, draw_starts, training_step

CPU = torch.device("cpu")
HPARAMS = replace(Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none")), segment_frames=4)
"""The smallest nets and short segments, to be quick."""
LONG, SHORT = 24, 16


def fresh_state(precision: Precision | None = None, device: torch.device = CPU) -> GanTrainState:
    torch.manual_seed(3)
    return GanTrainState.build(HPARAMS, device, 1e-3, precision)


def made_up_inputs(seed: int, clips: int = 2, frames: int = LONG, device: torch.device = CPU) -> StepInputs:
    """Clips of noise, one of them shorter than the padding."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([frames - 5 * (clip % 2) for clip in range(clips)])
    mask = (torch.arange(frames) < lengths[:, None]).float()
    wave = 0.1 * torch.randn(clips, frames * HPARAMS.hop_length, generator=rng)
    batch = Batch(
        features=torch.randn(clips, frames, 768, generator=rng) * mask[:, :, None],
        coarse_f0=torch.randint(1, 256, (clips, frames), generator=rng) * mask.long(),
        f0=200 * mask,
        spec=spectrogram(wave, HPARAMS.n_fft, HPARAMS.hop_length) * mask[:, None],
        wave=wave,
        lengths=lengths,
        speakers=torch.arange(clips),
    )
    starts = draw_starts(lengths, HPARAMS.segment_frames, rng)
    noise = Noise.draw(HPARAMS, clips, frames, rng)
    batch = Batch(*(part.to(device) for part in vars(batch).values()))
    return StepInputs(batch, starts.to(device), Noise(noise.posterior.to(device), noise.source.to(device)))


class FakeCapturer:
    """Stands in for CUDA graphs on the CPU: a replay repeats the step on the buffers of the capture."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.num_captured = self.num_replayed = self.num_warm_ups = 0
        self.fault = fault

    def warm_up(self) -> nullcontext[None]:
        self.num_warm_ups += 1
        return nullcontext()

    def capture(self, step: Step) -> Step:
        if self.fault is not None:
            raise self.fault
        self.num_captured += 1

        def replay() -> StepResult:
            self.num_replayed += 1
            return step()

        return replay


def take_step(
    state: GanTrainState, graphs: GraphedSteps | None, inputs: StepInputs, micro_batcher: MicroBatcher
) -> StepResult:
    """One step as the trainer takes it: from a graph, or eagerly."""
    if graphs is None:
        return training_step(state, inputs.batch, inputs.starts, inputs.noise, None, micro_batcher)
    result = graphs.replay(inputs, micro_batcher.limit)
    if result is None:
        with graphs.warm_up():
            result = training_step(state, inputs.batch, inputs.starts, inputs.noise, None, micro_batcher)
    return result


class Run:
    """Steps of one train state, from graphs where possible."""

    def __init__(
        self,
        capturer: Capturer | None,
        limit: int = 8,
        precision: Precision | None = None,
        sizes: frozenset[int] = frozenset(),
    ) -> None:
        self.state, self.micro_batcher, self.num_saves = fresh_state(precision), MicroBatcher(limit), 0
        self.graphs: GraphedSteps | None = None
        if capturer is not None:
            self.use_graphs(capturer, sizes)

    def use_graphs(self, capturer: Capturer, sizes: frozenset[int]) -> None:
        self.graphs = GraphedSteps(self.state, capturer, LONG, sizes, self.save)
        self.micro_batcher.release = self.graphs.release

    def save(self) -> None:
        self.num_saves += 1

    def step(self, inputs: StepInputs) -> list[float]:
        return take_step(self.state, self.graphs, inputs, self.micro_batcher).stacked().tolist()

    @property
    def weights(self) -> Tensor:
        parts = [*self.state.synthesizer.parameters(), *self.state.discriminators.parameters()]
        return torch.cat([part.detach().flatten() for part in parts])


def gradients(state: GanTrainState) -> Tensor:
    return torch.cat([part.grad.flatten() for part in state.synthesizer.parameters() if part.grad is not None])


SHAPES = [(2, LONG), (2, SHORT), (2, LONG), (1, SHORT), (2, SHORT), (2, LONG), (1, LONG), (2, SHORT), (2, LONG)]
"""Clips and frames of the steps of a run: two padded lengths and an epoch's smaller last batch."""


@pytest.mark.parametrize("limit", [8, 1])
def test_captured_steps_give_exactly_the_losses_and_weights_of_eager_steps(limit: int) -> None:
    capturer = FakeCapturer()
    graphed, plain = Run(capturer, limit, sizes=frozenset({1, 2})), Run(None, limit)
    for number, (clips, frames) in enumerate(SHAPES):
        for run in (graphed, plain):
            run.state.set_learning_rate(1e-3 * 0.9**number)
        inputs = made_up_inputs(number, clips, frames)
        assert graphed.step(inputs) == plain.step(inputs)
    assert torch.equal(graphed.weights, plain.weights)
    # Eager until both batch sizes and then the largest shape have occurred, and each shape once before its capture.
    assert (capturer.num_warm_ups, capturer.num_captured, capturer.num_replayed) == (6, 2, 3)
    assert graphed.num_saves == 1


def test_a_captured_step_reads_static_buffers_and_does_not_change_its_inputs() -> None:
    capturer = FakeCapturer()
    run = Run(capturer)
    seen: list[list[int]] = []
    capture = capturer.capture

    def capture_and_watch(step: Step) -> Step:
        replay = capture(step)

        def watched_replay() -> StepResult:
            assert run.graphs is not None
            [graph] = run.graphs._graphs.values()
            seen.append([part.data_ptr() for part in graph.inputs.tensors])
            return replay()

        return watched_replay

    capturer.capture = capture_and_watch  # type: ignore[method-assign]
    given = [made_up_inputs(number) for number in range(WARM_UP_STEPS + 2)]
    before = copy.deepcopy(given)
    for each in given:
        run.step(each)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert not set(seen[0]) & {part.data_ptr() for each in given for part in each.tensors}
    for each, old in zip(given, before, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(each.tensors, old.tensors, strict=True))


def test_the_largest_shape_is_captured_before_others() -> None:
    capturer = FakeCapturer()
    run = Run(capturer)
    run.step(made_up_inputs(7, 1, LONG))
    for number in range(WARM_UP_STEPS + 1):
        run.step(made_up_inputs(number, 1, SHORT))
    assert capturer.num_captured == 0
    run.step(made_up_inputs(8, 1, LONG))
    run.step(made_up_inputs(9, 1, SHORT))
    assert (capturer.num_captured, capturer.num_replayed) == (2, 2)


def test_captures_do_not_wait_forever_for_a_batch_size_that_never_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_WARM_UP_STEPS", WARM_UP_STEPS + 1)
    capturer = FakeCapturer()
    run = Run(capturer, sizes=frozenset({1, 7}))
    for number in range(WARM_UP_STEPS + 2):
        run.step(made_up_inputs(number, 1, SHORT if number else LONG))
        run.step(made_up_inputs(number, 1, LONG)) if number > WARM_UP_STEPS else None
    assert capturer.num_replayed == 1


FAULTS = {
    "not have enough memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "operation not permitted when stream is capturing": RuntimeError(
        "CUDA error: operation not permitted when stream is capturing\nmore of it"
    ),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_after_a_failed_capture_no_step_is_taken_and_the_state_of_before_was_saved(reason: str) -> None:
    run, plain = Run(FakeCapturer(FAULTS[reason])), Run(None)
    for number in range(WARM_UP_STEPS):
        run.step(made_up_inputs(number))
        plain.step(made_up_inputs(number))
    with pytest.raises(GraphsFailed, match=reason) as failed:
        run.step(made_up_inputs(WARM_UP_STEPS))
    assert "graphs=off" in str(failed.value)
    assert "\n" not in str(failed.value)
    assert failed.value.__context__ is None  # its traceback would keep the tensors of the capture
    assert run.num_saves == 1
    assert torch.equal(run.weights, plain.weights)


def test_an_error_while_warming_up_leaves_the_streams_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            waits.append((self.name, other.name))

    main = Stream("main")
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream("side"))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    capturer = CudaGraphCapturer(torch.device("cuda"))
    with pytest.raises(torch.OutOfMemoryError), capturer.warm_up():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert waits == [("side", "main"), ("main", "side")]


def test_gradients_of_eager_steps_are_freed_before_a_capture() -> None:
    capturer = FakeCapturer()
    run = Run(capturer)
    held: list[bool] = []
    capture = capturer.capture

    def capture_and_look(step: Step) -> Step:
        parameters = [*run.state.synthesizer.parameters(), *run.state.discriminators.parameters()]
        held.append(any(p.grad is not None for p in parameters))
        return capture(step)

    capturer.capture = capture_and_look  # type: ignore[method-assign]
    for number in range(WARM_UP_STEPS + 1):
        run.step(made_up_inputs(number))
    assert held == [False]


def test_a_small_batch_of_the_longest_length_is_not_captured_first() -> None:
    capturer = FakeCapturer()
    run = Run(capturer, sizes=frozenset({1, 2}))
    for clips in (2, 1, 1, 1, 1):
        run.step(made_up_inputs(clips, clips, LONG))
    assert capturer.num_captured == 0
    run.step(made_up_inputs(9, 2, LONG))
    assert capturer.num_captured == 1


def test_an_eager_step_that_does_not_fit_beside_the_graphs_takes_their_memory_and_keeps_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capturer = FakeCapturer()
    run = Run(capturer, limit=2)
    for number in range(WARM_UP_STEPS + 1):
        run.step(made_up_inputs(number))
    assert run.graphs is not None
    forward = run.state.synthesizer.forward

    def short_of_memory(*arguments: object) -> object:
        if run.graphs is not None and run.graphs._graphs:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run.state.synthesizer, "forward", short_of_memory)
    run.step(made_up_inputs(8, 2, SHORT))
    assert run.micro_batcher.limit == 2
    monkeypatch.undo()
    for number, frames in enumerate([LONG, SHORT, SHORT]):
        run.step(made_up_inputs(number, 2, frames))
    assert capturer.num_captured == 3  # the largest again, and now the other shape too


# --- padding


def test_padding_to_a_longer_length_changes_nothing_but_rounding() -> None:
    inputs = made_up_inputs(1, 2, LONG)
    more = 24

    def longer(part: Tensor, samples: int, dim: int) -> Tensor:
        shape = list(part.shape)
        shape[dim] = samples
        return torch.cat([part, part.new_zeros(shape)], dim)

    batch = Batch(
        features=longer(inputs.batch.features, more, 1),
        coarse_f0=longer(inputs.batch.coarse_f0, more, 1),
        f0=longer(inputs.batch.f0, more, 1),
        spec=longer(inputs.batch.spec, more, 2),
        wave=longer(inputs.batch.wave, more * HPARAMS.hop_length, 1),
        lengths=inputs.batch.lengths,
        speakers=inputs.batch.speakers,
    )
    noise = Noise(torch.cat([inputs.noise.posterior, torch.randn(2, 24, more)], 2), inputs.noise.source)
    found = []
    for each in (inputs, StepInputs(batch, inputs.starts, noise)):
        run = Run(None)
        found.append((run.step(each), run.state))
    (values, state), (padded, padded_state) = found
    assert padded == pytest.approx(values, rel=1e-5)
    expected, found_gradients = (gradients(each) for each in (state, padded_state))
    assert float((found_gradients - expected).norm() / expected.norm()) < 1e-4


# --- waiting for the device

WAITING_OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2", "bincount"}
WAITING_METHODS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")


class _NoWaiting(TorchDispatchMode):
    """Fails on operations that read device memory on the host, or copy host memory to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        assert name not in WAITING_OPERATIONS, f"{name} waits for the device"
        assert name != "lift_fresh", "a tensor of host numbers is copied to the device"
        if name in {"index", "index_put", "index_put_"}:
            assert not any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in args[1]), "index by a mask"
        if name == "repeat_interleave":
            assert not isinstance(args[0], Tensor) or isinstance(args[1], int), "repeats by a tensor of the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    @contextmanager
    def forbid() -> Iterator[None]:
        def forbidden(name: str) -> Callable[..., object]:
            def method(*_: object, **__: object) -> None:
                raise AssertionError(f"Tensor.{name} waits for the device")

            return method

        with monkeypatch.context() as patch, _NoWaiting():
            for name in WAITING_METHODS:
                patch.setattr(Tensor, name, forbidden(name))
            yield

    return forbid


FORMATS = [Precision("fp32", "cpu"), Precision("bf16", "cpu"), Precision("fp16", "cpu")]


@pytest.mark.parametrize("precision", FORMATS, ids=lambda precision: precision.name)
def test_nothing_in_a_step_waits_for_the_device(no_waiting: Callable[[], object], precision: Precision) -> None:
    run, inputs = Run(None, precision=precision), made_up_inputs(1)
    totals = BatchTotals(2, 2 * LONG)
    training_step(run.state, inputs.batch, inputs.starts, inputs.noise, totals)  # constants are made once
    with no_waiting():  # type: ignore[attr-defined]
        rng = torch.Generator().manual_seed(5)
        starts = draw_starts(inputs.batch.lengths, HPARAMS.segment_frames, rng)
        noise = Noise.draw(HPARAMS, 2, LONG, rng)
        result = training_step(run.state, inputs.batch, starts, noise, totals)
        read = result.stacked()
    assert len(read.tolist()) == 7


def test_operations_that_wait_are_found(no_waiting: Callable[[], object]) -> None:
    x = torch.ones(3)
    for work in (
        lambda: x.sum().item(),
        lambda: x.sum().tolist(),
        lambda: x[x > 0],
        lambda: x.nonzero().t(),
        lambda: torch.tensor([1.0]),
        lambda: bool(x[0]),
        lambda: x.cpu().sum(),
    ):
        with pytest.raises(AssertionError), no_waiting():  # type: ignore[attr-defined]
            work()


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_graphs_give_the_losses_of_eager_steps_and_nothing_waits(name: str) -> None:
    device = torch.device("cuda")
    torch.backends.cudnn.deterministic = True
    found = []
    for is_graphed in (False, False, True):
        state = fresh_state(Precision(name, "cuda"), device)  # type: ignore[arg-type]
        graphs = GraphedSteps(state, CudaGraphCapturer(device), LONG, (1, 2)) if is_graphed else None
        values = []
        for number, (clips, frames) in enumerate(SHAPES):
            inputs = made_up_inputs(number, clips, frames, device)
            is_capturing = is_graphed and number >= WARM_UP_STEPS  # which waits, once for each shape
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("default" if is_capturing or number == 0 else "error")
            try:
                stacked = take_step(state, graphs, inputs, MicroBatcher(8)).stacked().clone()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            values.append(stacked.tolist())
        assert graphs is None or len(graphs._graphs) == 2
        found.append(values)
    # No farther from eager steps than these are from each other: a stale buffer or a wrong stream would be.
    for plain, again, graphed in zip(*found, strict=True):
        spread = max(abs(one - other) / abs(one) for one, other in zip(plain, again, strict=True))
        assert graphed == pytest.approx(plain, rel=max(1e-4, 3 * spread))
    assert len({tuple(values) for values in found[-1]}) == len(SHAPES)  # each step read its own inputs
