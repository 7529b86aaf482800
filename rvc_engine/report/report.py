"""Report on a dataset, made before a job may use it. No torch.

Every file is decoded to its end, because only that shows how much can be read; in blocks, so that memory stays bounded.
The server runs this in a child process with limited memory and time, because the files are untrusted.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.reading import AudioStream, Block, UnreadableAudio, open_audio
from rvc_engine.audio.recordings import Recording, list_recordings
from rvc_engine.audio.silence import Levels
from rvc_engine.errors import InvalidDataset
from rvc_engine.report import duplicates
from rvc_engine.report.audio_quality import NUM_DECAYS, AudioQuality, AudioQualityMeter, reverberation_seconds
from rvc_engine.report.issues import DatasetMetrics, FileReport, Finding, find_issues, finding_text, quoted
from rvc_engine.report.speaker_clusters import cluster_speakers
from rvc_engine.report.waveform_overview import Envelope, Overview, draw
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.disk import translating_disk_full

MIN_SECONDS_OF_SOUND = 1.0
"""Least sound in a usable dataset."""
CLIPPED = 0.9995
"""Samples at or above this level, full scale being 1, were most likely clipped by the recorder."""
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
    """Files that can be read and have sound."""
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


@dataclass(frozen=True)
class _FileAnalysis:
    """The report of one file, and data for the comparison with other files."""

    report: FileReport
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
        recordings = list_recordings(dataset)
    except InvalidDataset as error:
        return _summary([], str(error))
    return _summary([_analyze(recording) for recording in recordings], None)


def _analyze(recording: Recording) -> _FileAnalysis:
    try:
        with open_audio(recording.path) as stream:
            return _measure(recording.name, stream)
    except UnreadableAudio as error:
        return _FileAnalysis(FileReport(recording.name, error=str(error)))


def _measure(name: str, stream: AudioStream) -> _FileAnalysis:
    levels: dict[int, Levels] = {}  # by sample rate, which may change within a stream
    digest = hashlib.blake2b(digest_size=16)
    meter, clipping, envelope = AudioQualityMeter(), _Clipping(), Envelope()
    for block in stream.blocks():
        digest.update(block.samples.tobytes())
        clipping.add(block)
        mono = block.mono()
        mono = mono - mono.mean()  # without a constant offset, which is no sound
        levels.setdefault(block.sample_rate, Levels(block.sample_rate)).add(mono)
        meter.add(mono, block.sample_rate)
        envelope.add(mono, block.sample_rate)
    digest.update(f"{stream.info.sample_rate} {stream.info.channels}".encode())
    quality = meter.result()
    report = FileReport(
        name=name,
        seconds=sum(level.num_samples / rate for rate, level in levels.items()),
        sample_rate=stream.info.sample_rate,
        channels=stream.info.channels,
        container=stream.info.container,
        codec=stream.info.codec,
        peak=clipping.peak,
        clipped_share=clipping.share,
        speech_seconds=sum(level.sound_seconds() for level in levels.values()),
        speech_db=_rounded(quality.speech_db),
        noise_db=_rounded(quality.noise_db),
        snr_db=_rounded(quality.snr_db),
        bandwidth_hz=_rounded(quality.bandwidth_hz),
        notes=stream.notes,
    )
    return _FileAnalysis(report, quality, digest.hexdigest(), envelope.result())


class _Clipping:
    """Peak and share of clipped samples of a recording, block by block."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._num_clipped = self._num_samples = 0

    def add(self, block: Block) -> None:
        loudness = np.abs(block.samples)
        self.peak = max(self.peak, float(loudness.max(initial=0.0)))
        middle = block.samples[1:-1]
        is_flat = (middle == block.samples[:-2]) & (middle == block.samples[2:]) & (loudness[1:-1] > FLAT_TOP)
        self._num_clipped += int(np.count_nonzero(loudness >= CLIPPED))
        self._num_clipped += int(np.count_nonzero(is_flat & (loudness[1:-1] < CLIPPED)))
        self._num_samples += loudness.size

    @property
    def share(self) -> float:
        return self._num_clipped / self._num_samples if self._num_samples else 0.0


def _summary(analyses: Sequence[_FileAnalysis], error: str | None) -> DatasetReport:
    files = [each.report for each in analyses]
    seconds = sum(file.seconds for file in files)
    speech_seconds = min(sum(file.speech_seconds for file in files), seconds)
    reason = error or _reason(files, speech_seconds)
    metrics = _compare(analyses, speech_seconds, seconds)
    findings = find_issues(files, metrics) if reason is None else []
    return DatasetReport(
        usable=reason is None,
        reason=reason,
        seconds=seconds,
        speech_seconds=speech_seconds,
        silence_share=1 - speech_seconds / seconds if seconds else 0.0,
        num_files=len(files),
        num_usable=sum(file.speech_seconds > 0 for file in files),
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


def _reason(files: Sequence[FileReport], speech_seconds: float) -> str | None:
    """The reason why the dataset is unusable, or None."""
    if speech_seconds >= MIN_SECONDS_OF_SOUND:
        return None
    if all(file.error for file in files):
        reasons = [f"{file.name}: {file.error}" for file in files]
        return f"no file of the dataset can be read as audio: {quoted(reasons, '; ')}"
    return (
        f"the dataset has {speech_seconds:.1f} s of sound (louder than -42 dB); training needs at least "
        f"{MIN_SECONDS_OF_SOUND:.0f} s, and a good voice 10 minutes"
    )
