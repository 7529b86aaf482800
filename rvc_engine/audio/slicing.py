"""Stage `slice`: cut recordings into training slices of at most 4 s, as the reference does (FORMATS: "Slices").

Each recording is decoded once: resampled in blocks, high-passed, written to a temporary file, and its level measured
per 15 ms; then the pieces are selected by these levels (`selection`) and read back. So a recording of hours takes no
more memory than one of seconds. Recordings beyond full scale, or with channels of opposite phase, are decoded twice.
The golden numbers in tests/golden/slicing.json hold.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import scipy.io.wavfile
import scipy.signal
import soxr
from numpy.typing import NDArray

from rvc_engine.audio.file_rules import LeftOut, left_out_text
from rvc_engine.audio.high_pass import HIGH_PASS_HZ, HIGH_PASS_ORDER
from rvc_engine.audio.mixing import MAX_PEAK
from rvc_engine.audio.reading import AudioStream, UnreadableAudio, read_twice_if_needed
from rvc_engine.audio.recordings import Recording, list_dataset
from rvc_engine.audio.selection import (
    LONGEST_SEGMENT_SECONDS,
    Cutting,
    DropReason,
    Judged,
    Selection,
    dropped_text,
    select,
    total_dropped,
    unusable_reason,
)
from rvc_engine.audio.silence import Levels
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset
from rvc_engine.hyperparameters import ANALYSIS_SAMPLE_RATE
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.disk import translating_disk_full
from rvc_engine.workspace.layout import Workspace

VERSION = 2
"""Incremented when the same recordings would give other slices, so that cached results of before are not reused.

2: recordings beyond full scale are scaled, opposite channels inverted, more than two mixed by their loudspeakers, or
summed, or the loudest used, where that mix loses much of the sound.
"""
EARLIER_VERSIONS = (1,)
"""Versions whose slices a run that began with them goes on with."""

MAX_WHOLE_SECONDS = 15
"""Longest recording that is taken as one clip: memory and time of training grow with the longest clip."""
LEVEL = 0.9
LEVEL_SHARE = 0.75
"""Weight of the piece scaled to a peak of LEVEL; the rest is the piece at its own loudness."""


@dataclass(frozen=True)
class SlicedRecording:
    """Result of slicing one recording."""

    name: str
    slice_seconds: tuple[float, ...]
    """Length of each slice; overlaps count twice."""
    reason: str | None
    """Reason why nothing of it is used; None when something is."""
    kept_seconds: float = 0.0
    """Time of the recording that is kept; overlaps count once."""
    dropped_seconds: dict[DropReason, float] = field(default_factory=dict)
    """Time of the recording that is dropped, by reason."""
    remarks: tuple[str, ...] = ()
    """Clauses on how it was changed before anything else, such as scaled to full scale."""


@dataclass(frozen=True)
class SlicingSummary:
    """Result of slicing a dataset."""

    num_slices: int
    seconds: float
    recordings: tuple[SlicedRecording, ...]
    kept_seconds: float = 0.0
    dropped_seconds: dict[DropReason, float] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    """Files of the dataset that are no recordings by their names, or could not be reached."""


def fingerprint_parts(config: TrainingConfig) -> list[object]:
    """Settings that slices depend on; without those at their defaults, so that results of before they existed hold."""
    parts: list[object] = [config.sample_rate]
    if config.slicing == "fixed":
        parts.append(["fixed", config.slice_seconds, config.slice_overlap_seconds])
    elif config.slicing == "none":
        parts.append(["none"])
    if not config.normalize:
        parts.append([{"normalize": False}])
    return parts


def run(dataset: Path, workspace: Workspace, config: TrainingConfig, report: StageReport) -> SlicingSummary:
    """Cut every recording of a dataset into `<i>_<j>.wav` at the voice's rate and at 16 kHz.

    i is the recording's number in `list_recordings`, j the slice's number within it. Each recording that gives no slice
    is reported by a warning, and the time that is dropped of each in the log and in `workspace.slicing_result`. Raises
    InvalidDataset when there is no slice at all, or none long enough, and DiskFull.
    """
    files = list_dataset(dataset)
    recordings = files.recordings
    if files.left_out:
        text = left_out_text(files.left_out)
        report.log(f"left out of the dataset: {text}; slicing/result.json names all")
    progress = _Progress(report, recordings)
    done: list[SlicedRecording] = []
    judged: list[Judged] = []
    with translating_disk_full(workspace.root):
        workspace.empty(workspace.slices)
        workspace.empty(workspace.slices_16k)
        for number, recording in enumerate(recordings):
            progress.enter(number)
            sliced, verdict = _slice_recording(number, recording, workspace, config, progress)
            done.append(sliced)
            judged.append(verdict)
        progress.enter(len(recordings))
        lengths = [seconds for recording in done for seconds in recording.slice_seconds]
        selections = [each.selection for each in judged]
        kept, dropped = sum(each.kept_seconds for each in selections), total_dropped(selections)
        summary = SlicingSummary(len(lengths), sum(lengths), tuple(done), kept, dropped, tuple(files.left_out))
        write_atomically(
            workspace.slicing_result, json.dumps(asdict(summary), allow_nan=False, ensure_ascii=False).encode()
        )
    _report_total(summary, report)
    if reason := unusable_reason(judged, LONGEST_SEGMENT_SECONDS):
        raise InvalidDataset(reason)
    report.log(f"{summary.num_slices} slices, {summary.seconds / 60:.1f} minutes, from {len(recordings)} recordings")
    return summary


def _report_total(summary: SlicingSummary, report: StageReport) -> None:
    """One line about the time that is dropped; a warning where it is not merely silence, or left out by choice."""
    if text := dropped_text(summary.dropped_seconds):
        message = f"of all recordings {summary.kept_seconds:.1f} s are kept; dropped: {text}"
        if summary.dropped_seconds.keys() - {"silent", "left_out"}:
            report.warn(message)
        else:
            report.log(message)


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
    number: int, recording: Recording, workspace: Workspace, config: TrainingConfig, progress: _Progress
) -> tuple[SlicedRecording, Judged]:
    """Cut one recording. Raises InvalidDataset when it is too long to be taken whole, as `slicing=none` asks."""
    report, sample_rate = progress.report, config.sample_rate_hz
    cutting = Cutting(config.slicing, config.slice_seconds, config.slice_overlap_seconds)
    with tempfile.TemporaryFile(dir=workspace.root) as spool:

        def read(stream: AudioStream) -> tuple[Selection, AudioStream]:
            spool.seek(0)
            levels = Levels(sample_rate)
            for block in high_pass(_with_progress(stream, sample_rate, progress), sample_rate):
                levels.add(block)
                spool.write(block.astype(np.float32).tobytes())
            damage = stream.zeroed_hops(), stream.unreadable_seconds
            return select(levels, sample_rate, *damage, cutting, recording.without), stream

        try:
            selection, stream = read_twice_if_needed(recording.path, read, recording.without)
        except UnreadableAudio as error:
            report.warn(f"{recording.name}: left out: {error}")
            return SlicedRecording(recording.name, (), str(error)), Judged(recording.name, Selection(), str(error))
        for note in stream.notes:
            report.warn(f"{recording.name}: {note}")
        remarks = stream.survey.remarks(stream.mix)
        for remark in remarks:
            report.log(f"{recording.name}: {remark}")
        if cutting.way == "none" and selection.longest_seconds > MAX_WHOLE_SECONDS:
            raise InvalidDataset(
                f"{recording.name} is {selection.longest_seconds:.1f} s long, and slicing=none takes recordings of at "
                f"most {MAX_WHOLE_SECONDS} s; use slicing=auto, or cut it"
            )
        lengths = _write_slices(number, spool, selection, workspace, config, progress)
    if selection.reason is not None:  # of many short sounds the total is a warning
        (report.log if "too_short" in selection.dropped else report.warn)(
            f"{recording.name}: left out: {selection.reason}"
        )
    if text := dropped_text(selection.dropped):
        report.log(f"{recording.name}: {selection.kept_seconds:.1f} s are kept; dropped: {text}")
    sliced = SlicedRecording(
        name=recording.name,
        slice_seconds=tuple(length / sample_rate for length in lengths),
        reason=selection.reason,
        kept_seconds=selection.kept_seconds,
        dropped_seconds=dict(selection.dropped),
        remarks=tuple(remarks),
    )
    return sliced, Judged(recording.name, selection)


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
    number: int,
    spool: IO[bytes],
    selection: Selection,
    workspace: Workspace,
    config: TrainingConfig,
    progress: _Progress,
) -> list[int]:
    """Write the selected pieces of one spooled recording; the length of each in samples."""
    lengths: list[int] = []
    sample_rate = config.sample_rate_hz
    for index, part in enumerate(selection.pieces):
        progress.within(0.5 + 0.5 * index / len(selection.pieces))
        if not part.is_written:
            continue
        spool.seek(4 * part.start)
        sound = np.frombuffer(spool.read(4 * (part.end - part.start)), np.float32)
        piece = normalize_level(sound) if config.normalize else limit_peak(sound)
        assert piece is not None
        name = f"{number}_{len(lengths)}.wav"
        scipy.io.wavfile.write(workspace.slices / name, sample_rate, piece)
        scipy.io.wavfile.write(
            workspace.slices_16k / name,
            ANALYSIS_SAMPLE_RATE,
            soxr.resample(piece, sample_rate, ANALYSIS_SAMPLE_RATE),
        )
        lengths.append(len(piece))
    return lengths


def normalize_level(piece: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Bring a piece, (num_samples,), near to a common level; None where its peak is zero, over MAX_PEAK or NaN."""
    peak = float(np.abs(piece).max(initial=0.0))
    if not 0 < peak <= MAX_PEAK:  # also false for NaN
        return None
    return (piece * (LEVEL * LEVEL_SHARE / peak + (1 - LEVEL_SHARE))).astype(np.float32)


def limit_peak(piece: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a piece, (num_samples,), down to full scale where it is beyond it, as after the high-pass."""
    return piece / max(1.0, float(np.abs(piece).max(initial=0.0)))
