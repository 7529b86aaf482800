"""What a dataset holds, told before a job may use it. No torch.

Every file is decoded wholly, because only that shows what can be read; in blocks, so that memory stays bounded. The
server runs this in a child process with limited memory and time, because the files come from strangers.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rvc_engine.audio import AudioStream, UnreadableAudio, open_audio
from rvc_engine.disk import disk_full_told
from rvc_engine.errors import InvalidDataset
from rvc_engine.recordings import Recording, list_recordings
from rvc_engine.silence import Levels
from rvc_engine.workspace import write_atomically

MIN_SECONDS_OF_SOUND = 1.0
"""A dataset with less sound than this is not usable."""
FEW_MINUTES_OF_SPEECH = 3.0
"""Below this a voice can be made, but hardly a good one."""
CLIPPED = 0.9995
"""Samples at or beyond it, full scale being 1, were most likely cut off by the recorder."""
MUCH_CLIPPING = 0.001
LOW_SAMPLE_RATE = 32_000
"""Below it the recordings hold less than the lowest rate of a voice can tell."""
MAX_NAMES = 5
"""Files named in one warning."""


@dataclass(frozen=True)
class FileReport:
    """What one file holds."""

    name: str
    seconds: float = 0.0
    sample_rate: int | None = None
    channels: int | None = None
    container: str | None = None
    codec: str | None = None
    peak: float = 0.0
    """Largest sample of any channel; full scale is 1."""
    clipped_share: float = 0.0
    """0..1: samples at full scale."""
    speech_seconds: float = 0.0
    """Time in which it is louder than -42 dB."""
    notes: list[str] = field(default_factory=list)
    """What was wrong with it though it could be read."""
    error: str | None = None
    """Why it could not be read."""


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
    return _summary([report_file(recording) for recording in recordings], None)


def report_file(recording: Recording) -> FileReport:
    """Decode one file and tell what it holds."""
    try:
        with open_audio(recording.path) as stream:
            return _measure(recording.name, stream)
    except UnreadableAudio as error:
        return FileReport(recording.name, error=str(error))


def _measure(name: str, stream: AudioStream) -> FileReport:
    levels: dict[int, Levels] = {}  # by rate: a stream may change it on the way
    peak = 0.0
    num_clipped = num_samples = 0
    for block in stream.blocks():
        loudness = np.abs(block.samples)
        peak = max(peak, float(loudness.max(initial=0.0)))
        num_clipped += int(np.count_nonzero(loudness >= CLIPPED))
        num_samples += loudness.size
        mono = block.mono()
        # A constant offset is no sound.
        levels.setdefault(block.sample_rate, Levels(block.sample_rate)).add(mono - mono.mean())
    return FileReport(
        name=name,
        seconds=sum(level.num_samples / rate for rate, level in levels.items()),
        sample_rate=stream.info.sample_rate,
        channels=stream.info.channels,
        container=stream.info.container,
        codec=stream.info.codec,
        peak=peak,
        clipped_share=num_clipped / num_samples,
        speech_seconds=sum(level.seconds_of_sound() for level in levels.values()),
        notes=stream.notes,
    )


def _summary(files: list[FileReport], error: str | None) -> DatasetReport:
    seconds = sum(file.seconds for file in files)
    speech_seconds = min(sum(file.speech_seconds for file in files), seconds)
    reason = error or _reason(files, speech_seconds)
    return DatasetReport(
        usable=reason is None,
        reason=reason,
        seconds=seconds,
        speech_seconds=speech_seconds,
        silence_share=1 - speech_seconds / seconds if seconds else 0.0,
        num_files=len(files),
        num_usable=sum(file.speech_seconds > 0 for file in files),
        files=files,
        warnings=_warnings(files, speech_seconds) if reason is None else [],
    )


def _reason(files: list[FileReport], speech_seconds: float) -> str | None:
    """Why nothing can be made of the dataset, or None."""
    if speech_seconds >= MIN_SECONDS_OF_SOUND:
        return None
    if all(file.error for file in files):
        reasons = [f"{file.name}: {file.error}" for file in files]
        return f"no file of the dataset can be read as audio: {_some(reasons, '; ')}"
    return (
        f"the dataset has {speech_seconds:.1f} s of sound (louder than -42 dB); at least {MIN_SECONDS_OF_SOUND:.0f} s"
        " is needed, and 10 minutes make a good voice"
    )


def _warnings(files: list[FileReport], speech_seconds: float) -> list[str]:
    """What may spoil the voice, one sentence each."""
    warnings = []
    if speech_seconds < 60 * FEW_MINUTES_OF_SPEECH:
        warnings.append(f"only {speech_seconds / 60:.1f} minutes of speech; 10 minutes or more make a good voice")
    _warn_of(warnings, "unreadable", (f"{file.name} ({file.error})" for file in files if file.error))
    _warn_of(warnings, "damaged", (f"{file.name} ({'; '.join(file.notes)})" for file in files if file.notes))
    _warn_of(warnings, "silent", (file.name for file in files if not file.error and not file.speech_seconds))
    clipped = (f"{f.name} ({100 * f.clipped_share:.1f} %)" for f in files if f.clipped_share > MUCH_CLIPPING)
    _warn_of(warnings, "clipped, so the voice may sound harsh", clipped)
    low = [file for file in files if file.sample_rate is not None and file.sample_rate < LOW_SAMPLE_RATE]
    if sum(file.seconds for file in low) > 0.5 * sum(file.seconds for file in files):
        rates = sorted({f"{(file.sample_rate or 0) / 1000:g}" for file in low}, key=float)
        warnings.append(
            f"recorded at {', '.join(rates)} kHz, so the voice will lack brightness; 40 kHz or more is best"
        )
    return warnings


def _warn_of(warnings: list[str], what: str, names: Iterable[str]) -> None:
    """Add one warning for all files that share a fault."""
    found = list(names)
    if found:
        warnings.append(f"{len(found)} {'file is' if len(found) == 1 else 'files are'} {what}: {_some(found, ', ')}")


def _some(texts: list[str], separator: str) -> str:
    """The first few, and how many more there are."""
    more = f"{separator}and {len(texts) - MAX_NAMES} more" if len(texts) > MAX_NAMES else ""
    return separator.join(texts[:MAX_NAMES]) + more
