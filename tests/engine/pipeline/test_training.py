"""Training reduces the loss, and interruptions and faults neither change nor repeat steps."""

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from rvc_engine.audio.mel import log_mel
from rvc_engine.checkpoints.base_weights import load_base_weights
from rvc_engine.checkpoints.io import load_file
from rvc_engine.checkpoints.recovery import RecoveryStore, load_trained_synthesizer
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import Clip, ClipFiles, epoch_batches, list_clips, load_clip
from rvc_engine.data.loader import BatchPlan, ClipLoader, ClipsInMemory, pad
from rvc_engine.errors import DiskFull, Diverged, IncompatibleCheckpoint
from rvc_engine.events import CheckpointSaved, Event, Metric, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.losses import mel_distance
from rvc_engine.models.synthesizer import Noise, Synthesizer, cut_segments
from rvc_engine.training import trainer
from rvc_engine.training.step import StepResult, draw_starts, training_step
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
CPU = torch.device("cpu")


def collate(clips: Sequence[Clip], hparams: Hyperparameters, device: torch.device) -> Batch:
    return pad(clips, max(clip.frames for clip in clips), hparams).to(device).batch(hparams)


def losses(events: list[Event]) -> dict[int, dict[str, float]]:
    return {event.step: event.values for event in events if isinstance(event, Metric)}


def newest_weights(workspace: Workspace) -> dict[str, torch.Tensor]:
    return load_trained_synthesizer(workspace)[0]


# --- learning


@pytest.fixture(scope="module")
def clips_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[ClipFiles]]:
    """`clips_of(n)`: that many recordings of the sample voice, prepared by the real stages."""
    from rvc_engine.machine import Machine
    from rvc_engine.pipeline.pipeline import StageSelection, make_voice

    @cache
    def prepare(num_recordings: int) -> list[ClipFiles]:
        config = TrainingConfig(content="whisper-tiny", pretrained="none", width=48)
        workspace, folder = Workspace(tmp_path_factory.mktemp("sample"), "sample"), tmp_path_factory.mktemp("samples")
        for path in sorted((Path(__file__).parents[3] / "samples").glob("*.flac"))[:num_recordings]:
            shutil.copy(path, folder)
        only_prepare = StageSelection(training=False)
        make_voice(folder, workspace, config, Machine(device="cpu"), lambda _: None, selection=only_prepare)
        return list_clips(workspace, Hyperparameters.from_config(config))[0]

    return prepare


def held_out_mel(state: GanTrainState, batch: Batch) -> float:
    """Mel loss on fixed clips that are never trained on, with fixed segments and noise."""
    hparams = state.hparams
    rng = torch.Generator().manual_seed(99)
    starts = draw_starts(batch.lengths, hparams.segment_frames, rng)
    noise = Noise.draw(hparams, len(batch.lengths), batch.features.shape[1], rng)
    with torch.no_grad():
        spoken = state.synthesizer(
            batch.features, batch.coarse_f0, batch.f0, batch.spec, batch.lengths, batch.speakers, starts, noise
        )
        target = log_mel(cut_segments(batch.spec, starts, hparams.segment_frames), hparams.sample_rate, hparams.n_mels)
        return 45 * float(mel_distance(hparams, spoken.wave, target))


def learn(clips: list[ClipFiles], seed: int, steps: int) -> tuple[float, float]:
    """Train a small net; mel loss on held-out clips before and after."""
    torch.set_num_threads(1)  # so small a net gains nothing from a second one
    hparams = Hyperparameters.from_config(TrainingConfig(width=48, pretrained="none"))
    voiced = [clip for clip in clips if "mute" not in clip.wave.name]
    held_out, trained = voiced[::7], [clip for n, clip in enumerate(voiced) if n % 7]
    torch.manual_seed(seed)
    state = GanTrainState.build(hparams, CPU, learning_rate=1e-3)
    batch = collate([load_clip(clip) for clip in held_out], hparams, CPU)
    loader = ClipLoader(ClipsInMemory(trained, hparams, CPU), hparams, CPU)

    def endless() -> Iterator[BatchPlan]:
        for epoch in itertools.count(1):
            for pair in epoch_batches([clip.frames for clip in trained], 2, seed, epoch):
                yield BatchPlan(pair, max(trained[clip].frames for clip in pair))

    before = held_out_mel(state, batch)
    for step, batch_of_clips in enumerate(loader.batches(list(itertools.islice(endless(), steps)))):
        rng = torch.Generator().manual_seed(seed * 1000 + step)
        starts = draw_starts(batch_of_clips.lengths, hparams.segment_frames, rng)
        noise = Noise.draw(hparams, len(batch_of_clips.lengths), batch_of_clips.features.shape[1], rng)
        training_step(state, batch_of_clips, starts, noise)
    return before, held_out_mel(state, batch)


@pytest.mark.timeout(1200)  # minutes, where other tests take the other core
@pytest.mark.parametrize(
    ("recordings", "seed", "steps", "share"),
    [
        (8, 1, 16, 0.85),
        *(pytest.param(25, seed, 100, 0.6, marks=pytest.mark.long) for seed in (1, 2, 3)),
    ],
)
def test_a_small_net_learns_to_speak_clips_it_never_saw(
    clips_of: Callable[[int], list[ClipFiles]], recordings: int, seed: int, steps: int, share: float
) -> None:
    before, after = learn(clips_of(recordings), seed, steps)
    print(f"seed {seed}, {steps} steps: mel {before:.1f} -> {after:.1f}")
    assert after < share * before


# --- order and time


@pytest.mark.parametrize(("num_clips", "batch_size"), [(1, 4), (14, 8), (53, 4), (100, 7)])
def test_every_clip_comes_exactly_once_an_epoch_in_an_order_of_its_own(num_clips: int, batch_size: int) -> None:
    lengths = [40 + 7 * n % 300 for n in range(num_clips)]
    plans = [epoch_batches(lengths, batch_size, 1234, epoch) for epoch in (1, 2)]
    for plan in plans:
        assert sorted(clip for batch in plan for clip in batch) == list(range(num_clips))
        assert len(plan) == math.ceil(num_clips / batch_size)
    assert plans[0] == epoch_batches(lengths, batch_size, 1234, 1)
    if num_clips > 1:
        assert plans[0] != plans[1]


@pytest.mark.parametrize(("num_clips", "batch_size"), [(14, 8), (53, 4), (9, 8), (3, 4)])
def test_a_smaller_last_batch_is_filled_up_with_other_clips_of_the_epoch(num_clips: int, batch_size: int) -> None:
    lengths = [40 + 7 * n % 300 for n in range(num_clips)]
    plain = epoch_batches(lengths, batch_size, 1234, 3)
    filled = epoch_batches(lengths, batch_size, 1234, 3, fills_last=True)
    assert {len(batch) for batch in filled} == {min(batch_size, num_clips)}
    assert all(len(set(batch)) == len(batch) for batch in filled)
    # Otherwise the same: a run that began before goes on with the same batches.
    assert [batch[: len(other)] for batch, other in zip(filled, plain, strict=True)] == plain


@pytest.mark.long  # test_saves_and_stops.py trains by the clock each day
def test_training_by_the_clock_takes_whole_steps_and_at_least_eight(make: Make) -> None:
    workspace, events = make(max_train_seconds=0.01, total_epochs=1000)
    assert max(losses(events)) == 8
    assert torch.load(workspace.voice_file, weights_only=True)["step"] == 8
    # The time counts over all attempts: a second one has none left.
    _, events = make(max_train_seconds=0.02, total_epochs=1000)
    assert losses(events) == {}


def test_a_batchs_spectrogram_is_each_clips_own(finished: Workspace) -> None:
    workspace = finished
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
    clips = sorted(list_clips(workspace, hparams)[0], key=lambda clip: clip.frames)
    short, long = load_clip(clips[0]), load_clip(clips[-1])
    alone = collate([short], hparams, CPU).spec[0]
    together = collate([short, long], hparams, CPU).spec[0]
    assert torch.equal(together[:, : short.frames], alone)
    assert not together[:, short.frames :].any()


# --- going on


@pytest.mark.long  # test_found_workspaces.py has one each day
def test_a_damaged_newest_checkpoint_is_passed_over_and_said(make: Make) -> None:
    whole, _ = make("whole", total_epochs=3)
    workspace, events = make("damaged", total_epochs=2, checkpoint_every_steps=2)
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    newest = Path(saved[-1].path)
    newest.write_bytes(newest.read_bytes()[:-1000])

    _, events = make("damaged", total_epochs=3)

    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert f"step {saved[-1].step}" in warning
    assert min(losses(events)) == saved[-2].step + 1
    ours, theirs = newest_weights(workspace), newest_weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_with_nothing_but_damaged_checkpoints_fails_and_does_not_start_over(
    make: Make, finished: Workspace
) -> None:
    for path in finished.recovery.glob("step_*.pt"):
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(IncompatibleCheckpoint, match="damaged"):
        make(total_epochs=2)


def test_checkpoints_of_another_kind_of_run_are_not_gone_on_with(make: Make, finished: Workspace) -> None:
    with pytest.raises(IncompatibleCheckpoint, match="seed=7"):
        make(total_epochs=1, seed=7)


def test_only_two_recovery_checkpoints_are_kept(make: Make) -> None:
    workspace, events = make(total_epochs=1, checkpoint_every_steps=1)
    assert len([event for event in events if isinstance(event, CheckpointSaved)]) == 3
    assert len(list(workspace.recovery.glob("step_*.pt"))) == 2


# --- faults


def test_a_loss_that_is_no_number_goes_back_to_the_checkpoint_with_a_lower_rate(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = trainer.training_step, []

    def step(*arguments: object) -> StepResult:
        result = real(*arguments)
        calls.append(result)
        return StepResult(*[torch.tensor(float("nan"))] * 7) if len(calls) == 4 else result

    monkeypatch.setattr(trainer, "training_step", step)
    _, events = make(total_epochs=2, checkpoint_every_steps=2, precision="fp32")
    [warning] = [event.message for event in events if isinstance(event, Warned)]
    assert "went back to step 2" in warning
    rates = [event.values["learning_rate"] for event in events if isinstance(event, Metric)]
    assert rates[2] == pytest.approx(1e-3)
    assert rates[3] == pytest.approx(0.5e-3)


def test_losses_that_stay_no_numbers_fail_as_diverged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = StepResult(*[torch.tensor(float("nan"))] * 7)
    monkeypatch.setattr(trainer, "training_step", lambda *_: nan)
    with pytest.raises(Diverged, match="learning_rate"):
        make("never")


def test_base_weights_of_another_kind_are_refused_with_what_differs(tmp_path: Path) -> None:
    other = Synthesizer(Hyperparameters.from_config(TrainingConfig(width=24, version="v1", pretrained="none")))
    ours = Synthesizer(Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none")))
    torch.save({"model": other.state_dict()}, tmp_path / "G.pth")
    with pytest.raises(IncompatibleCheckpoint, match=r"these are v1 .* weights.*version"):
        load_base_weights(ours, tmp_path / "G.pth", "-pg")


def test_base_weights_load_in_both_spellings_of_weight_norm_and_in_float16(tmp_path: Path) -> None:
    net, fresh = Discriminators("v2", 1 / 8), Discriminators("v2", 1 / 8)
    spelled = {
        name.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ): value.half()
        for name, value in net.state_dict().items()
    }
    torch.save({"model": spelled, "iteration": 1}, tmp_path / "D.pth")
    load_base_weights(fresh, tmp_path / "D.pth", "-pd")
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, net.state_dict()[name].half().float())


class _Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        import os

        return os.system, ("true",)


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": _Code()}, tmp_path / "G.pth")
    with pytest.raises(IncompatibleCheckpoint, match="never run"):
        load_file(tmp_path / "G.pth")


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_ones(
    make: Make, finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = finished
    before = sorted(path.name for path in workspace.recovery.iterdir())

    def full(tree: object, file: object) -> None:
        file.write(b"some of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rvc_engine.checkpoints.io.torch.save", full)
    with pytest.raises(DiskFull, match="free some space"):
        make(total_epochs=2)
    assert sorted(path.name for path in workspace.recovery.iterdir()) == before
    assert RecoveryStore(workspace, {}).newest()
