"""Failures that are forced, and what follows: memory that runs out, and a capture that fails."""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.plan import Plan, say
from benchmarks.gpu.steps import Bench, OurSteps
from rvc_engine.compute.accelerators import has_graphs, limit_memory, reserved_bytes, synchronize
from rvc_engine.errors import GraphsFailed
from rvc_engine.training.cuda_graphs import CudaGraphCapturer, GraphedSteps, Step
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import training_step

EXIT_GRAPHS_FAILED = 3


def failures(plan: Plan) -> None:
    """Force both; the second in processes of their own, as the engine starts again after it."""
    _run_out_of_memory(Bench(plan))
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    done = _process("capture", plan)
    has_failed = done.returncode == EXIT_GRAPHS_FAILED
    say("failed capture: reported as such", float(has_failed), "1", _last(done))
    done = _process("after_failure", plan)
    say("failed capture: steps in the next process, without graphs", float(done.returncode == 0), "1", _last(done))


def _run_out_of_memory(bench: Bench) -> None:
    """A batch for which there is no memory: the step goes on in smaller micro-batches."""
    batch_size = 2 if bench.plan.is_tiny else 16
    state, inputs = bench.state(), bench.inputs(batch_size)
    said: list[str] = []
    micro_batcher = MicroBatcher(batch_size, warn=said.append)
    if bench.device.type == "cuda":
        training_step(state, **_one_clip(bench))  # the optimizers' state
        torch.cuda.empty_cache()
        limit_memory(bench.device, reserved_bytes(bench.device) + 2 * 2**30)
    else:
        _refuse_several_clips(state.discriminators)
    result = training_step(state, inputs.batch, inputs.starts, inputs.noise, None, micro_batcher)
    is_finite = bool(result.stacked().isfinite().all())
    notes = f"of {batch_size}; losses are {'' if is_finite else 'NOT '}finite; {len(said)} times halved"
    say("out of memory: clips at a time with which it went on", micro_batcher.limit, "clips", notes)
    if bench.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def _one_clip(bench: Bench) -> dict[str, Any]:
    one = bench.inputs(1)
    return {"batch": one.batch, "starts": one.starts, "noise": one.noise}


def _refuse_several_clips(model: torch.nn.Module) -> None:
    """Have a model run out of memory with several clips (of each it gets a real and a made segment)."""

    def check(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")

    model.register_forward_pre_hook(check)


class _Capturer(CudaGraphCapturer):
    """A capturer whose captures fail: each waits for the device, which CUDA refuses in a capture."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        if self._is_cuda:
            super().__init__(device)

    def warm_up(self) -> Any:
        return super().warm_up() if self._is_cuda else torch.enable_grad()

    def capture(self, step: Step) -> Step:
        """Fail."""
        if not self._is_cuda:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing (made up)")

        def waiting() -> Any:
            result = step()
            result.disc.item()
            return result

        return super().capture(waiting)


def capture(plan: Plan) -> None:
    """Take steps until the capture fails, and end with the code for that."""
    bench = Bench(plan)
    ours = OurSteps(bench, 2 if plan.is_tiny else 4, with_graphs=False)
    ours.graphs = GraphedSteps(ours.state, _Capturer(bench.device), bench.frames, {len(ours.batches[0].starts)})
    try:
        for number in range(6):
            ours.take(number)
    except GraphsFailed as error:
        print(error, flush=True)
        sys.stdout.flush()
        os._exit(EXIT_GRAPHS_FAILED)
    print("the capture did not fail", flush=True)


def after_failure(plan: Plan) -> None:
    """Take steps without graphs."""
    bench = Bench(plan)
    ours = OurSteps(bench, 2 if plan.is_tiny else 4, with_graphs=False)
    for number in range(3):
        result = ours.take(number)
    synchronize(bench.device)
    assert bool(result.stacked().isfinite().all())
    print(f"3 steps, graphs of this device: {has_graphs(bench.device)}", flush=True)


def _process(name: str, plan: Plan) -> "subprocess.CompletedProcess[str]":
    run = partial(subprocess.run, capture_output=True, text=True, errors="replace", check=False)
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, plan.dump()]
    try:
        return run(command, timeout=max(1.0, plan.seconds_left))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", f"not done in {plan.seconds_left:.0f} s")


def _last(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
