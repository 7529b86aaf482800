"""Stage `slice`: cut recordings into training slices of at most 4 s, as the reference does (FORMATS: "Slices").

Each recording is decoded once: resampled in blocks, high-passed, written to a temporary file, and its level measured
per 15 ms; then silences are found from the levels and the pieces are read back. So a recording of hours takes no more
memory than one of seconds. The golden numbers in tests/golden/slicing.json hold.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import scipy.io.wavfile
import scipy.signal
import soxr
from numpy.typing import NDArray

from rvc_engine.audio.reading import AudioStream, UnreadableAudio, open_audio
from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.audio.silence import Levels, loud_spans
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.listing import shorten
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.disk import translating_disk_full
from rvc_engine.workspace.layout import Workspace

VERSION = 1
"""Incremented when the same recordings would give other slices, so that cached results of before are not reused."""

HIGH_PASS_HZ = 48
HIGH_PASS_ORDER = 5
PIECE_SECONDS = 3.7
OVERLAP_SECONDS = 0.3
LONGEST_SECONDS = PIECE_SECONDS + OVERLAP_SECONDS
"""Longest slice: a longer rest is cut further."""
MAX_PEAK = 2.5
"""Pieces with a larger peak are dropped."""
LEVEL = 0.9
LEVEL_SHARE = 0.75
"""Weight of the piece scaled to a peak of LEVEL; the rest is the piece at its own loudness."""
LONGEST_SEGMENT_SECONDS = 0.4
"""Longest training segment of all variants (32k). A dataset must have at least one slice of this length."""
MAX_REASONS = 10
"""Files named in one error message."""


@dataclass(frozen=True)
class SlicedRecording:
    """Result of slicing one recording."""

    name: str
    slice_seconds: tuple[float, ...]
    """Length of each slice; overlaps count twice."""
    reason: str | None
    """Reason why nothing of it is used; None when it gave slices."""


@dataclass(frozen=True)
class SlicingSummary:
    """Result of slicing a dataset."""

    num_slices: int
    seconds: float
    recordings: tuple[SlicedRecording, ...]


def run(dataset: Path, workspace: Workspace, config: TrainingConfig, report: StageReport) -> SlicingSummary:
    """Cut every recording of a dataset into `<i>_<j>.wav` at the voice's rate and at 16 kHz.

    i is the recording's number in `list_recordings`, j the slice's number within it. Each recording that gives no slice
    is reported by a warning. Raises InvalidDataset when there is no slice at all, or none long enough, and DiskFull.
    """
    recordings = list_recordings(dataset)
    progress = _Progress(report, recordings)
    done = []
    with translating_disk_full(workspace.root):
        workspace.empty(workspace.slices)
        workspace.empty(workspace.slices_16k)
        for number, recording in enumerate(recordings):
            progress.enter(number)
            done.append(_slice_recording(number, recording, workspace, config.sample_rate_hz, progress))
    progress.enter(len(recordings))
    _check_usable(done)
    lengths = [seconds for recording in done for seconds in recording.slice_seconds]
    summary = SlicingSummary(len(lengths), sum(lengths), tuple(done))
    report.log(f"{summary.num_slices} slices, {summary.seconds / 60:.1f} minutes, from {len(recordings)} recordings")
    return summary


class _Progress:
    """Progress by the dataset's bytes. Every report may raise StopRequested, also within a long recording."""

    def __init__(self, report: StageReport, recordings: list[Recording]) -> None:
        self.report = report
        sizes = [max(1, recording.path.stat().st_size) for recording in recordings]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._number = 0

    def enter(self, number: int) -> None:
        """Report that the recordings before this one are done."""
        self._number = number
        self.report.progress(self._starts[number], self._starts[-1])

    def within(self, fraction: float) -> None:
        """Report the fraction of the current recording that is done, 0..1."""
        start, end = self._starts[self._number : self._number + 2]
        # Below 1: only `enter` reports the end.
        self.report.progress(min(start + min(fraction, 1.0) * (end - start), self._starts[-1] - 1), self._starts[-1])


def _slice_recording(
    number: int, recording: Recording, workspace: Workspace, sample_rate: int, progress: _Progress
) -> SlicedRecording:
    try:
        with open_audio(recording.path) as stream, tempfile.TemporaryFile(dir=workspace.root) as spool:
            levels = Levels(sample_rate)
            for block in high_pass(_with_progress(stream, sample_rate, progress), sample_rate):
                levels.add(block)
                spool.write(block.astype(np.float32).tobytes())
            for note in stream.notes:
                progress.report.warn(f"{recording.name}: {note}")
            lengths, reason = _write_slices(number, spool, levels, workspace, sample_rate, progress)
    except UnreadableAudio as error:
        lengths, reason = [], str(error)
    if reason is not None:
        progress.report.warn(f"{recording.name}: left out: {reason}")
    return SlicedRecording(recording.name, tuple(length / sample_rate for length in lengths), reason)


def _with_progress(stream: AudioStream, sample_rate: int, progress: _Progress) -> Iterator[NDArray[np.float32]]:
    """Audio of the recording in blocks, with progress (decoding counts as half of a recording's work)."""
    expected = (stream.info.seconds or 3600.0) * sample_rate
    num_samples = 0
    for block in stream.mono(sample_rate):
        num_samples += len(block)
        progress.within(0.5 * num_samples / expected)
        yield block


def high_pass(blocks: Iterable[NDArray[np.floating]], sample_rate: int) -> Iterator[NDArray[np.float64]]:
    """Apply the 48 Hz high-pass to consecutive blocks: Butterworth, order 5, causal, starting from silence."""
    b, a = scipy.signal.butter(HIGH_PASS_ORDER, HIGH_PASS_HZ, btype="high", fs=sample_rate)
    state = np.zeros(HIGH_PASS_ORDER)
    for block in blocks:
        filtered, state = scipy.signal.lfilter(b, a, block, zi=state)
        yield filtered


def _write_slices(
    number: int, spool: IO[bytes], levels: Levels, workspace: Workspace, sample_rate: int, progress: _Progress
) -> tuple[list[int], str | None]:
    """Write the usable pieces of one spooled recording: (samples of each, reason if there is none)."""
    if not levels.sound_seconds():
        return [], "nothing in it is louder than -42 dB; raise its level if it contains speech"
    lengths: list[int] = []
    for first, last in loud_spans(levels.rms(), levels.num_samples, levels.hop_length):
        for start, end in pieces(first, last, sample_rate):
            progress.within(0.5 + 0.5 * start / levels.num_samples)
            spool.seek(4 * start)
            piece = normalize_level(np.frombuffer(spool.read(4 * (end - start)), np.float32))
            if piece is None:
                continue
            name = f"{number}_{len(lengths)}.wav"
            scipy.io.wavfile.write(workspace.slices / name, sample_rate, piece)
            scipy.io.wavfile.write(
                workspace.slices_16k / name,
                ANALYSIS_SAMPLE_RATE,
                soxr.resample(piece, sample_rate, ANALYSIS_SAMPLE_RATE),
            )
            lengths.append(len(piece))
    return lengths, None if lengths else "all of it is silent or far above full scale"


def pieces(start: int, end: int, sample_rate: int) -> Iterator[tuple[int, int]]:
    """Cut a span of sound into training pieces, (start, end) in samples.

    Pieces of 3.7 s, each overlapping the one before by 0.3 s, while more than 4.0 s remain; the rest is the last piece.
    """
    length = round(PIECE_SECONDS * sample_rate)
    step = length - round(OVERLAP_SECONDS * sample_rate)
    while end - start > LONGEST_SECONDS * sample_rate:
        yield start, start + length
        start += step
    if end > start:
        yield start, end


def normalize_level(piece: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Bring a piece, (num_samples,), near to a common level; None where its peak is zero, over MAX_PEAK or NaN."""
    peak = float(np.abs(piece).max(initial=0.0))
    if not 0 < peak <= MAX_PEAK:  # also false for NaN
        return None
    return (piece * (LEVEL * LEVEL_SHARE / peak + (1 - LEVEL_SHARE))).astype(np.float32)


def _check_usable(recordings: list[SlicedRecording]) -> None:
    """Raise InvalidDataset unless at least one slice is long enough to train on."""
    lengths = [seconds for recording in recordings for seconds in recording.slice_seconds]
    if any(seconds >= LONGEST_SEGMENT_SECONDS for seconds in lengths):
        return
    if lengths:
        raise InvalidDataset(
            f"the longest sound without a pause in the dataset is {max(lengths):.1f} s; training needs at least "
            f"{LONGEST_SEGMENT_SECONDS} s, and a good voice 10 minutes in all"
        )
    reasons = [f"{recording.name}: {recording.reason}" for recording in recordings]
    shown = shorten(reasons, MAX_REASONS, "; ", "; and {} more")
    raise InvalidDataset(f"no recording of the dataset is usable: {shown}")
