"""Captured steps of two ranks, in threads, give the losses and weights of one process; all ranks replay, or none."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rvc_engine.compute.process_group import DistributedContext
from rvc_engine.data.batch import Batch
from rvc_engine.errors import GraphsFailed
from rvc_engine.events import Failed
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training import cuda_graphs
from rvc_engine.training.cuda_graphs import GraphedSteps
from rvc_engine.training.distributed.launcher import _RankGroup
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import BatchTotals, StepInputs, training_step
from tests.engine.training.test_cuda_graphs import LONG, SHORT, FakeCapturer, Run, made_up_inputs

NUM_RANKS = 2


class Exchange:
    """What the ranks of a test give each other."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(NUM_RANKS, timeout=60)
        self.given: list[Tensor] = [torch.zeros(0)] * NUM_RANKS


class ThreadContext(DistributedContext):
    """A rank in a thread of this process."""

    def __init__(self, rank: int, exchange: Exchange) -> None:
        super().__init__(rank, NUM_RANKS)
        self.exchange, self.num_flags = exchange, 0

    def _gather(self, tensor: Tensor) -> Tensor:
        self.exchange.given[self.rank] = tensor.clone()
        self.exchange.barrier.wait()
        gathered = torch.stack(self.exchange.given)
        self.exchange.barrier.wait()
        return gathered

    def all_reduce_flags(self, flags: Sequence[bool]) -> list[bool]:
        self.num_flags += 1
        return self._gather(torch.tensor(flags)).any(0).tolist()

    def sum_over_ranks(self, flat: Tensor) -> None:
        flat.copy_(self._gather(flat).sum(0))


def share(inputs: StepInputs, rank: int) -> StepInputs | None:
    """Every second clip; None where there is none."""
    part = slice(rank, None, NUM_RANKS)
    if not len(inputs.starts[part]):
        return None
    batch = Batch(*(None if each is None else each[part] for each in vars(inputs.batch).values()))
    return StepInputs(batch, inputs.starts[part], Noise(*(each[part] for each in inputs.noise)))


def in_float64(run: Run) -> None:
    """In which sums in another order are the same: AdamW's first steps make much of small differences."""
    run.state.synthesizer.double()
    run.state.discriminators.double()


def float64_inputs(*arguments: int) -> StepInputs:
    inputs = made_up_inputs(*arguments)
    batch = Batch(*(each.double() if each.is_floating_point() else each for each in vars(inputs.batch).values()))
    return StepInputs(batch, inputs.starts, Noise(*(each.double() for each in inputs.noise)))


class Rank(Run):
    """Steps of one of two ranks."""

    def __init__(self, rank: int, exchange: Exchange, limit: int) -> None:
        super().__init__(None)
        in_float64(self)
        self.distributed, self.capturer = ThreadContext(rank, exchange), FakeCapturer()
        self.micro_batcher = MicroBatcher(limit, self.distributed)
        self.graphs = GraphedSteps(self.state, self.capturer, LONG, {4}, self.save, self.distributed)

    def take(self, inputs: StepInputs) -> list[float]:
        """A step as the trainer takes it."""
        totals = BatchTotals(inputs.num_clips, int(inputs.batch.lengths.sum()))
        own = share(inputs, self.distributed.rank)
        assert self.graphs is not None
        result = self.graphs.replay(own, self.micro_batcher.limit, totals)
        if result is None:
            given = own or replace(inputs, starts=inputs.starts[:0])
            batch = None if own is None else own.batch
            result = training_step(self.state, batch, given.starts, given.noise, totals, self.micro_batcher)
        return result.stacked().tolist()


@pytest.mark.parametrize("limit", [2, 1])
def test_captured_steps_of_two_ranks_are_those_of_one_process(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "WARM_UP_STEPS", 1)
    exchange, plain = Exchange(), Run(None)
    in_float64(plain)
    ranks = [Rank(number, exchange, limit) for number in range(NUM_RANKS)]
    flags = []
    with ThreadPoolExecutor(NUM_RANKS) as pool:
        for number, (clips, frames) in enumerate([(4, LONG), (4, LONG), (1, SHORT), (4, LONG)]):
            inputs = float64_inputs(number, clips, frames)
            before = ranks[0].distributed.num_flags
            found = list(pool.map(lambda rank, inputs=inputs: rank.take(inputs), ranks))  # type: ignore[misc]
            assert found[0] == found[1]
            assert found[0] == pytest.approx(plain.step(inputs), rel=1e-6)
            flags.append(ranks[0].distributed.num_flags - before)
    assert torch.equal(ranks[0].weights, ranks[1].weights)
    assert float((ranks[0].weights - plain.weights).norm() / plain.weights.norm()) < 1e-9
    for rank in ranks:
        assert rank.num_saves == 1
        # Three graphs; the step of one clip, of which the second rank has no part, is eager.
        assert (rank.capturer.num_captured, rank.capturer.num_replayed) == (3, 6)
    assert flags == [3, 1, 3, 1], "by graphs the ranks agree once, and not in each half"


def test_a_rank_whose_capture_fails_has_the_engine_start_again_without_graphs() -> None:
    group = _RankGroup.__new__(_RankGroup)
    group._failed = Failed(code=GraphsFailed.code, message="training cannot go on with CUDA graphs")
    with pytest.raises(GraphsFailed, match="CUDA graphs"):
        group.raise_for_exit()
