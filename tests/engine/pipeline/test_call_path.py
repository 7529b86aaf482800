"""The call path from a program's entry to the model's forward pass stays short enough to follow."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import rvc_engine
from rvc_engine.cli import main, pipeline_script
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pipeline.process import StopSwitch
from rvc_engine.training import trainer

PACKAGE = Path(rvc_engine.__file__).parent
MAX_FRAMES_TO_TRAINING = 4
MAX_FRAMES_TO_FORWARD = 8
FIELDS = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}
SETTINGS = [word for name, value in FIELDS.items() for word in ("--set", f"{name}={value}")]


class ForwardReached(BaseException):
    """End of the traced run, at the first forward pass."""


def call_stack(frame: FrameType | None) -> list[str]:
    """Frames of our package on the live call stack, outermost first; torch's, Typer's and click's are left out."""
    names = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            names.append(f"{file.relative_to(PACKAGE)}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return names[::-1]


def trace(program: Callable[[], None], *arguments: str | Path) -> dict[str, list[str]]:
    """Run a program up to the first `Synthesizer.forward`; returns the call stacks at training's entry and there."""
    stacks = {}

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        if frame.f_code is trainer.run.__code__:
            stacks["training"] = call_stack(frame)
        elif frame.f_code is Synthesizer.forward.__code__:
            stacks["forward"] = call_stack(frame)
            raise ForwardReached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        patch.setattr(StopSwitch, "on_signals", lambda _: None)
        patch.setattr("torch.cuda.is_available", lambda: False)
        sys.setprofile(profile)
        try:
            with pytest.raises(ForwardReached):
                program()
        finally:
            sys.setprofile(None)
    return stacks


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, recordings: Path, cache: Path) -> dict[str, list[str]]:
    """The call stacks of `rvc-engine run` on the CPU."""
    words = ["run", "--voice", "anna", "--workspace", tmp_path_factory.mktemp("run"), "--dataset", recordings]
    return trace(main.main, *words, "--cache", cache, "--device", "cpu", "--threads", "1", *SETTINGS)


def test_training_starts_within_four_calls_of_the_command_line(stacks: dict[str, list[str]]) -> None:
    path = stacks["training"]
    assert len(path) - 1 <= MAX_FRAMES_TO_TRAINING, " -> ".join(path)


def test_the_forward_pass_is_within_eight_calls_of_the_command_line(stacks: dict[str, list[str]]) -> None:
    path = stacks["forward"]
    assert len(path) <= MAX_FRAMES_TO_FORWARD, " -> ".join(path)


def test_the_pipeline_script_is_as_short(tmp_path: Path, recordings: Path) -> None:
    words = ["-e", "anna", "--dataset", recordings, "--logs", tmp_path, *SETTINGS]
    path = trace(pipeline_script.main, *words)["training"]
    assert len(path) - 1 <= MAX_FRAMES_TO_TRAINING, " -> ".join(path)
