"""Batch sizes, number formats and memory of training: chosen, logged, remembered, and without effect on results."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rvc_engine.checkpoints.recovery import RecoveryStore, load_trained_synthesizer
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.compute.precision import Precision
from rvc_engine.config import TrainingConfig
from rvc_engine.data.clips import ClipFiles
from rvc_engine.events import Event, Log, Metric, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.training import auto_batch, batch_sampler, trainer
from rvc_engine.training.auto_batch import auto_batch_size
from rvc_engine.training.step import StepResult
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
NAN = StepResult(*[torch.tensor(float("nan"))] * 7)


def losses(events: list[Event]) -> list[dict[str, float]]:
    metrics = [event.values for event in events if isinstance(event, Metric)]
    return [{key: value for key, value in values.items() if not key.startswith("speed/")} for values in metrics]


def messages(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Log | Warned))


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


def distance(ours: Workspace, theirs: Workspace) -> float:
    """Distance of the trained weights, relative to their norm."""
    first, second = (load_trained_synthesizer(workspace)[0] for workspace in (ours, theirs))
    square = sum(float((first[name] - second[name]).double().square().sum()) for name in second)
    return float((square / sum(float(value.double().square().sum()) for value in second.values())) ** 0.5)


# --- batches


@pytest.mark.long  # test_micro_batches.py adds their gradients up each day
def test_accumulated_micro_batches_train_as_one_batch_of_their_size(make: Make) -> None:
    _, whole = make("whole", batch_size=4, total_epochs=1)
    workspace, pieces = make("pieces", batch_size=2, accumulate_steps=2, total_epochs=1)
    assert len(losses(pieces)) == len(losses(whole))
    for ours, theirs in zip(losses(pieces), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
    assert "in batches of 4 (2 micro-batches of 2 each)" in messages(pieces)
    assert json.loads(workspace.hyperparameters.read_text())["train"]["batch_size"] == 2


def test_an_automatic_batch_size_is_said_and_stays_the_same_for_the_whole_run(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, first = make(batch_size="auto", total_epochs=1)
    assert "batch_size=auto: 1 clips at a time" in messages(first)  # a quarter of the five clips
    assert json.loads(workspace.hyperparameters.read_text())["train"]["batch_size"] == 1

    monkeypatch.setattr(batch_sampler, "auto_batch_size", lambda *_: 2)
    workspace, second = make(batch_size="auto", total_epochs=2)
    assert load_trained_synthesizer(workspace)[1].batch_size == 1
    assert warnings(second) == []


@pytest.mark.parametrize(
    ("free", "num_clips", "kept", "expected"),
    [
        (40e9, 1000, 0, 32),  # never more
        (20e9, 1000, 0, 16),  # 16 GB of 20: the rest is room to spare
        (18e9, 1000, 0, 8),  # 16 GB would leave too little
        (20e9, 1000, 8e9, 8),  # the dataset is kept on the device as well
        (20e9, 20, 0, 4),  # no more than a quarter of the clips
        (0.5e9, 1000, 0, 1),  # micro-batches cannot be smaller than a clip
    ],
)
def test_an_automatic_batch_size_fits_memory_with_room_to_spare(
    monkeypatch: pytest.MonkeyPatch, free: float, num_clips: int, kept: int, expected: int
) -> None:
    monkeypatch.setattr(auto_batch, "_peak_bytes", lambda _state, size, _frames, _device: size * 1e9)
    monkeypatch.setattr(auto_batch, "free_bytes", lambda _: free)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    clips = [ClipFiles(Path(), Path(), None, None, 0, frames=300)] * num_clips
    state = SimpleNamespace(device=torch.device("cuda"))
    assert auto_batch_size(state, clips, 1, kept) == expected  # type: ignore[arg-type]


def test_a_size_that_is_tried_out_takes_a_real_step_and_running_out_counts_as_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: None)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda _: 7)
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    state = GanTrainState.build(hparams, torch.device("cpu"), 1e-3)
    assert auto_batch._peak_bytes(state, 1, 40, state.device) == 7
    assert len(state.generator_optimizer.state) > 0

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(auto_batch, "training_step", full)
    assert auto_batch._peak_bytes(state, 2, 40, state.device) == float("inf")


def test_a_dataset_that_does_not_fit_on_the_device_is_read_from_disk_and_that_is_said(
    make: Make, finished_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hparams, clips = (
        Hyperparameters.from_config(TrainingConfig()),
        [ClipFiles(Path(), Path(), None, None, 0, frames=6000)],
    )
    for free, fits in (
        (40e6, True),
        (36e6, False),
    ):  # a minute of a 40k voice takes 19 MB; the other half is training's
        monkeypatch.setattr(auto_batch, "free_bytes", lambda _, free=free: free)
        assert auto_batch.clips_fit(clips, hparams, torch.device("cpu")) == fits
    monkeypatch.setattr(auto_batch, "free_bytes", lambda _: 1_000_000)
    workspace, events = make("little_memory", cache_data_on_device=True, total_epochs=1)
    [warning] = warnings(events)
    assert "does not fit" in warning
    assert distance(workspace, Workspace(finished_once, "anna")) == 0


# --- formats


def test_a_run_in_a_short_format_that_diverges_goes_on_in_float32_and_only_then_with_a_lower_rate(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, formats = trainer.training_step, itertools.count(1), []

    def step(state: GanTrainState, *others: object) -> StepResult:
        formats.append(state.precision.name)
        result = real(state, *others)  # type: ignore[arg-type]
        return NAN if next(calls) in {2, 4} else result

    monkeypatch.setattr(trainer, "training_step", step)
    workspace, events = make(precision="bf16", total_epochs=1, checkpoint_every_steps=1)
    first, second = warnings(events)
    assert "went back to step 1 in fp32 instead of bf16" in first
    assert "0.5 times the learning rate" in second
    assert formats[:4] == ["bf16", "bf16", "fp32", "fp32"]
    rates = [values["learning_rate"] for values in losses(events)]
    assert rates[:2] == pytest.approx([1e-3, 1e-3])
    assert rates[2] == pytest.approx(0.5e-3)
    progress = load_trained_synthesizer(workspace)[1]
    assert (progress.is_full_precision, progress.num_rollbacks) == (True, 2)

    formats.clear()
    make(precision="bf16", total_epochs=2)
    assert set(formats) == {"fp32"}  # remembered


def test_a_float16_step_that_was_skipped_is_no_divergence_and_a_long_row_of_them_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    def step(state: GanTrainState, *_: object) -> StepResult:
        """No training: float16 is slow on a CPU."""
        call = next(calls)
        if call == 3:
            state.generator_scaler.load_state_dict({**state.generator_scaler.state_dict(), "scale": 0.5})
        return NAN if call in {2, 3} else StepResult(*[torch.tensor(1.0)] * 7)

    monkeypatch.setattr(trainer, "training_step", step)
    _, events = make(precision="fp16", total_epochs=1, checkpoint_every_steps=1)
    [warning] = warnings(events)
    assert "at step 3" in warning
    assert "in fp32 instead of fp16" in warning


def test_a_checkpoint_keeps_the_scales_of_float16(tmp_path: Path) -> None:
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    state, fresh = (GanTrainState.build(hparams, torch.device("cpu"), 1e-3, Precision("fp16", "cpu")) for _ in range(2))
    state.generator_scaler.load_state_dict({**state.generator_scaler.state_dict(), "scale": 123.0})
    store = RecoveryStore(Workspace(tmp_path, "anna"), {})
    store.write(store.tree(state, TrainProgress(1, 1, 1, 0.0, 2, 5)))
    store.load(fresh, lambda _: None)
    assert fresh.generator_scaler.get_scale() == 123.0
    assert fresh.discriminator_scaler.get_scale() == 65536.0
    in_full = GanTrainState.build(hparams, torch.device("cpu"), 1e-3)
    store.load(in_full, lambda _: None)  # another format may go on from it
    assert in_full.min_loss_scale is None


@pytest.mark.parametrize(
    ("choice", "device", "capability", "expected"),
    [
        ("auto", "cpu", None, "fp32"),
        ("auto", "cpu", (8, 0), "bf16"),
        ("auto", "cuda", (7, 5), "fp16"),
        ("auto", "cuda", (9, 0), "fp16"),  # each generation of cards: test_accelerators.py
        ("fp32", "cuda", (9, 0), "fp32"),
        ("bf16", "cpu", None, "bf16"),
    ],
)
def test_the_automatic_format_is_the_best_that_the_device_has_natively(
    monkeypatch: pytest.MonkeyPatch, choice: str, device: str, capability: tuple[int, int] | None, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr("rvc_engine.compute.precision.cpu_supports_bf16", lambda: capability is not None)
    assert Precision.choose(choice, torch.device(device)) == Precision(expected, device)  # type: ignore[arg-type]


def test_gradient_checkpointing_is_said_and_trains_to_the_same_voice(make: Make, finished_once: Path) -> None:
    workspace, events = make("frugal", total_epochs=1, gradient_checkpointing=True)
    chosen = Precision.choose("auto", torch.device("cpu")).name
    assert f"in {chosen} with gradient checkpointing" in messages(events)
    assert distance(workspace, Workspace(finished_once, "anna")) < 1e-4
