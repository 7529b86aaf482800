"""Report on a dataset, made before a job may use it. No torch.

Every file is decoded to its end, because only that shows how much can be read; in blocks, so that memory stays bounded.
The server runs this in a child process with limited memory and time, because the files are untrusted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.file_rules import LeftOut
from rvc_engine.audio.high_pass import SAMPLE_RATE as SLICING_RATE
from rvc_engine.audio.high_pass import HighPass
from rvc_engine.audio.parts import total_seconds, within
from rvc_engine.audio.reading import AudioStream, Block, UnreadableAudio, read_twice_if_needed
from rvc_engine.audio.recordings import Recording, list_dataset
from rvc_engine.audio.resampling import Resampler
from rvc_engine.audio.selection import Judged, Selection, select, total_dropped, unusable_reason
from rvc_engine.audio.silence import Levels
from rvc_engine.errors import InvalidDataset
from rvc_engine.report import duplicates
from rvc_engine.report.audio_quality import NUM_DECAYS, AudioQuality, AudioQualityMeter, reverberation_seconds
from rvc_engine.report.issues import DatasetMetrics, FileReport, Finding, LeftOutPart, find_issues, finding_text
from rvc_engine.report.speaker_clusters import cluster_speakers
from rvc_engine.report.waveform_overview import Envelope, Overview, draw
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.disk import translating_disk_full

CLIPPED = 0.9995
"""Samples at or above this level, full scale being 1, were most likely clipped by the recorder."""
DECODED_OVERSHOOT = 1.5
"""Decoders of lossy codecs exceed full scale up to this peak where the recording was clipped before it was encoded."""
FLAT_TOP = 0.5
"""Three equal samples in a row above this level are a peak that was clipped and attenuated afterwards."""
MIN_MEASURED_SECONDS = 2.0
"""In shorter files noise is hard to separate from speech; they count only where there are no longer ones."""


@dataclass(frozen=True)
class DatasetReport:
    """Report on a dataset; `usable` is whether a job may use it, `reason` why not."""

    usable: bool
    reason: str | None
    seconds: float
    speech_seconds: float
    silence_share: float
    """0..1: time not louder than -42 dB."""
    num_files: int
    num_usable: int
    """Files of which training will use something."""
    files: list[FileReport]
    warnings: list[str]
    """Findings that are warnings, one sentence each."""
    findings: list[Finding]
    """Issues of the dataset, warnings first."""
    sample_rates: dict[str, float] = field(default_factory=dict)
    """Seconds of audio by sample rate in Hz."""
    clipped_share: float = 0.0
    """0..1: clipped samples of all files."""
    speech_db: float | None = None
    """Median level of speech, dB of full scale. This and the fields below are None where there is too little audio."""
    noise_db: float | None = None
    """Median level of the background noise, dB of full scale."""
    snr_db: float | None = None
    """Median signal-to-noise ratio, dB."""
    reverberation_seconds: float | None = None
    """Estimated time in which sound decays by 60 dB; dry speech gives up to 0.35."""
    bandwidth_hz: float | None = None
    """Median of the highest frequency with content."""
    overview: Overview = field(default_factory=Overview)
    """Peaks of all recordings over time."""
    kept_seconds: float = 0.0
    """Time that training will use."""
    dropped_seconds: dict[str, float] = field(default_factory=dict)
    """Time that it will not use, by reason: silent, too_short, too_loud, not_a_number, unreadable, left_out."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Files that are no recordings by their names, or could not be reached."""


@dataclass(frozen=True)
class _FileAnalysis:
    """The report of one file, and data for the comparison with other files."""

    report: FileReport
    judged: Judged
    quality: AudioQuality | None = None
    digest: str | None = None
    """Hash of the decoded samples."""
    envelope: NDArray[np.float32] | None = None


def write_report(dataset: Path, output: Path) -> DatasetReport:
    """Write the report on a dataset folder to a JSON file. An unusable dataset is not an error, but in the report."""
    report = make_report(dataset)
    with translating_disk_full(output.parent):
        write_atomically(output, json.dumps(asdict(report), allow_nan=False, ensure_ascii=False).encode())
    return report


def make_report(dataset: Path) -> DatasetReport:
    """Decode every file of a dataset folder and report on them."""
    try:
        files = list_dataset(dataset)
    except InvalidDataset as error:
        return _summary([], str(error))
    return replace(_summary([_analyze(recording) for recording in files.recordings], None), left_out=files.left_out)


def _analyze(recording: Recording) -> _FileAnalysis:
    try:
        return read_twice_if_needed(recording.path, lambda stream: _measure(recording, stream), recording.without)
    except UnreadableAudio as error:
        unread = Judged(recording.name, Selection(), str(error))
        return _FileAnalysis(FileReport(recording.name, error=str(error)), unread)


def _measure(recording: Recording, stream: AudioStream) -> _FileAnalysis:
    digest = hashlib.blake2b(digest_size=16)
    meter, clipping, envelope = AudioQualityMeter(), _Clipping(), Envelope()
    levels, resampler, high_pass = Levels(SLICING_RATE), Resampler(SLICING_RATE), HighPass()
    for block in stream.blocks():
        digest.update(block.samples.tobytes())
        clipping.add(block)
        mono = stream.mix.mono(block.samples)
        for resampled in resampler.add(mono, block.sample_rate):
            for filtered in high_pass.add(resampled):
                levels.add(filtered)
        mono = mono - mono.mean()  # without a constant offset, which is no sound
        meter.add(mono, block.sample_rate)
        envelope.add(mono, block.sample_rate)
    for resampled in resampler.finish():
        for filtered in high_pass.add(resampled):
            levels.add(filtered)
    levels.add(high_pass.finish())
    digest.update(f"{stream.info.sample_rate} {stream.info.channels}".encode())
    quality = meter.result()
    without = within(recording.without, stream.seconds)
    damage = stream.zeroed_hops(), stream.unreadable_seconds
    selection = select(levels, SLICING_RATE, *damage, without=recording.without)
    seconds = max(0.0, stream.seconds - total_seconds(without))
    report = FileReport(
        name=recording.name,
        seconds=seconds,
        sample_rate=stream.info.sample_rate,
        channels=stream.info.channels,
        container=stream.info.container,
        codec=stream.info.codec,
        peak=stream.survey.peak,
        clipped_share=clipping.share(stream.survey.peak, is_scaled=stream.survey.excess_db() > 0),
        speech_seconds=min(levels.sound_seconds(), seconds),
        speech_db=_rounded(quality.speech_db),
        noise_db=_rounded(quality.noise_db),
        snr_db=_rounded(quality.snr_db),
        bandwidth_hz=_rounded(quality.bandwidth_hz),
        notes=stream.notes,
        kept_seconds=round(selection.kept_seconds, 3),
        dropped_seconds={reason: round(seconds, 3) for reason, seconds in selection.dropped.items()},
        over_full_scale_db=round(stream.survey.excess_db(), 1),
        is_inverted=stream.mix.is_inverted,
        is_mixed_by_layout=stream.mix.is_by_layout,
        remarks=stream.survey.remarks(stream.mix),
        without_parts=[LeftOutPart(*part) for part in without],
    )
    return _FileAnalysis(report, Judged(recording.name, selection), quality, digest.hexdigest(), envelope.result())


class _Clipping:
    """Clipped samples of a recording, block by block."""

    def __init__(self) -> None:
        self._num_full = self._num_flat_below = self._num_samples = 0
        self._flat_peaks = Counter[int]()

    def add(self, block: Block) -> None:
        loudness = np.abs(block.samples)
        middle = block.samples[1:-1]
        is_flat = (middle == block.samples[:-2]) & (middle == block.samples[2:]) & (loudness[1:-1] > FLAT_TOP)
        self._num_full += int(np.count_nonzero(loudness >= CLIPPED))
        self._num_flat_below += int(np.count_nonzero(is_flat & (loudness[1:-1] < CLIPPED)))
        self._num_samples += loudness.size
        powers = np.frexp(loudness[1:-1][is_flat])[1]  # loudness in (2 ** (power - 1), 2 ** power]
        self._flat_peaks.update(dict(zip(*map(np.ndarray.tolist, np.unique(powers, return_counts=True)), strict=True)))

    def share(self, peak: float, *, is_scaled: bool) -> float:
        """Share of clipped samples, 0..1. Of a recording beyond full scale only flat tops near its peak are clipped."""
        if not self._num_samples:
            return 0.0
        if not is_scaled and peak <= DECODED_OVERSHOOT:
            return (self._num_full + self._num_flat_below) / self._num_samples
        highest = int(np.frexp(np.float32(peak))[1])
        return self._flat_peaks[highest] / self._num_samples


def _summary(analyses: Sequence[_FileAnalysis], error: str | None) -> DatasetReport:
    files = [each.report for each in analyses]
    seconds = sum(file.seconds for file in files)
    speech_seconds = min(sum(file.speech_seconds for file in files), seconds)
    reason = error or unusable_reason([each.judged for each in analyses])
    dropped = total_dropped([each.judged.selection for each in analyses])
    metrics = _compare(analyses, speech_seconds, seconds)
    findings = find_issues(files, metrics) if reason is None else []
    return DatasetReport(
        usable=reason is None,
        reason=reason,
        seconds=seconds,
        speech_seconds=speech_seconds,
        silence_share=1 - speech_seconds / seconds if seconds else 0.0,
        num_files=len(files),
        num_usable=sum(each.judged.reason is None for each in analyses),
        files=files,
        warnings=[finding_text(finding) for finding in findings if finding.severity == "warning"],
        findings=findings,
        sample_rates=_sample_rates(files),
        clipped_share=sum(file.clipped_share * file.seconds for file in files) / seconds if seconds else 0.0,
        speech_db=metrics.speech_db,
        noise_db=metrics.noise_db,
        snr_db=metrics.snr_db,
        reverberation_seconds=metrics.reverberation_seconds,
        bandwidth_hz=metrics.bandwidth_hz,
        overview=draw([each.envelope for each in analyses if each.envelope is not None]),
        kept_seconds=round(sum(file.kept_seconds for file in files), 3),
        dropped_seconds={reason: round(seconds, 3) for reason, seconds in dropped.items()},
    )


def _sample_rates(files: Sequence[FileReport]) -> dict[str, float]:
    seconds: Counter[int] = Counter()
    for file in files:
        if file.sample_rate is not None:
            seconds[file.sample_rate] += file.seconds  # type: ignore[assignment]
    return {str(rate): round(float(seconds[rate]), 3) for rate in sorted(seconds)}


def _compare(analyses: Sequence[_FileAnalysis], speech_seconds: float, seconds: float) -> DatasetMetrics:
    """Metrics over all files, and the files that are copies or have another speaker."""
    readable = [each for each in analyses if each.quality is not None]
    qualities = [each.quality for each in readable if each.quality is not None]
    windows = [window for each in qualities for window in each.windows]
    names = [each.report.name for each in readable for _ in (each.quality.windows if each.quality else ())]
    decays: NDArray[np.int64] = sum((each.decays for each in qualities), np.zeros(NUM_DECAYS, np.int64))
    groups = cluster_speakers(windows)
    same = duplicates.same_samples([each.digest for each in readable])
    in_same = {frozenset((one, other)) for group in same for one in group for other in group}
    takes = duplicates.same_takes([each.fingerprint for each in qualities], [each.report.seconds for each in readable])
    return DatasetMetrics(
        seconds=seconds,
        speech_seconds=speech_seconds,
        speech_db=_weighted_median(readable, "speech_db"),
        noise_db=_weighted_median(readable, "noise_db"),
        snr_db=_weighted_median(readable, "snr_db"),
        bandwidth_hz=_weighted_median(readable, "bandwidth_hz"),
        reverberation_seconds=_rounded(reverberation_seconds(decays), 2),
        same_samples=[[readable[index].report.name for index in group] for group in same],
        same_takes=[
            (readable[one].report.name, readable[other].report.name)
            for one, other in takes
            if frozenset((one, other)) not in in_same
        ],
        groups=groups,
        in_smaller_group=list(
            dict.fromkeys(name for name, is_in in zip(names, groups.in_smaller, strict=True) if is_in)
        )
        if groups is not None
        else [],
    )


def _weighted_median(readable: Sequence[_FileAnalysis], metric: str) -> float | None:
    """The median of a metric over all files, weighted by their seconds of speech."""
    known = [(getattr(each.report, metric), each.report) for each in readable]
    known = [(value, report) for value, report in known if value is not None]
    if any(report.seconds >= MIN_MEASURED_SECONDS for _, report in known):
        known = [(value, report) for value, report in known if report.seconds >= MIN_MEASURED_SECONDS]
    total, passed = sum(report.speech_seconds for _, report in known), 0.0
    for value, report in sorted(known, key=lambda entry: entry[0]):
        passed += report.speech_seconds
        if passed > 0 and passed >= total / 2:
            return float(value)
    return None


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)
