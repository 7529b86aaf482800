"""MFU is counted FLOPs divided by measured peak FLOPs, and None before it is measured."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from rvc_engine.cli.console import Terminal
from rvc_engine.compute.precision import Precision
from rvc_engine.event_text import throughput_text
from rvc_engine.events import Progress, format_event, parse_event
from rvc_engine.training import throughput
from rvc_engine.training.throughput import SETTLED_SECONDS, Throughput, peak_matmul_flops

CPU = torch.device("cpu")
FULL = Precision("fp32", "cpu")


def test_products_and_convolutions_are_counted_forward_and_backward() -> None:
    with throughput._FlopCounter() as counter:
        torch.ones(3, 5) @ torch.ones(5, 7)
    assert counter.flops == 2 * 3 * 5 * 7
    x, weight = torch.ones(2, 4, 10, requires_grad=True), torch.ones(6, 4, 3, requires_grad=True)
    with throughput._FlopCounter() as counter:
        F.conv1d(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert counter.flops == 3 * 2 * (2 * 6 * 8) * 4 * 3  # forward, and back to inputs and weights


def test_mfu_is_the_flops_of_steps_divided_by_peak_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "peak_matmul_flops", lambda *_: 1000.0)
    steps = Throughput(CPU, FULL)
    assert (steps.clips_per_second, steps.mfu, steps.metrics) == (None, None, {})
    steps.add(clips=2, seconds=SETTLED_SECONDS / 2)
    assert steps.mfu is None  # not settled
    for _ in range(100):
        with steps.count_flops(2):
            torch.ones(3, 5) @ torch.ones(5, 7)  # 210 operations for two clips
        steps.add(clips=2, seconds=0.5)
    assert steps.step_seconds == pytest.approx(0.5)
    assert steps.clips_per_second == pytest.approx(4)
    assert steps.mfu == pytest.approx(4 * 105 / 1000)
    assert steps.metrics == {
        "speed/clips_per_second": pytest.approx(4),
        "speed/machine_share": pytest.approx(0.42),
    }


def test_a_smaller_last_batch_is_as_fast_for_its_clips() -> None:
    steps = Throughput(CPU, FULL)
    for clips in (4, 4, 1, 4):
        steps.add(clips, 0.1 * clips)
    assert steps.clips_per_second == pytest.approx(10)


def test_without_memory_for_the_measurement_there_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    found = peak_matmul_flops(CPU, FULL)
    assert found is not None
    assert found > 1e8

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "mm", full)
    assert peak_matmul_flops(CPU, FULL) is None


def test_readers_of_older_events_and_people_at_a_terminal_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    event = Progress(
        stage="train", stage_progress=0.5, progress=0.5, epoch=1, total_epochs=2, step=9, clips_per_second=12.34
    )
    assert parse_event(format_event(event)) == event
    assert throughput_text(None, 0.5) == ""
    Terminal("info")(event.model_copy(update={"machine_share": 0.42}))
    assert "train epoch 1/2 step 9 (12.3 clips/s, 42% of the machine)" in capsys.readouterr().out
