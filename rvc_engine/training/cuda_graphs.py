"""Whole training steps captured as CUDA graphs: a step is one launch instead of thousands.

A graph has one shape: the number of clips, their padded length and the micro-batch size. It reads its inputs at the
addresses of the capture, so each shape has static buffers. All graphs share one memory pool: they run one after
another, and none needs what another left behind.

A capture computes nothing, and memory that an eager step holds is not available to the graphs. So the first steps are
eager, one kernel after another, until libraries have initialised and each batch size has occurred. Then the largest
shape is captured first: the smaller ones fit into its memory. After a failed capture the process must take no further
step: the engine starts again without graphs, from a checkpoint that was saved before the first capture.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import GraphsFailed
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import StepInputs, StepResult, training_step

WARM_UP_STEPS = 3
MAX_WARM_UP_STEPS = 100
"""After so many eager steps, captures no longer wait for a batch size that has not occurred."""
GRAPHS_VARIABLE = "RVC_ENGINE_GRAPHS"
"""Environment variable of an engine that starts again after a failed capture: with `off` it uses none."""

Step = Callable[[], StepResult]


def are_enabled(config: TrainingConfig) -> bool:
    """Whether a run may use graphs: by its configuration, and unless a capture has failed before."""
    return config.graphs == "auto" and os.environ.get(GRAPHS_VARIABLE) != "off"


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
        self._eager_steps: Counter[GraphShape] = Counter()

    def count_eager_step(self, shape: GraphShape) -> None:
        """Count an eager step of a shape."""
        self._eager_steps[shape] += 1

    def is_due(self, shape: GraphShape, *, is_first: bool) -> bool:
        """Whether to capture a shape now; `is_first`: no other is captured yet.

        cuDNN chooses its algorithms by shape, and loads them when it does: so each shape has an eager step before.
        """
        if not self._eager_steps[shape]:
            return False
        if not is_first:
            return True
        num_steps, sizes_seen = self._eager_steps.total(), {each.clips for each in self._eager_steps}
        is_warm = num_steps >= WARM_UP_STEPS and (self._batch_sizes <= sizes_seen or num_steps >= MAX_WARM_UP_STEPS)
        is_largest = shape.frames == self._max_frames and shape.clips == max(sizes_seen)
        return is_warm and is_largest


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
        # Gradients of eager steps would keep their memory beside the graphs', which have their own.
        state.generator_optimizer.zero_grad()
        state.discriminator_optimizer.zero_grad()
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
        save: Callable[[], None] = lambda: None,
    ) -> None:
        """`max_frames`: padded length of the longest clip; `batch_sizes`: sizes in clips of all batches of the run.

        `save` is called before the first capture, after which a run may not go on in this process.
        """
        self._state, self._capturer, self._save = state, capturer, save
        self._policy = CapturePolicy(max_frames, batch_sizes)
        self._graphs: dict[GraphShape, CapturedStep] = {}

    def replay(self, inputs: StepInputs, limit: int) -> StepResult | None:
        """Take a step of both models from the graph of its shape, with at most `limit` clips in a micro-batch.

        The graph is captured first if that is due. Without a graph this returns None, and the caller takes the step
        eagerly within `warm_up`. The result is overwritten by the next replay. Raises GraphsFailed, after which the
        process must take no further step.
        """
        shape = GraphShape(inputs.num_clips, inputs.batch.spec.shape[2], min(inputs.num_clips, limit))
        if shape not in self._graphs and self._policy.is_due(shape, is_first=not self._graphs):
            if not self._graphs:
                self._save()
            self._graphs[shape] = self._capture(shape, inputs)
        graph = self._graphs.get(shape)
        if graph is None:
            self._policy.count_eager_step(shape)
            return None
        graph.inputs.copy_from(inputs)
        return graph.replay()

    def warm_up(self) -> AbstractContextManager[None]:
        """Context for an eager step."""
        return self._capturer.warm_up()

    def release(self) -> bool:
        """Free the graphs' memory, for an eager step that does not fit beside it; False where there are none.

        They are captured again when their shapes recur, and that of the eager step with them.
        """
        has_graphs = bool(self._graphs)
        self._graphs.clear()
        return has_graphs

    def _capture(self, shape: GraphShape, inputs: StepInputs) -> CapturedStep:
        try:
            return CapturedStep.capture(self._state, self._capturer, inputs, shape.micro_batch_size)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if is_out_of_memory(error):
                reason = "the device does not have enough memory for them"
        # PyTorch cannot be trusted after a failed capture: its allocator may stay in the mode of captures, in which it
        # neither returns memory nor retries, and the memory of the graphs stays reserved until the process ends.
        raise GraphsFailed(
            f"training cannot go on with CUDA graphs ({reason}); start the run again with graphs=off, and it goes on "
            "from its last checkpoint, one kernel after another"
        )
