"""Whole training steps captured as CUDA graphs: a step is one launch instead of thousands.

A graph has one shape: the number of clips, their padded length and the micro-batch size. It reads its inputs at the
addresses of the capture, so each shape has static buffers. All graphs share one memory pool: they run one after
another, and none needs what another left behind.

A capture computes nothing, and memory that an eager step holds is not available to the graphs. So the first steps are
eager, one kernel after another, until libraries have initialised and each batch size has occurred. Then the largest
shape is captured first: the smaller ones fit into its memory. After a failed capture the process must take no further
step: the engine starts again without graphs, from a checkpoint that was saved before the first capture.

With several ranks a step is three graphs, between which gradients are summed over the ranks. All of them take a step by
graphs, or none does: eager steps have more to agree on.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.process_group import SINGLE_PROCESS, DistributedContext
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import GraphsFailed
from rvc_engine.models.synthesizer import SynthesizerOutput
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import (
    BatchTotals,
    StepInputs,
    StepResult,
    discriminator_backward,
    generator_backward,
    optimizer_step,
    training_pass,
    training_step,
)

WARM_UP_STEPS = 3
MAX_WARM_UP_STEPS = 100
"""After so many eager steps, captures no longer wait for a batch size that has not occurred."""
GRAPHS_VARIABLE = "RVC_ENGINE_GRAPHS"
"""Environment variable of an engine that starts again after a failed capture: with `off` it uses none."""

Step = Callable[[], StepResult]
Result = TypeVar("Result")


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
    total_clips: int
    """Clips of all ranks."""


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
        num_steps, sizes_seen = self._eager_steps.total(), {each.total_clips for each in self._eager_steps}
        is_warm = num_steps >= WARM_UP_STEPS and (self._batch_sizes <= sizes_seen or num_steps >= MAX_WARM_UP_STEPS)
        is_largest = shape.frames == self._max_frames and shape.total_clips == max(sizes_seen)
        return is_warm and is_largest


class Capturer(Protocol):
    """Captures work on a device for replay."""

    def warm_up(self) -> AbstractContextManager[None]:
        """Context for eager work that will be captured later."""

    def capture(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Capture `work`. The function returned replays it on the same memory. Raises RuntimeError."""


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

    def capture(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Capture `work` as a graph. Waits for the device and frees its cached memory."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # thread_local: other threads pin memory for clips and checkpoints meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = work()
        finally:
            torch.cuda.set_stream(current)  # an error leaves the captures' stream current

        def replay() -> Result:
            graph.replay()
            return result

        return replay


class StepParts:
    """A step of one of several ranks in three parts, as `training_step` takes it. Sums over ranks come between them.

    Those are left out of the graphs: in a graph a lost rank would look like a slow one, for ever.
    """

    def __init__(
        self,
        state: GanTrainState,
        inputs: StepInputs,
        totals: BatchTotals,
        micro_batch_size: int,
        distributed: DistributedContext,
    ) -> None:
        self._state, self._totals, self._distributed = state, totals, distributed
        self._micro_batches = inputs.split(micro_batch_size)
        self._output: SynthesizerOutput | None = None
        self.of_discriminators: Tensor | None = None
        """Flattened gradients and losses, once the first part was run or captured."""
        self.of_generator: Tensor | None = None
        """Flattened gradients and losses of the second part."""

    def discriminator_gradients(self) -> None:
        """Compute this rank's gradients of D."""
        state, discriminators = self._state, self._state.discriminators
        if len(self._micro_batches) == 1:
            with training_pass(state, state.synthesizer):
                self._output = state.synthesizer(*self._micro_batches[0].forward_arguments)
        loss = discriminator_backward(state, self._micro_batches, self._output, self._totals)
        self.of_discriminators = self._distributed.flatten_gradients(discriminators, loss)

    def generator_gradients(self) -> None:
        """Take D's step by the sum of the gradients, and compute this rank's gradients of G."""
        state, flat = self._state, self.of_discriminators
        assert flat is not None
        self._d_loss = self._distributed.set_gradients(state.discriminators, state.zeros(1), flat)
        self._grad_norm_d = optimizer_step(
            state.discriminators, state.discriminator_optimizer, state.discriminator_scaler
        )
        losses = generator_backward(state, self._micro_batches, self._output, self._totals)
        self._output = None
        self.of_generator = self._distributed.flatten_gradients(state.synthesizer, losses)

    def generator_step(self) -> StepResult:
        """Take G's step."""
        state, flat = self._state, self.of_generator
        assert flat is not None
        gen, fm, mel, kl = self._distributed.set_gradients(state.synthesizer, state.zeros(4), flat).unbind()
        grad_norm_g = optimizer_step(state.synthesizer, state.generator_optimizer, state.generator_scaler)
        return StepResult(self._d_loss.squeeze(0), gen, fm, mel, kl, self._grad_norm_d, grad_norm_g)

    def captured(self, capturer: Capturer) -> Step:
        """Capture the parts. The function returned replays them, with the sums between them."""
        first = capturer.capture(self.discriminator_gradients)
        second = capturer.capture(self.generator_gradients)
        last = capturer.capture(self.generator_step)

        def replay() -> StepResult:
            first()
            assert self.of_discriminators is not None
            self._distributed.sum_over_ranks(self.of_discriminators)
            second()
            assert self.of_generator is not None
            self._distributed.sum_over_ranks(self.of_generator)
            return last()

        return replay


@dataclass(frozen=True)
class CapturedStep:
    """A captured step with the buffers that it reads."""

    inputs: StepInputs
    num_frames: Tensor
    """Frames of all ranks' clips."""
    _replay: Step

    @classmethod
    def capture(
        cls,
        state: GanTrainState,
        capturer: Capturer,
        inputs: StepInputs,
        shape: GraphShape,
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> "CapturedStep":
        """Capture a step on inputs of this shape, without taking it. Raises RuntimeError."""
        buffers = inputs.static_clone()
        num_frames = torch.ones_like(buffers.batch.lengths[0])
        # Gradients of eager steps would keep their memory beside the graphs', which have their own.
        state.generator_optimizer.zero_grad()
        state.discriminator_optimizer.zero_grad()
        with _capturable_optimizers(state):
            if distributed.world_size > 1:
                totals = BatchTotals(shape.total_clips, num_frames)
                parts = StepParts(state, buffers, totals, shape.micro_batch_size, distributed)
                return cls(buffers, num_frames, parts.captured(capturer))
            # Without retries: a graph has the memory that it needs, or there is none.
            micro_batcher = MicroBatcher(shape.micro_batch_size, halves=False)
            step = partial(training_step, state, buffers.batch, buffers.starts, buffers.noise, None, micro_batcher)
            return cls(buffers, num_frames, capturer.capture(step))

    def replay(self, inputs: StepInputs, num_frames: Tensor | int) -> StepResult:
        """Take a step on these inputs, of the shape of the capture."""
        self.inputs.copy_from(inputs)
        self.num_frames.fill_(num_frames)
        return self._replay()


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
        distributed: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        """`max_frames`: padded length of the longest clip; `batch_sizes`: sizes in clips of all batches of the run.

        `save` is called before the first capture, after which a run may not go on in this process.
        """
        self._state, self._capturer, self._save, self._distributed = state, capturer, save, distributed
        self._policy = CapturePolicy(max_frames, batch_sizes)
        self._graphs: dict[GraphShape, CapturedStep] = {}

    def replay(self, inputs: StepInputs | None, limit: int, totals: BatchTotals | None = None) -> StepResult | None:
        """Take a step of both models from the graph of its shape, with at most `limit` clips in a micro-batch.

        The graph is captured first if that is due. Without a graph, on any rank, this returns None, and the caller
        takes the step eagerly within `warm_up`. The result is overwritten by the next replay. Raises GraphsFailed,
        after which the process must take no further step. `inputs` and `totals` are those of `training_step`.
        """
        shape = None if inputs is None else self._shape(inputs, limit, totals)
        is_first = not self._graphs
        has_graph = shape in self._graphs or (shape is not None and self._policy.is_due(shape, is_first=is_first))
        if self._distributed.all_reduce_any(not has_graph):
            if shape is not None:
                self._policy.count_eager_step(shape)
            return None
        assert inputs is not None
        assert shape is not None
        if shape not in self._graphs:
            if is_first:
                self._save()
            self._graphs[shape] = self._capture(shape, inputs)
        return self._graphs[shape].replay(inputs, 0 if totals is None else totals.num_frames)

    def _shape(self, inputs: StepInputs, limit: int, totals: BatchTotals | None) -> GraphShape:
        clips, frames = inputs.num_clips, inputs.batch.spec.shape[2]
        return GraphShape(clips, frames, min(clips, limit), clips if totals is None else totals.num_clips)

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
            return CapturedStep.capture(self._state, self._capturer, inputs, shape, self._distributed)
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
