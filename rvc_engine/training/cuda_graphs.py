"""Whole training steps captured as CUDA graphs: a step is one launch instead of thousands.

A graph has one shape: the number of clips, their padded length and the micro-batch size. It reads its inputs at the
addresses of the capture, so each shape has static buffers. All graphs share one memory pool: they run one after
another, and none needs what another left behind.

A capture computes nothing, and memory that an eager step holds is not available to the graphs. So the first steps are
eager, one kernel after another, until libraries have initialised and each batch size has occurred. Then the longest
shape is captured first: the shorter ones fit into its memory. When a capture fails, all steps stay eager.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.training.micro_batches import MicroBatcher, free_cached_memory
from rvc_engine.training.step import StepInputs, StepResult, reset_scalers, training_step

WARM_UP_STEPS = 3
MAX_WARM_UP_STEPS = 100
"""After so many eager steps, captures no longer wait for an epoch's smaller last batch."""

Step = Callable[[], StepResult]


class GraphShape(NamedTuple):
    """The shape of a captured step."""

    clips: int
    frames: int
    """Padded length."""
    micro_batch_size: int
    """Clips."""


class CapturePolicy:
    """Decides which shapes are captured when, from the eager steps so far."""

    def __init__(self, max_frames: int, batch_sizes: Collection[int]) -> None:
        self._max_frames, self._batch_sizes = max_frames, frozenset(batch_sizes)
        self._eager_steps: Counter[tuple[int, int]] = Counter()
        """Eager steps by clips and micro-batch size. Assumed, not measured: a new length initialises nothing."""

    def count_eager_step(self, shape: GraphShape) -> None:
        """Count an eager step of a shape."""
        self._eager_steps[shape.clips, shape.micro_batch_size] += 1

    def is_due(self, shape: GraphShape, *, is_first: bool) -> bool:
        """Whether to capture a shape now; `is_first`: no other is captured yet."""
        if not self._eager_steps[shape.clips, shape.micro_batch_size]:
            return False
        if not is_first:
            return True
        num_steps, sizes_seen = self._eager_steps.total(), {clips for clips, _ in self._eager_steps}
        is_warm = num_steps >= WARM_UP_STEPS and (self._batch_sizes <= sizes_seen or num_steps >= MAX_WARM_UP_STEPS)
        return is_warm and shape.frames == self._max_frames


class Capturer(Protocol):
    """Captures work on a device for replay."""

    def warm_up(self) -> AbstractContextManager[None]:
        """Context for eager work that will be captured later."""

    def capture(self, step: Step) -> Step:
        """Capture `step`. The function returned replays it on the same memory. Raises RuntimeError."""


class CudaGraphCapturer:
    """Captures CUDA graphs that share one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """Run on the captures' stream: gradients are bound to the stream they were first computed on."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        """Capture `step` as a graph. Waits for the device and frees its cached memory."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # thread_local: other threads pin memory for clips and checkpoints meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = step()
        finally:
            torch.cuda.set_stream(current)  # an error leaves the captures' stream current

        def replay() -> StepResult:
            graph.replay()
            return result

        return replay


@dataclass(frozen=True)
class CapturedStep:
    """A captured step with the buffers that it reads."""

    inputs: StepInputs
    replay: Step

    @classmethod
    def capture(
        cls, state: GanTrainState, capturer: Capturer, inputs: StepInputs, micro_batch_size: int
    ) -> "CapturedStep":
        """Capture a step on inputs of this shape, without taking it. Raises RuntimeError."""
        buffers = inputs.static_clone()
        # Without retries: a graph has the memory that it needs, or there is none.
        micro_batcher = MicroBatcher(micro_batch_size, halves=False)
        step = partial(training_step, state, buffers.batch, buffers.starts, buffers.noise, None, micro_batcher)
        with _capturable_optimizers(state):
            return cls(buffers, capturer.capture(step))


@contextmanager
def _capturable_optimizers(state: GanTrainState) -> Iterator[None]:
    """Mark the optimizers as capturable; their fused kernel needs nothing more, since its learning rate is a tensor."""
    groups = [*state.generator_optimizer.param_groups, *state.discriminator_optimizer.param_groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group in groups:
            group["capturable"] = False


class GraphedSteps:
    """Training steps of one train state, replayed from graphs where possible."""

    def __init__(
        self,
        state: GanTrainState,
        capturer: Capturer,
        max_frames: int,
        batch_sizes: Collection[int],
        log: Callable[[str], None],
    ) -> None:
        """`max_frames`: padded length of the longest clip; `batch_sizes`: sizes in clips of all batches of the run.

        `log` gets one message when graphs cannot be used.
        """
        self._state, self._capturer, self._log = state, capturer, log
        self._policy = CapturePolicy(max_frames, batch_sizes)
        self._graphs: dict[GraphShape, CapturedStep] = {}
        self._is_enabled = True

    def replay(self, inputs: StepInputs, limit: int) -> StepResult | None:
        """Take a step of both models from the graph of its shape, with at most `limit` clips in a micro-batch.

        The graph is captured first if that is due. Without a graph this returns None, and the caller takes the step
        eagerly within `warm_up`. The result is overwritten by the next replay.
        """
        shape = GraphShape(inputs.num_clips, inputs.batch.spec.shape[2], min(inputs.num_clips, limit))
        if shape not in self._graphs and self._is_enabled and self._policy.is_due(shape, is_first=not self._graphs):
            self._try_capture(shape, inputs)
        graph = self._graphs.get(shape)
        if graph is None:
            self._policy.count_eager_step(shape)
            return None
        graph.inputs.copy_from(inputs)
        return graph.replay()

    def warm_up(self) -> AbstractContextManager[None]:
        """Context for an eager step."""
        return self._capturer.warm_up() if self._is_enabled else nullcontext()

    def _try_capture(self, shape: GraphShape, inputs: StepInputs) -> None:
        try:
            self._graphs[shape] = CapturedStep.capture(self._state, self._capturer, inputs, shape.micro_batch_size)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if is_out_of_memory(error):
                reason = "the device does not have enough memory for them"
        else:
            return
        self._disable(reason)  # outside the handler: the error's traceback keeps the captured tensors alive

    def _disable(self, reason: str) -> None:
        """Free the graphs and leave the train state ready for eager steps."""
        self._is_enabled = False
        self._graphs.clear()
        reset_scalers(self._state)
        free_cached_memory()
        self._log(f"training continues without CUDA graphs, one kernel after another: {reason}")
