"""Steps with compile=true: which parts are compiled, the same losses, and checkpoints that fit either way."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.compilation import Compiler
from rvc_engine.compute.precision import FormatName, Precision
from rvc_engine.models.activation_checkpointing import set_activation_checkpointing
from rvc_engine.models.backend import PYTORCH, use_backend
from rvc_engine.training import step as step_module
from rvc_engine.training.micro_batches import MicroBatcher
from rvc_engine.training.step import training_step
from tests.engine.training.test_cuda_graphs import FakeCapturer, Run, fresh_state, made_up_inputs


class Recorder(Compiler):
    """Compiles nothing, and counts the calls of what would be compiled."""

    def __init__(self) -> None:
        super().__init__(print, print)
        self.calls: Counter[str] = Counter()

    def compile(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Count the function's calls."""

        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            return function(*arguments)

        return call


def step(state: GanTrainState, seed: int, limit: int = 8) -> list[float]:
    inputs = made_up_inputs(seed)
    result = training_step(state, inputs.batch, inputs.starts, inputs.noise, None, MicroBatcher(limit))
    return result.stacked().tolist()


def test_a_step_passes_the_compiled_decoder_once_and_the_compiled_discriminators_three_times() -> None:
    recorder, state, plain = Recorder(), fresh_state(), fresh_state()
    names = list(state.synthesizer.state_dict()), list(state.discriminators.state_dict())
    state.compile(recorder)
    assert step(state, 1) == step(plain, 1)
    assert recorder.calls == {"decoder": 1, "discriminators": 3}
    # Checkpoints and saves have the names that other programs read.
    assert (list(state.synthesizer.state_dict()), list(state.discriminators.state_dict())) == names


def test_evaluations_of_other_lengths_are_not_compiled() -> None:
    recorder, state, inputs = Recorder(), fresh_state(), made_up_inputs(1)
    state.compile(recorder)
    state.synthesizer.generate(*inputs.generate_arguments)
    assert not recorder.calls


def test_with_activation_checkpointing_the_decoder_is_left_out() -> None:
    recorder, state = Recorder(), fresh_state()
    set_activation_checkpointing(state.synthesizer, True)
    state.compile(recorder)
    step(state, 1)
    assert recorder.calls == {"discriminators": 3}


def test_captured_steps_replay_the_compiled_parts() -> None:
    recorder, run, plain = Recorder(), Run(FakeCapturer()), Run(None)
    run.state.compile(recorder)
    for number in range(5):
        assert run.step(made_up_inputs(number)) == plain.step(made_up_inputs(number))
    assert recorder.calls["decoder"] == 5


@pytest.mark.long  # tracing takes half a minute of a core
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gpus_way_through_the_models_is_one_graph_for_each_part_and_traced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights computed at once, in float16, with PyTorch's own layouts; nothing is compiled for it."""
    torch._dynamo.reset()
    monkeypatch.setattr(step_module, "_computes_weights_at_once", lambda _: True)
    warned: list[str] = []
    logged: list[str] = []
    states = [fresh_state(Precision("fp16", "cpu")) for _ in range(2)]
    for state in states:
        use_backend(state.synthesizer, PYTORCH)
        use_backend(state.discriminators, PYTORCH)
        for scaler in (state.generator_scaler, state.discriminator_scaler):
            scaler.load_state_dict({**scaler.state_dict(), "scale": 1.0})  # with the usual one first gradients overflow
    plain, compiled = states
    compiled.compile(Compiler(logged.append, warned.append, "eager"))
    for number in range(2):
        assert step(compiled, number) == step(plain, number)
    assert not warned
    assert len(logged) == 4, logged


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what PyTorch deprecates
@pytest.mark.long  # compiling takes a minute of a core for each format
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_compiled_steps_on_a_cpu_give_the_losses_of_steps_that_are_not(name: FormatName) -> None:
    """With PyTorch's own compiler, where the machine has one that it can use."""
    torch._dynamo.reset()
    warned: list[str] = []
    logged: list[str] = []
    plain, compiled = (fresh_state(Precision(name, "cpu")) for _ in range(2))
    compiled.compile(Compiler(logged.append, warned.append))
    for number in range(4):
        expected = step(plain, number)
        found = step(compiled, number)
        if any("compiler" in each.lower() for each in warned):
            pytest.skip(warned[0])
        assert found == pytest.approx(expected, rel=1e-3 if name == "fp32" else 2e-2)
    assert not warned
    assert len(logged) == 4, logged  # the decoder, and the discriminators in three ways
