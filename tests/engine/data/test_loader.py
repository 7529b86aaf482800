"""Batches hold each clip's own numbers, for every source of clips and every padded length."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import pytest
import soundfile
import torch

from rvc_engine.audio.mel import spectrogram
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import Clip, ClipFiles, load_clip
from rvc_engine.data.loader import (
    BatchPlan,
    ClipLoader,
    ClipsInMemory,
    ClipsOnDisk,
    ClipSource,
    length_buckets,
    pad,
)
from rvc_engine.hyperparameters import Hyperparameters

CPU = torch.device("cpu")


def collate(clips: Sequence[Clip], hparams: Hyperparameters, device: torch.device) -> Batch:
    return pad(clips, max(clip.frames for clip in clips), hparams).to(device).batch(hparams)


HPARAMS = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none"))
LENGTHS = (41, 64, 90, 55)
SPARE_SAMPLES = (0, 399, 5000, 13)
"""Samples of each wave after its last frame: too few or enough for its spectrogram."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ClipFiles]:
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(3)
    found = []
    for number, (frames, spare) in enumerate(zip(LENGTHS, SPARE_SAMPLES, strict=True)):
        paths = [folder / f"{number}.{name}" for name in ("wav", "rows.npy", "coarse.npy", "f0.npy")]
        wave = random.uniform(-0.5, 0.5, frames * HPARAMS.hop_length + spare).astype(np.float32)
        soundfile.write(paths[0], wave, HPARAMS.sample_rate, subtype="FLOAT")
        np.save(paths[1], random.normal(size=((frames + 1) // 2 + 1, 768)).astype(np.float32))
        np.save(paths[2], random.integers(1, 256, frames + 2))
        np.save(paths[3], random.uniform(80, 400, frames + 2))
        found.append(ClipFiles(*paths, speaker=number, frames=frames))
    return found


def check_each_clip(batch: Batch, files: list[ClipFiles]) -> None:
    """Assert that each clip is in the batch as it was read, and zeros after its end."""
    for position, file in enumerate(files):
        clip, frames = load_clip(file), file.frames
        spec = spectrogram(clip.wave.unsqueeze(0), HPARAMS.n_fft, HPARAMS.hop_length)[0, :, :frames]
        assert batch.coarse_f0 is not None
        assert batch.f0 is not None
        assert clip.coarse_f0 is not None
        assert clip.f0 is not None
        torch.testing.assert_close(batch.spec[position, :, :frames], spec)
        assert torch.equal(batch.features[position, :frames], clip.features)
        assert torch.equal(batch.coarse_f0[position, :frames], clip.coarse_f0)
        assert torch.equal(batch.f0[position, :frames], clip.f0)
        assert torch.equal(
            batch.wave[position, : frames * HPARAMS.hop_length], clip.wave[: frames * HPARAMS.hop_length]
        )
        assert (int(batch.lengths[position]), int(batch.speakers[position])) == (frames, clip.speaker)
        behind = (batch.features[position, frames:], batch.spec[position, :, frames:], batch.f0[position, frames:])
        assert not any(part.any() for part in (*behind, batch.coarse_f0[position, frames:]))
        assert not batch.wave[position, frames * HPARAMS.hop_length :].any()


SOURCES: dict[str, Callable[[list[ClipFiles]], ClipSource]] = {
    "on disk": lambda clips: ClipsOnDisk(clips, HPARAMS),
    "in memory": lambda clips: ClipsInMemory(clips, HPARAMS, CPU),
}


@pytest.mark.parametrize("where", SOURCES)
@pytest.mark.parametrize("frames", [90, 96])
def test_batches_hold_each_clips_own_numbers_in_the_plans_order(
    clips: list[ClipFiles], where: str, frames: int
) -> None:
    loader = ClipLoader(SOURCES[where](clips), HPARAMS, CPU)
    order: list[list[int]] = [[2, 0], [], [3, 1, 2]]
    plan = [BatchPlan(numbers, frames) for numbers in order]
    for numbers, batch in zip(order, loader.batches(plan), strict=True):
        assert (batch is None) == (not numbers)
        if batch is not None:
            assert batch.spec.shape == (len(numbers), HPARAMS.spec_channels, frames)
            check_each_clip(batch, [clips[number] for number in numbers])


def test_a_batch_is_the_same_wherever_its_clips_lie(clips: list[ClipFiles]) -> None:
    made = [source(clips).padded([1, 3], 64).batch(HPARAMS) for source in SOURCES.values()]
    made.append(collate([load_clip(clips[1]), load_clip(clips[3])], HPARAMS, CPU))
    for each in fields(Batch):
        assert all(torch.equal(getattr(one, each.name), getattr(made[0], each.name)) for one in made)


def test_clips_without_pitch_are_batched_without_it(clips: list[ClipFiles]) -> None:
    mute = [ClipFiles(clip.wave, clip.features, None, None, clip.speaker, clip.frames) for clip in clips]
    hparams = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none", f0=False))
    for source in (ClipsOnDisk(mute, hparams), ClipsInMemory(mute, hparams, CPU)):
        batch = source.padded([0, 1], 64).batch(hparams)
        assert (batch.f0, batch.coarse_f0) == (None, None)


def test_few_lengths_cover_all_clips() -> None:
    lengths = length_buckets([40, 370, 212])
    assert lengths == (96, 192, 280, 376)
    assert length_buckets([32]) == (8, 16, 24, 32)
    assert length_buckets([900])[-1] >= 900


@pytest.mark.gpu
@pytest.mark.parametrize("where", [*SOURCES, "on the device"])
def test_on_a_gpu_batches_come_without_waiting_for_it_and_are_the_same(clips: list[ClipFiles], where: str) -> None:
    device = torch.device("cuda")
    make = SOURCES.get(where, lambda clips: ClipsInMemory(clips, HPARAMS, device))
    loader, plan = ClipLoader(make(clips), HPARAMS, device), [BatchPlan([2, 0], 96), BatchPlan([3, 1], 96)]
    list(loader.batches(plan))  # the window is made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader.batches(plan))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for each, batch in zip(plan, batches, strict=True):
        assert batch is not None
        expected = ClipsOnDisk(clips, HPARAMS).padded(each.clips, each.frames).batch(HPARAMS)
        for part in fields(Batch):
            torch.testing.assert_close(getattr(batch, part.name).cpu(), getattr(expected, part.name))
