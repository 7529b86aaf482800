"""A run as on a GPU, on the CPU: few padded lengths, captured steps, cached clips; and interrupted."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch

from rvc_engine.checkpoints.recovery import load_trained_synthesizer
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import StopRequested
from rvc_engine.events import Event, Metric
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.training import batch_sampler, trainer
from rvc_engine.training.cuda_graphs import GraphedSteps, Step
from rvc_engine.training.step import StepResult
from rvc_engine.workspace.layout import Workspace

CONFIG = TrainingConfig(
    content="whisper-tiny",
    pretrained="none",
    pitch="dio",
    width=24,
    batch_size=2,
    total_epochs=3,
    save_every_epochs=3,
    learning_rate=1e-3,
    evaluate="never",
    precision="fp32",
    cache_data_on_device=True,
)


class _FakeCapturer:
    """Capturer whose replay runs the step again."""

    num_replayed = 0

    def warm_up(self) -> nullcontext[None]:
        return nullcontext()

    def capture(self, step: Step) -> Step:
        def replay() -> StepResult:
            self.num_replayed += 1
            return step()

        return replay


@pytest.fixture
def capturer(monkeypatch: pytest.MonkeyPatch) -> _FakeCapturer:
    capturer = _FakeCapturer()

    def graphed_steps(trainer: trainer._Trainer) -> GraphedSteps:
        assert trainer.sampler is not None
        batches = trainer.sampler
        return GraphedSteps(
            trainer.state, capturer, batches.max_frames, batches.batch_sizes, trainer._save_before_graphs
        )

    monkeypatch.setattr(batch_sampler, "uses_length_buckets", lambda _: True)
    monkeypatch.setattr(trainer._Trainer, "_graphed_steps", graphed_steps)
    return capturer


@pytest.mark.long  # test_cuda_graphs.py compares recorded steps with steps taken one by one each day
def test_a_run_from_graphs_that_is_stopped_goes_on_to_the_very_weights(
    capturer: _FakeCapturer, tmp_path: Path, recordings: Path, machine: Machine
) -> None:
    def run(name: str, is_stopping: Callable[[Event], bool]) -> list[float]:
        """Mel losses of the steps of one attempt."""
        events: list[Event] = []
        workspace = Workspace(tmp_path / name, "anna")
        with suppress(StopRequested):
            make_voice(recordings, workspace, CONFIG, machine, events.append, lambda: any(map(is_stopping, events)))
        return [event.values["loss/mel"] for event in events if isinstance(event, Metric)]

    whole = run("whole", lambda _: False)
    assert capturer.num_replayed >= len(whole) // 3
    first = run("stopped", lambda event: isinstance(event, Metric) and event.step == 5)
    assert first + run("stopped", lambda _: False) == whole
    ours, theirs = (load_trained_synthesizer(Workspace(tmp_path / name, "anna"))[0] for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
