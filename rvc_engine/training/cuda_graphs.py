"""Whole training steps captured as CUDA graphs: a step is one launch in place of thousands.

A graph is of one shape: so many clips, padded to so many frames, so many of them at once. It reads its inputs where
they lay when it was recorded, so each shape has buffers of its own. All graphs share their memory: they run one after
another, and none needs what another left behind.

Recording computes nothing, and memory that an eager step takes is not the graphs'. So steps are taken eagerly, one
kernel after another, until libraries have set themselves up and each size of batch has come by, and from then on
recorded, the longest shape first: the others fit into its memory. What cannot be recorded goes on eagerly.
"""

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.data.batch import Batch
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import BatchTotals, StepResult, training_step

T = TypeVar("T")

WARM_UP_STEPS = 3
MAX_WARM_UP_STEPS = 100
"""An epoch's smaller last batch is not waited for any longer."""


class GraphShape(NamedTuple):
    """What steps of one graph have in common."""

    clips: int
    frames: int
    """Padded length."""
    micro_batch_size: int
    """Clips in a piece of the batch."""


@dataclass(frozen=True)
class StepInputs:
    """The input tensors of a step."""

    batch: Batch
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in an order that shape and kind of voice decide."""
        parts = [getattr(self.batch, each.name) for each in fields(Batch)]
        return [part for part in (*parts, self.starts, *self.noise) if part is not None]

    def static_clone(self) -> "StepInputs":
        """Static buffers with a copy of these values, for a graph to read."""
        parts: dict[str, Any] = {each.name: _clone(getattr(self.batch, each.name)) for each in fields(Batch)}
        noise = Noise(self.noise.posterior.clone(), _clone(self.noise.source))
        return StepInputs(Batch(**parts), self.starts.clone(), noise)

    def copy_from(self, source: "StepInputs") -> None:
        """Copy other inputs of the same shape into these buffers."""
        torch._foreach_copy_(self.tensors, source.tensors)


def _clone(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


Step = Callable[[], StepResult]


class Capturer(Protocol):
    """Captures work on a device for replay."""

    def warm_up(self) -> AbstractContextManager[None]:
        """Context for eager work that will be captured later."""

    def capture(self, step: Step) -> Step:
        """Capture `step`; the result replays it on the same memory. Raises RuntimeError."""


class CudaGraphCapturer:
    """Captures CUDA graphs that share one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """On the stream that captures use: gradients are bound to the stream they were first computed on."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        """Waits for the device, and gives back the memory that nothing uses."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # thread_local: other threads pin memory for clips and checkpoints meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = step()
        finally:
            torch.cuda.set_stream(current)  # a fault leaves the other one behind

        def replay() -> StepResult:
            graph.replay()
            return result

        return replay


@dataclass(frozen=True)
class _CapturedGraph:
    inputs: StepInputs
    replay: Step


class GraphedSteps:
    """Training steps of one GanTrainState, replayed from graphs where possible."""

    def __init__(
        self,
        state: GanTrainState,
        capturer: Capturer,
        max_frames: int,
        batch_sizes: Collection[int],
        log: Callable[[str], None],
    ) -> None:
        """`max_frames`: what the longest clip is padded to; `batch_sizes`: of all batches to come, in clips.

        `log` gets one message when graphs cannot be used.
        """
        self._state, self._capturer, self._log = state, capturer, log
        self._max_frames, self._batch_sizes = max_frames, frozenset(batch_sizes)
        self._graphs: dict[GraphShape, _CapturedGraph] = {}
        self._eager_steps: Counter[tuple[int, int]] = Counter()
        """Eager steps by clips and micro-batch size. Assumed, not measured: lengths need no set-up of their own."""
        self._is_enabled = True

    @property
    def num_graphs(self) -> int:
        """The number of captured shapes."""
        return len(self._graphs)

    def step(self, inputs: StepInputs, micro_batcher: MicroBatcher, eager: Step) -> StepResult:
        """Take a step of both models; `eager` takes it one kernel after another.

        The result lies where the next step's will lie.
        """
        clips, frames = len(inputs.starts), inputs.batch.spec.shape[2]
        shape = GraphShape(clips, frames, min(clips, micro_batcher.limit))
        if shape not in self._graphs and self._is_capture_due(shape):
            self._try_capture(shape, inputs)
        graph = self._graphs.get(shape)
        if graph is not None:
            graph.inputs.copy_from(inputs)
            return graph.replay()
        self._eager_steps[clips, shape.micro_batch_size] += 1
        if not self._is_enabled:
            return eager()
        with self._capturer.warm_up():
            return eager()

    def _is_capture_due(self, shape: GraphShape) -> bool:
        if not self._is_enabled or not self._eager_steps[shape.clips, shape.micro_batch_size]:
            return False
        if self._graphs:
            return True
        num_steps, sizes_seen = self._eager_steps.total(), {clips for clips, _ in self._eager_steps}
        is_warm = num_steps >= WARM_UP_STEPS and (self._batch_sizes <= sizes_seen or num_steps >= MAX_WARM_UP_STEPS)
        return is_warm and shape.frames == self._max_frames

    def _try_capture(self, shape: GraphShape, inputs: StepInputs) -> None:
        scales = [scaler.state_dict() for scaler in self._scalers]
        try:
            self._graphs[shape] = self._capture(shape, inputs)
            return
        except RuntimeError as error:
            is_oom, fault = is_out_of_memory(error), str(error).partition("\n")[0]
        # Outside of the handler: what the error's frames hold is free now.
        self._is_enabled = False
        self._graphs.clear()
        self._state.set_precision(self._state.precision)  # a scaler that was stopped halfway takes no further step
        for scaler, scale in zip(self._scalers, scales, strict=True):
            if scale:
                scaler.load_state_dict(scale)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        why = "the device has no memory left for them" if is_oom else fault
        self._log(f"steps go on without CUDA graphs, one kernel after another: {why}")

    @property
    def _scalers(self) -> tuple[torch.amp.GradScaler, torch.amp.GradScaler]:
        return self._state.generator_scaler, self._state.discriminator_scaler

    def _capture(self, shape: GraphShape, given: StepInputs) -> _CapturedGraph:
        inputs, state = given.static_clone(), self._state
        micro_batcher = _FixedMicroBatcher(shape.micro_batch_size)

        def step() -> StepResult:
            whole = BatchTotals(shape.clips, inputs.batch.lengths.sum())
            return training_step(state, inputs.batch, inputs.starts, inputs.noise, whole, micro_batcher)

        with _capturable(state):
            return _CapturedGraph(inputs, self._capturer.capture(step))


class _FixedMicroBatcher(MicroBatcher):
    """Micro-batches of one size, without retries: a graph has the memory that it needs, or there is none."""

    def attempt(self, num_clips: int, backward: Callable[[int], T], step: Callable[[T], object]) -> None:
        step(backward(self.limit))


@contextmanager
def _capturable(state: GanTrainState) -> Iterator[None]:
    """Mark the optimizers as capturable; their fused kernel needs nothing more, since its learning rate is a tensor."""
    groups = [
        group
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer)
        for group in optimizer.param_groups
    ]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group in groups:
            group["capturable"] = False
