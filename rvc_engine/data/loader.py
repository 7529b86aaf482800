"""Padded batches on the device: of clips kept there, or prefetched one batch ahead; spectra are computed there.

Nothing here waits for a GPU: what it needs to know of a batch goes there through pinned memory, while it works.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rvc_engine.audio.mel import magnitudes
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import Clip, ClipFiles, load_clip
from rvc_engine.hyperparameters import Hyperparameters

NUM_READERS = 4
NUM_LENGTH_BUCKETS = 4
BUCKET_MULTIPLE = 8
"""Padded lengths are multiples of this."""


def length_buckets(lengths: Sequence[int]) -> tuple[int, ...]:
    """The few lengths that batches are padded to where each one costs a graph, ascending; the last fits all clips."""
    longest = max(lengths)
    parts = (-(-longest * n // NUM_LENGTH_BUCKETS) for n in range(1, NUM_LENGTH_BUCKETS + 1))
    return tuple(sorted({-(-part // BUCKET_MULTIPLE) * BUCKET_MULTIPLE for part in parts}))


@dataclass(frozen=True)
class PaddedClips:
    """Clips as they are read, padded to `frames` of any length. What lies behind a clip's end means nothing."""

    content_frames: Tensor
    """(B, frames / 2 rounded up, feature_size), content features at 50 Hz."""
    coarse_f0: Tensor | None
    """(B, frames)."""
    f0: Tensor | None
    """(B, frames)."""
    wave: Tensor
    """(B, frames * hop + n_fft - hop), with the reflection before and behind each clip that its spectrogram needs."""
    lengths: Tensor
    """(B,), frames."""
    speakers: Tensor
    """(B,)."""

    def pinned(self) -> "PaddedClips":
        """A copy in memory that a GPU reads by itself."""
        return self._map(lambda part: part.pin_memory())

    def to(self, device: torch.device) -> "PaddedClips":
        """On the device, without waiting for it where these are pinned."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory from being reused before this stream is done with it."""
        for each in fields(self):
            part = getattr(self, each.name)
            if part is not None:
                part.record_stream(stream)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "PaddedClips":
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: change(part) for name, part in parts.items() if part is not None})

    def batch(self, hparams: Hyperparameters) -> Batch:
        """The batch with its spectra; zeros where a clip is padded."""
        hop, samples = hparams.hop_length, self.wave.shape[1] - (hparams.n_fft - hparams.hop_length)
        frames, first = samples // hop, (hparams.n_fft - hop) // 2
        is_padding = torch.arange(frames, device=self.lengths.device) >= self.lengths[:, None]
        features = self.content_frames.repeat_interleave(2, dim=1)[:, :frames]
        return Batch(
            features=features.masked_fill(is_padding[:, :, None], 0),
            coarse_f0=None if self.coarse_f0 is None else self.coarse_f0.masked_fill(is_padding, 0),
            f0=None if self.f0 is None else self.f0.masked_fill(is_padding, 0),
            spec=magnitudes(self.wave, hparams.n_fft, hop).masked_fill(is_padding[:, None], 0),
            wave=self.wave[:, first : first + samples].masked_fill(is_padding.repeat_interleave(hop, dim=1), 0),
            lengths=self.lengths,
            speakers=self.speakers,
        )


def _with_reflection(clip: Clip, hparams: Hyperparameters) -> Tensor:
    """The wave of a clip's spectrogram, its ends reflected, (frames * hop + n_fft - hop,)."""
    padding = (hparams.n_fft - hparams.hop_length) // 2
    end = clip.frames * hparams.hop_length + padding
    wave, missing = clip.wave, end - len(clip.wave)
    behind = wave[-missing - 1 : -1].flip(0) if missing > 0 else wave[:0]
    return torch.cat([wave[1 : padding + 1].flip(0), wave[:end], behind])


def pad(clips: Sequence[Clip], frames: int, hparams: Hyperparameters) -> PaddedClips:
    """Put clips of at most `frames` side by side, where they are."""

    def padded(parts: list[Tensor], length: int) -> Tensor:
        return torch.stack([F.pad(part, (0, length - len(part))) for part in parts])

    coarse_f0 = [clip.coarse_f0 for clip in clips if clip.coarse_f0 is not None]
    f0 = [clip.f0 for clip in clips if clip.f0 is not None]
    content_frames = [clip.features[::2] for clip in clips]
    num_content_frames = -(-frames // 2)
    return PaddedClips(
        content_frames=torch.stack([F.pad(part, (0, 0, 0, num_content_frames - len(part))) for part in content_frames]),
        coarse_f0=padded(coarse_f0, frames) if coarse_f0 else None,
        f0=padded(f0, frames) if f0 else None,
        wave=padded(
            [_with_reflection(clip, hparams) for clip in clips],
            frames * hparams.hop_length + hparams.n_fft - hparams.hop_length,
        ),
        lengths=torch.tensor([clip.frames for clip in clips]),
        speakers=torch.tensor([clip.speaker for clip in clips]),
    )


class ClipSource(Protocol):
    """Where the clips of a batch come from."""

    def padded(self, clips: Sequence[int], frames: int) -> PaddedClips:
        """Clips by their numbers, padded to `frames`."""


class ClipsOnDisk:
    """Read anew each time."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters) -> None:
        self._clips, self._hparams = clips, hparams

    def padded(self, clips: Sequence[int], frames: int) -> PaddedClips:
        """On the CPU."""
        return pad([load_clip(self._clips[clip]) for clip in clips], frames, self._hparams)


class ClipsInMemory:
    """All clips in a row, without padding between them, on one device."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters, device: torch.device) -> None:
        """Reads them all."""
        with ThreadPoolExecutor(NUM_READERS, "clip-reader") as pool:
            read = list(pool.map(load_clip, clips))
        self._device, self._reflection_samples = device, hparams.n_fft - hparams.hop_length
        self._hop = hparams.hop_length
        self._content_frames, self._first_content_frame = self._concatenate([clip.features[::2] for clip in read])
        self._waves, self._first_sample = self._concatenate([_with_reflection(clip, hparams) for clip in read])
        self._coarse_f0 = self._f0 = None
        if hparams.f0:
            self._coarse_f0, self._first_frame = self._concatenate(
                [clip.coarse_f0 for clip in read if clip.coarse_f0 is not None]
            )
            self._f0, _ = self._concatenate([clip.f0 for clip in read if clip.f0 is not None])
        self._lengths = torch.tensor([clip.frames for clip in clips]).to(device)
        self._speakers = torch.tensor([clip.speaker for clip in clips]).to(device)

    def _concatenate(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """All parts in one tensor, and where each begins, on the device."""
        starts = [0, *accumulate(len(part) for part in parts)][:-1]
        return torch.cat(parts).to(self._device), torch.tensor(starts).to(self._device)

    def padded(self, clips: Sequence[int], frames: int) -> PaddedClips:
        """Where the clips are."""
        return self.padded_at(torch.tensor(clips, device=self._device), frames)

    def padded_at(self, clips: Tensor, frames: int) -> PaddedClips:
        """The same, of numbers (B,) that lie on the device: nothing waits for it."""

        def gather_padded(row: Tensor, starts: Tensor, length: int) -> Tensor:
            # Behind a clip's end the next one begins; behind the last one, its own last value again.
            index = starts[clips][:, None] + torch.arange(length, device=self._device)
            return row[index.clamp(max=len(row) - 1)]

        return PaddedClips(
            content_frames=gather_padded(self._content_frames, self._first_content_frame, -(-frames // 2)),
            coarse_f0=None if self._coarse_f0 is None else gather_padded(self._coarse_f0, self._first_frame, frames),
            f0=None if self._f0 is None else gather_padded(self._f0, self._first_frame, frames),
            wave=gather_padded(self._waves, self._first_sample, frames * self._hop + self._reflection_samples),
            lengths=self._lengths[clips],
            speakers=self._speakers[clips],
        )


@dataclass(frozen=True)
class BatchPlan:
    """The clips of a batch and the length they are padded to."""

    clips: Sequence[int]
    """Numbers of the clips; may be none."""
    frames: int
    """What they are padded to."""


class ClipLoader:
    """Batches on the device: of clips kept there, or prefetched while the batch before trains."""

    def __init__(self, source: ClipSource, hparams: Hyperparameters, device: torch.device) -> None:
        self._source, self._hparams, self._device = source, hparams, device
        is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def batches(self, plan: Sequence[BatchPlan]) -> Iterator[Batch | None]:
        """The batches of a plan, in its order; None for one without clips."""
        source = self._source
        if isinstance(source, ClipsInMemory) and source._device == self._device:
            numbers = to_device_tensors(self._device, [each.clips for each in plan])
            for each, clips in zip(plan, numbers, strict=True):
                yield source.padded_at(clips, each.frames).batch(self._hparams) if each.clips else None
        else:
            yield from self._prefetched(plan)

    def _prefetched(self, plan: Sequence[BatchPlan]) -> Iterator[Batch | None]:
        with ThreadPoolExecutor(1, "clip-loader") as pool:
            pending = pool.submit(self._prefetch, plan[0]) if plan else None
            for position in range(len(plan)):
                assert pending is not None
                ready = pending.result()
                pending = pool.submit(self._prefetch, plan[position + 1]) if position + 1 < len(plan) else None
                yield None if ready is None else self._to_batch(*ready)

    def _prefetch(self, each: BatchPlan) -> tuple[PaddedClips, torch.cuda.Event | None] | None:
        """Start copying clips to the device; the event marks the end of the copies."""
        if not each.clips:
            return None
        clips = self._source.padded(each.clips, each.frames)
        if self._stream is None:
            return clips, None
        with torch.cuda.stream(self._stream):
            return clips.pinned().to(self._device), self._stream.record_event()

    def _to_batch(self, clips: PaddedClips, copied: torch.cuda.Event | None) -> Batch:
        if copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copied)
            clips.record_stream(stream)
        return clips.batch(self._hparams)


def to_device_tensors(device: torch.device, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Groups of numbers as tensors on the device, copied in one transfer and without waiting for it."""
    numbers = torch.tensor([number for group in groups for number in group], dtype=torch.long)
    if device.type == "cuda":
        numbers = numbers.pin_memory().to(device, non_blocking=True)
    edges = pairwise([0, *accumulate(len(group) for group in groups)])
    return [numbers[start:end] for start, end in edges]
