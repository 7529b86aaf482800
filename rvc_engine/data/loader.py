"""Padded batches on the device, from clips that are kept there or prefetched one batch ahead.

Spectrograms are computed on the device. Nothing here waits for a GPU: all transfers to it go through pinned memory and
overlap with its work.
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
from rvc_engine.compute.accelerators import num_sharing
from rvc_engine.data.batch import Batch
from rvc_engine.data.clips import Clip, ClipFiles, load_clip
from rvc_engine.hyperparameters import Hyperparameters

NUM_READERS = 4
"""Threads that read clips; fewer beside other jobs on the device."""
NUM_LENGTH_BUCKETS = 4
BUCKET_MULTIPLE = 8
"""Padded lengths are multiples of this number of frames."""


def length_buckets(lengths: Sequence[int]) -> tuple[int, ...]:
    """The few lengths to pad batches to where each length costs a CUDA graph, ascending; the last fits all clips."""
    longest = max(lengths)
    parts = (-(-longest * n // NUM_LENGTH_BUCKETS) for n in range(1, NUM_LENGTH_BUCKETS + 1))
    return tuple(sorted({-(-part // BUCKET_MULTIPLE) * BUCKET_MULTIPLE for part in parts}))


@dataclass(frozen=True)
class PaddedClips:
    """Clips padded to a common length of `frames`. Values after the end of a clip are arbitrary."""

    content_frames: Tensor
    """(B, frames / 2 rounded up, feature_size), content features at 50 Hz."""
    coarse_f0: Tensor | None
    """(B, frames)."""
    f0: Tensor | None
    """(B, frames)."""
    wave: Tensor
    """(B, frames * hop + n_fft - hop), with the reflection at both ends of each clip that its spectrogram needs."""
    lengths: Tensor
    """(B,), frames."""
    speakers: Tensor
    """(B,)."""

    def pinned(self) -> "PaddedClips":
        """Copy to pinned memory."""
        return self._map(lambda part: part.pin_memory())

    def to(self, device: torch.device) -> "PaddedClips":
        """Copy to a device, asynchronously if these are pinned."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory from being reused before the stream has finished its work on it."""
        for each in fields(self):
            part = getattr(self, each.name)
            if part is not None:
                part.record_stream(stream)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "PaddedClips":
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: change(part) for name, part in parts.items() if part is not None})

    def batch(self, hparams: Hyperparameters) -> Batch:
        """Compute the spectrograms and set the padding to zero."""
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
    """The samples of a clip's spectrogram, both ends reflected, (frames * hop + n_fft - hop,)."""
    padding = (hparams.n_fft - hparams.hop_length) // 2
    end = clip.frames * hparams.hop_length + padding
    wave, missing = clip.wave, end - len(clip.wave)
    reflected_end = wave[-missing - 1 : -1].flip(0) if missing > 0 else wave[:0]
    return torch.cat([wave[1 : padding + 1].flip(0), wave[:end], reflected_end])


def pad(clips: Sequence[Clip], frames: int, hparams: Hyperparameters) -> PaddedClips:
    """Pad clips to `frames`, which none exceeds, on the CPU."""

    def padded(parts: list[Tensor], length: int) -> Tensor:
        return torch.stack([F.pad(part, (0, 0) * (part.dim() - 1) + (0, length - len(part))) for part in parts])

    coarse_f0 = [clip.coarse_f0 for clip in clips if clip.coarse_f0 is not None]
    f0 = [clip.f0 for clip in clips if clip.f0 is not None]
    return PaddedClips(
        content_frames=padded([clip.features[::2] for clip in clips], _num_content_frames(frames)),
        coarse_f0=padded(coarse_f0, frames) if coarse_f0 else None,
        f0=padded(f0, frames) if f0 else None,
        wave=padded([_with_reflection(clip, hparams) for clip in clips], _num_samples(frames, hparams)),
        lengths=torch.tensor([clip.frames for clip in clips]),
        speakers=torch.tensor([clip.speaker for clip in clips]),
    )


def _num_content_frames(frames: int) -> int:
    return -(-frames // 2)


def _num_samples(frames: int, hparams: Hyperparameters) -> int:
    """Samples of a padded wave, the reflection at both ends included."""
    return frames * hparams.hop_length + hparams.n_fft - hparams.hop_length


class ClipSource(Protocol):
    """A source of padded clips."""

    def padded(self, clips: Sequence[int], frames: int) -> PaddedClips:
        """The clips with these numbers, padded to `frames`."""


class ClipsOnDisk:
    """Clips that are read from disk for each batch."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters) -> None:
        self._clips, self._hparams = clips, hparams

    def padded(self, clips: Sequence[int], frames: int) -> PaddedClips:
        """The clips with these numbers, padded to `frames`, on the CPU."""
        return pad([load_clip(self._clips[clip]) for clip in clips], frames, self._hparams)


class _Concatenated:
    """Tensors of different lengths, (length, ...), one after another without padding, on one device."""

    def __init__(self, parts: Sequence[Tensor], device: torch.device) -> None:
        self._values = torch.cat(list(parts)).to(device)
        self._starts = torch.tensor([0, *accumulate(map(len, parts))][:-1]).to(device)

    def padded(self, numbers: Tensor, length: int) -> Tensor:
        """The parts with these numbers (B,), (B, length, ...); the padding is arbitrary values."""
        index = self._starts[numbers][:, None] + torch.arange(length, device=numbers.device)
        return self._values[index.clamp(max=len(self._values) - 1)]


class ClipsInMemory:
    """Clips that are kept in the memory of one device."""

    def __init__(self, clips: Sequence[ClipFiles], hparams: Hyperparameters, device: torch.device) -> None:
        """Read all clips."""
        self.device, self._hparams = device, hparams
        with ThreadPoolExecutor(max(1, NUM_READERS // num_sharing()), "clip-reader") as pool:
            read = list(pool.map(load_clip, clips))
        coarse_f0 = [clip.coarse_f0 for clip in read if clip.coarse_f0 is not None]
        f0 = [clip.f0 for clip in read if clip.f0 is not None]
        self._content_frames = _Concatenated([clip.features[::2] for clip in read], device)
        self._coarse_f0 = _Concatenated(coarse_f0, device) if coarse_f0 else None
        self._f0 = _Concatenated(f0, device) if f0 else None
        self._wave = _Concatenated([_with_reflection(clip, hparams) for clip in read], device)
        self._lengths = torch.tensor([clip.frames for clip in clips]).to(device)
        self._speakers = torch.tensor([clip.speaker for clip in clips]).to(device)

    def padded(self, clips: Sequence[int] | Tensor, frames: int) -> PaddedClips:
        """The clips with these numbers, (B,), padded to `frames`; without waiting if the numbers are on the device."""
        numbers = torch.as_tensor(clips, device=self.device)
        return PaddedClips(
            content_frames=self._content_frames.padded(numbers, _num_content_frames(frames)),
            coarse_f0=None if self._coarse_f0 is None else self._coarse_f0.padded(numbers, frames),
            f0=None if self._f0 is None else self._f0.padded(numbers, frames),
            wave=self._wave.padded(numbers, _num_samples(frames, self._hparams)),
            lengths=self._lengths[numbers],
            speakers=self._speakers[numbers],
        )


@dataclass(frozen=True)
class BatchPlan:
    """The clips of a batch and their padded length."""

    clips: Sequence[int]
    """Numbers of the clips; may be empty."""
    frames: int
    """Length to pad the clips to."""


class ClipLoader:
    """Batches on the device, from clips kept there or prefetched while the batch before is trained on."""

    def __init__(self, source: ClipSource, hparams: Hyperparameters, device: torch.device) -> None:
        self._source, self._hparams, self._device = source, hparams, device
        is_cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if is_cuda else None  # type: ignore[no-untyped-call]

    def batches(self, plan: Sequence[BatchPlan]) -> Iterator[Batch | None]:
        """The batches of a plan, in its order; None for one without clips."""
        source = self._source
        if isinstance(source, ClipsInMemory) and source.device == self._device:
            numbers = to_device_tensors(self._device, [each.clips for each in plan])
            for each, clips in zip(plan, numbers, strict=True):
                yield source.padded(clips, each.frames).batch(self._hparams) if each.clips else None
        else:
            yield from self._prefetched(plan)

    def _prefetched(self, plan: Sequence[BatchPlan]) -> Iterator[Batch | None]:
        with ThreadPoolExecutor(1, "clip-loader") as pool:
            submitted = (pool.submit(self._prefetch, each) for each in plan)
            upcoming = next(submitted, None)
            while upcoming is not None:
                current, upcoming = upcoming, next(submitted, None)
                ready = current.result()
                yield None if ready is None else self._to_batch(*ready)

    def _prefetch(self, each: BatchPlan) -> tuple[PaddedClips, torch.cuda.Event | None] | None:
        """Start copying clips to the device; the event marks the end of the copies."""
        if not each.clips:
            return None
        clips = self._source.padded(each.clips, each.frames)
        if self._stream is None:
            return clips.to(self._device), None
        with torch.cuda.stream(self._stream):
            return clips.pinned().to(self._device), self._stream.record_event()

    def _to_batch(self, clips: PaddedClips, copied: torch.cuda.Event | None) -> Batch:
        if copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(copied)
            clips.record_stream(stream)
        return clips.batch(self._hparams)


def to_device_tensors(device: torch.device, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Copy groups of numbers to tensors on the device, all in one asynchronous transfer."""
    numbers = torch.tensor([number for group in groups for number in group], dtype=torch.long)
    if device.type == "cuda":
        numbers = numbers.pin_memory().to(device, non_blocking=True)
    edges = pairwise([0, *accumulate(len(group) for group in groups)])
    return [numbers[start:end] for start, end in edges]
