"""What a dataset holds, told before a job may use it. No torch.

Every file is decoded wholly, because only that shows what can be read; in blocks, so that memory stays bounded. The
server runs this in a child process with limited memory and time, because the files come from strangers.
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
from rvc_engine.report.acoustics import NUM_FALLS, AcousticMeter, Acoustics, reverberation_seconds
from rvc_engine.report.issues import DatasetMeasures, FileReport, Finding, find, quoted, told
from rvc_engine.report.speaker_clusters import find_two_groups
from rvc_engine.report.waveform_overview import Envelope, Overview, draw
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.disk import disk_full_told

MIN_SECONDS_OF_SOUND = 1.0
"""A dataset with less sound than this is not usable."""
CLIPPED = 0.9995
"""Samples at or beyond it, full scale being 1, were most likely cut off by the recorder."""
FLAT_TOP = 0.5
"""Three equal samples in a row above it are a peak that was cut off and made quieter afterwards."""
MIN_MEASURED_SECONDS = 2.0
"""In shorter files the noise is hard to tell from the voice; they count only where there are no others."""


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds; `usable` is whether a job may have it, `reason` why not."""

    usable: bool
    reason: str | None
    seconds: float
    speech_seconds: float
    silence_share: float
    """0..1: time that is not louder than -42 dB."""
    num_files: int
    num_usable: int
    """Files that can be read and hold sound."""
    files: list[FileReport]
    warnings: list[str]
    """The findings that are warnings, one sentence each."""
    findings: list[Finding]
    """What a person should know of, the gravest first."""
    sample_rates: dict[str, float] = field(default_factory=dict)
    """Seconds of sound by the sample rate in Hz that files have."""
    clipped_share: float = 0.0
    """0..1: samples of all files that were cut off."""
    speech_db: float | None = None
    """Median level of speech, dB of full scale. This and what follows is None where there is too little to tell."""
    noise_db: float | None = None
    """Median level of the noise beneath, dB of full scale."""
    snr_db: float | None = None
    """Median of speech over noise, dB."""
    reverberation_seconds: float | None = None
    """About the time in which sound fades by 60 dB; dry speech gives 0.35 and less."""
    bandwidth_hz: float | None = None
    """Up to where the recordings hold anything."""
    overview: Overview = field(default_factory=Overview)
    """The loudness of all of it."""


@dataclass(frozen=True)
class _Examined:
    """One file's report, and what only the comparison with others needs."""

    report: FileReport
    acoustics: Acoustics | None = None
    digest: str | None = None
    """Of the decoded samples."""
    envelope: NDArray[np.float32] | None = None


def write_report(dataset: Path, output: Path) -> DatasetReport:
    """Report on a dataset folder as JSON in a file. An unusable dataset is no error here: the report says so."""
    report = make_report(dataset)
    with disk_full_told(output.parent):
        write_atomically(output, json.dumps(asdict(report), allow_nan=False, ensure_ascii=False).encode())
    return report


def make_report(dataset: Path) -> DatasetReport:
    """Decode every file of a dataset folder and tell what it holds."""
    try:
        recordings = list_recordings(dataset)
    except InvalidDataset as error:
        return _summary([], str(error))
    return _summary([_examine(recording) for recording in recordings], None)


def report_file(recording: Recording) -> FileReport:
    """Decode one file and tell what it holds."""
    return _examine(recording).report


def _examine(recording: Recording) -> _Examined:
    try:
        with open_audio(recording.path) as stream:
            return _measure(recording.name, stream)
    except UnreadableAudio as error:
        return _Examined(FileReport(recording.name, error=str(error)))


def _measure(name: str, stream: AudioStream) -> _Examined:
    levels: dict[int, Levels] = {}  # by rate: a stream may change it on the way
    digest = hashlib.blake2b(digest_size=16)
    meter, clipping, envelope = AcousticMeter(), _Clipping(), Envelope()
    for block in stream.blocks():
        digest.update(block.samples.tobytes())
        clipping.add(block)
        mono = block.mono()
        mono = mono - mono.mean()  # a constant offset is no sound
        levels.setdefault(block.sample_rate, Levels(block.sample_rate)).add(mono)
        meter.add(mono, block.sample_rate)
        envelope.add(mono, block.sample_rate)
    digest.update(f"{stream.info.sample_rate} {stream.info.channels}".encode())
    acoustics = meter.result()
    report = FileReport(
        name=name,
        seconds=sum(level.num_samples / rate for rate, level in levels.items()),
        sample_rate=stream.info.sample_rate,
        channels=stream.info.channels,
        container=stream.info.container,
        codec=stream.info.codec,
        peak=clipping.peak,
        clipped_share=clipping.share,
        speech_seconds=sum(level.seconds_of_sound() for level in levels.values()),
        speech_db=_rounded(acoustics.speech_db),
        noise_db=_rounded(acoustics.noise_db),
        snr_db=_rounded(acoustics.snr_db),
        bandwidth_hz=_rounded(acoustics.bandwidth_hz),
        notes=stream.notes,
    )
    return _Examined(report, acoustics, digest.hexdigest(), envelope.result())


class _Clipping:
    """Peak, and how many samples were cut off, over blocks."""

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


def _summary(examined: Sequence[_Examined], error: str | None) -> DatasetReport:
    files = [each.report for each in examined]
    seconds = sum(file.seconds for file in files)
    speech_seconds = min(sum(file.speech_seconds for file in files), seconds)
    reason = error or _reason(files, speech_seconds)
    measures = _compare(examined, speech_seconds, seconds)
    findings = find(files, measures) if reason is None else []
    return DatasetReport(
        usable=reason is None,
        reason=reason,
        seconds=seconds,
        speech_seconds=speech_seconds,
        silence_share=1 - speech_seconds / seconds if seconds else 0.0,
        num_files=len(files),
        num_usable=sum(file.speech_seconds > 0 for file in files),
        files=files,
        warnings=[told(finding) for finding in findings if finding.severity == "warning"],
        findings=findings,
        sample_rates=_sample_rates(files),
        clipped_share=sum(file.clipped_share * file.seconds for file in files) / seconds if seconds else 0.0,
        speech_db=measures.speech_db,
        noise_db=measures.noise_db,
        snr_db=measures.snr_db,
        reverberation_seconds=measures.reverberation_seconds,
        bandwidth_hz=measures.bandwidth_hz,
        overview=draw([each.envelope for each in examined if each.envelope is not None]),
    )


def _sample_rates(files: Sequence[FileReport]) -> dict[str, float]:
    seconds: Counter[int] = Counter()
    for file in files:
        if file.sample_rate is not None:
            seconds[file.sample_rate] += file.seconds  # type: ignore[assignment]
    return {str(rate): round(float(seconds[rate]), 3) for rate in sorted(seconds)}


def _compare(examined: Sequence[_Examined], speech_seconds: float, seconds: float) -> DatasetMeasures:
    """What the files say together."""
    heard = [each for each in examined if each.acoustics is not None]
    acoustics = [each.acoustics for each in heard if each.acoustics is not None]
    windows = [window for each in acoustics for window in each.windows]
    names = [each.report.name for each in heard for _ in (each.acoustics.windows if each.acoustics else ())]
    falls: NDArray[np.int64] = sum((each.falls for each in acoustics), np.zeros(NUM_FALLS, np.int64))
    groups = find_two_groups(windows)
    same = duplicates.same_samples([each.digest for each in heard])
    in_same = {frozenset((one, other)) for group in same for one in group for other in group}
    takes = duplicates.same_takes([each.sketch for each in acoustics], [each.report.seconds for each in heard])
    return DatasetMeasures(
        seconds=seconds,
        speech_seconds=speech_seconds,
        speech_db=_typical(heard, "speech_db"),
        noise_db=_typical(heard, "noise_db"),
        snr_db=_typical(heard, "snr_db"),
        bandwidth_hz=_typical(heard, "bandwidth_hz"),
        reverberation_seconds=_rounded(reverberation_seconds(falls), 2),
        same_samples=[[heard[place].report.name for place in group] for group in same],
        same_takes=[
            (heard[one].report.name, heard[other].report.name)
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


def _typical(heard: Sequence[_Examined], measure: str) -> float | None:
    """The median of a measure over all files, by their seconds of speech."""
    known = [(getattr(each.report, measure), each.report) for each in heard]
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
    """Why nothing can be made of the dataset, or None."""
    if speech_seconds >= MIN_SECONDS_OF_SOUND:
        return None
    if all(file.error for file in files):
        reasons = [f"{file.name}: {file.error}" for file in files]
        return f"no file of the dataset can be read as audio: {quoted(reasons, '; ')}"
    return (
        f"the dataset has {speech_seconds:.1f} s of sound (louder than -42 dB); at least {MIN_SECONDS_OF_SOUND:.0f} s"
        " is needed, and 10 minutes make a good voice"
    )
