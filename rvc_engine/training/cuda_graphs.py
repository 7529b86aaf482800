"""Whole training steps recorded as CUDA graphs: a step is one launch in place of thousands.

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

from rvc_engine.checkpoints.train_state import Nets
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.data.batch import Batch
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.micro_batches import MicroBatches
from rvc_engine.training.step import StepResult, Whole, training_step

T = TypeVar("T")

WARM_UP_STEPS = 3
MOST_WARM_UP_STEPS = 100
"""An epoch's smaller last batch is not waited for any longer."""


class Shape(NamedTuple):
    """What steps of one graph have in common."""

    clips: int
    frames: int
    """Padded length."""
    at_once: int
    """Clips in a piece of the batch."""


@dataclass(frozen=True)
class StepInputs:
    """All that a step takes in."""

    batch: Batch
    starts: Tensor
    """(B,), first frames of the segments."""
    noise: Noise

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in an order that shape and kind of voice decide."""
        parts = [getattr(self.batch, each.name) for each in fields(Batch)]
        return [part for part in (*parts, self.starts, *self.noise) if part is not None]

    def buffers(self) -> "StepInputs":
        """The same in memory of their own."""
        parts: dict[str, Any] = {each.name: _cloned(getattr(self.batch, each.name)) for each in fields(Batch)}
        noise = Noise(self.noise.posterior.clone(), _cloned(self.noise.source))
        return StepInputs(Batch(**parts), self.starts.clone(), noise)

    def take(self, given: "StepInputs") -> None:
        """Copy other inputs of the same shape into these, where they lie."""
        torch._foreach_copy_(self.tensors, given.tensors)


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


Step = Callable[[], StepResult]


class Recorder(Protocol):
    """Records work on a device."""

    def warming_up(self) -> AbstractContextManager[None]:
        """Where work is done that will be recorded later."""

    def record(self, step: Step) -> Step:
        """What does the same again, on the same memory, and gives its result there. Raises RuntimeError."""


class CudaRecorder:
    """Records CUDA graphs that share their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """On the stream that recording takes place on: gradients are bound to the one they first came on."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, step: Step) -> Step:
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
class _Recorded:
    inputs: StepInputs
    replay: Step


class GraphedSteps:
    """Takes training steps of one pair of nets, from graphs where it can."""

    def __init__(
        self,
        nets: Nets,
        recorder: Recorder,
        most_frames: int,
        batch_sizes: Collection[int],
        say: Callable[[str], None],
    ) -> None:
        """`most_frames`: what the longest clip is padded to; `batch_sizes`: of all batches to come, in clips.

        `say` hears, once, that graphs cannot be used.
        """
        self._nets, self._recorder, self._say = nets, recorder, say
        self._most_frames, self._batch_sizes = most_frames, frozenset(batch_sizes)
        self._graphs: dict[Shape, _Recorded] = {}
        self._eager: Counter[tuple[int, int]] = Counter()
        """Eager steps by clips, and clips at once: other lengths need no other setting up."""
        self._works = True

    @property
    def num_graphs(self) -> int:
        """How many shapes have been recorded."""
        return len(self._graphs)

    def take(self, given: StepInputs, micro_batches: MicroBatches, eager: Step) -> StepResult:
        """A step of both nets; `eager` takes it one kernel after another.

        The result lies where the next step's will lie.
        """
        clips, frames = len(given.starts), given.batch.spec.shape[2]
        shape = Shape(clips, frames, min(clips, micro_batches.limit))
        if shape not in self._graphs and self._is_due(shape):
            self._try_to_record(shape, given)
        recorded = self._graphs.get(shape)
        if recorded is not None:
            recorded.inputs.take(given)
            return recorded.replay()
        self._eager[clips, shape.at_once] += 1
        if not self._works:
            return eager()
        with self._recorder.warming_up():
            return eager()

    def _is_due(self, shape: Shape) -> bool:
        if not self._works or not self._eager[shape.clips, shape.at_once]:
            return False
        if self._graphs:
            return True
        num_steps, sizes_met = self._eager.total(), {clips for clips, _ in self._eager}
        is_warm = num_steps >= WARM_UP_STEPS and (self._batch_sizes <= sizes_met or num_steps >= MOST_WARM_UP_STEPS)
        return is_warm and shape.frames == self._most_frames

    def _try_to_record(self, shape: Shape, given: StepInputs) -> None:
        scales = [scaler.state_dict() for scaler in self._scalers]
        try:
            self._graphs[shape] = self._record(shape, given)
            return
        except RuntimeError as error:
            is_short, fault = is_out_of_memory(error), str(error).partition("\n")[0]
        # Outside of the handler: what the error's frames hold is free now.
        self._works = False
        self._graphs.clear()
        self._nets.compute_in(self._nets.precision)  # a scaler that was stopped halfway takes no further step
        for scaler, scale in zip(self._scalers, scales, strict=True):
            if scale:
                scaler.load_state_dict(scale)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        why = "the device has no memory left for them" if is_short else fault
        self._say(f"steps go on without CUDA graphs, one kernel after another: {why}")

    @property
    def _scalers(self) -> tuple[torch.amp.GradScaler, torch.amp.GradScaler]:
        return self._nets.generator_scaler, self._nets.discriminator_scaler

    def _record(self, shape: Shape, given: StepInputs) -> _Recorded:
        inputs, nets = given.buffers(), self._nets
        pieces = _InPieces(shape.at_once)

        def step() -> StepResult:
            whole = Whole(shape.clips, inputs.batch.lengths.sum())
            return training_step(nets, inputs.batch, inputs.starts, inputs.noise, whole, pieces)

        with _capturable(nets):
            return _Recorded(inputs, self._recorder.record(step))


class _InPieces(MicroBatches):
    """Pieces of one size, that are not made smaller: a graph has the memory that it needs, or there is none."""

    def attempt(self, num_clips: int, gather: Callable[[int], T], apply: Callable[[T], object]) -> None:
        apply(gather(self.limit))


@contextmanager
def _capturable(nets: Nets) -> Iterator[None]:
    """Let optimizers be recorded; their fused kernel needs nothing else for it than the learning rate's place."""
    groups = [
        group
        for optimizer in (nets.generator_optimizer, nets.discriminator_optimizer)
        for group in optimizer.param_groups
    ]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group in groups:
            group["capturable"] = False
