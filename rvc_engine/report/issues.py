"""Rules for a dataset's findings: each has a message, advice and the numbers behind them. No torch.

Codes are stable, for programs; the texts are for people, and claim no more than the measurements support.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rvc_engine.audio.selection import LONGEST_SEGMENT_SECONDS, REASON_TEXTS, dropped_text
from rvc_engine.listing import shorten
from rvc_engine.report.speaker_clusters import SpeakerClusters

Severity = Literal["warning", "info"]
"""warning: it may spoil the voice. info: for information."""

FEW_MINUTES_OF_SPEECH = 3.0
"""With less speech a voice can be trained, but hardly a good one."""
MUCH_TOO_SHORT = 0.1
"""Share of the time in pieces shorter than a training segment, above which it is a warning."""
MUCH_CLIPPING = 0.001
MUCH_SILENCE = 0.7
NOISY_DB = 15.0
"""Signal-to-noise ratio below which the voice will reproduce the noise."""
SOME_NOISE_DB = 22.0
REVERBERANT_SECONDS = 0.5
LOW_SAMPLE_RATE = 32_000
"""Lowest sample rate of a voice, in Hz."""
LOW_BANDWIDTH = 14_500.0
"""Hz; a 32k voice has content up to 16 kHz."""
UNEVEN_DB = 12.0
"""Level difference between the quieter and the louder tenth of the files."""
MAX_NAMES = 5
"""Files named in one message."""
MAX_LISTED = 200
"""Files listed with a finding; their full number is in `values`."""


@dataclass(frozen=True)
class LeftOutPart:
    """A part of a recording that is left out, in seconds from its start."""

    from_seconds: float
    to_seconds: float


@dataclass(frozen=True)
class FileReport:
    """Measurements of one file."""

    name: str
    seconds: float = 0.0
    """Length, without the parts that are left out; all that is measured is of the rest."""
    sample_rate: int | None = None
    channels: int | None = None
    container: str | None = None
    codec: str | None = None
    peak: float = 0.0
    """Largest sample of any channel; full scale is 1."""
    clipped_share: float = 0.0
    """0..1: samples at full scale, or in flat tops of peaks that were clipped before the level was reduced."""
    speech_seconds: float = 0.0
    """Time louder than -42 dB."""
    speech_db: float | None = None
    """Level of speech, dB of full scale; this and the fields below are None where there is too little audio."""
    noise_db: float | None = None
    """Level of the background noise; in a file without a pause, of the quietest speech."""
    snr_db: float | None = None
    bandwidth_hz: float | None = None
    """Highest frequency with content."""
    notes: list[str] = field(default_factory=list)
    """Damage in a file that could be read."""
    error: str | None = None
    """Reason why the file could not be read."""
    kept_seconds: float = 0.0
    """Time that training will use."""
    dropped_seconds: dict[str, float] = field(default_factory=dict)
    """Time that it will not use, by reason: silent, too_short, too_loud, not_a_number, unreadable, left_out."""
    over_full_scale_db: float = 0.0
    """Level of the peak over full scale where the recording is scaled down for it."""
    is_inverted: bool = False
    """Whether one of its two channels is inverted, since they are of opposite phase."""
    is_mixed_by_layout: bool = False
    """Whether its channels, more than two, are mixed by their loudspeakers' weights."""
    remarks: list[str] = field(default_factory=list)
    """Clauses on how the recording is changed before anything else, such as scaled to full scale."""
    without_parts: list[LeftOutPart] = field(default_factory=list)
    """Parts that are left out by choice, in order."""


@dataclass(frozen=True)
class Finding:
    """An issue of a dataset."""

    code: str
    severity: Severity
    message: str
    """Description of the issue."""
    advice: str
    """Advice on what to do about it."""
    files: list[str] = field(default_factory=list)
    """Files that it concerns, at most MAX_LISTED; empty for all."""
    values: dict[str, float] = field(default_factory=dict)
    """Numbers in the message."""
    superfluous: list[str] = field(default_factory=list)
    """Files that may be left out without a loss, at most MAX_LISTED."""


@dataclass(frozen=True)
class DatasetMetrics:
    """Metrics over all files; None where there is too little audio for an estimate."""

    seconds: float
    speech_seconds: float
    speech_db: float | None
    noise_db: float | None
    snr_db: float | None
    bandwidth_hz: float | None
    reverberation_seconds: float | None
    same_samples: list[list[str]]
    """Groups of names."""
    same_takes: list[tuple[str, str]]
    groups: SpeakerClusters | None
    in_smaller_group: list[str]


def find_issues(files: Sequence[FileReport], metrics: DatasetMetrics) -> list[Finding]:
    """All findings about a usable dataset, warnings first."""
    found = [finding for rule in _RULES for finding in rule(files, metrics)]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def finding_text(finding: Finding) -> str:
    """The message and advice of a finding as one sentence."""
    return f"{finding.message}; {finding.advice}"


def quoted(texts: Sequence[str], separator: str = ", ") -> str:
    """Join the first few texts, and add the number of the others."""
    return shorten(texts, MAX_NAMES, separator, f"{separator}and {{}} more")


def _file_finding(
    code: str, severity: Severity, what: str, advice: str, found: Sequence[tuple[str, str]], **values: float
) -> Iterator[Finding]:
    """A finding about files, each given as (name, name with a remark), if there are any."""
    if not found:
        return
    are = "file is" if len(found) == 1 else "files are"
    shown = quoted([remark for _, remark in found])
    names = [name for name, _ in found]
    yield Finding(
        code,
        severity,
        f"{len(found)} {are} {what}: {shown}",
        advice,
        names[:MAX_LISTED],
        {"num_files": len(found), **values},
    )


def _little_speech(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    minutes = metrics.speech_seconds / 60
    if minutes < FEW_MINUTES_OF_SPEECH:
        yield Finding(
            "little_speech",
            "warning",
            f"only {minutes:.1f} minutes of speech",
            "10 minutes or more make a good voice",
            values={"speech_minutes": round(minutes, 2)},
        )


def _unreadable(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    found = [(file.name, f"{file.name} ({file.error})") for file in files if file.error]
    yield from _file_finding(
        "unreadable", "warning", "unreadable", "they are left out; record or export them again", found
    )


def _damaged(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    found = [(file.name, f"{file.name} ({'; '.join(file.notes)})") for file in files if file.notes]
    advice = "the readable parts are used; export the files again if something is missing"
    yield from _file_finding("damaged", "warning", "damaged", advice, found)


def _silent(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    found = [(file.name, file.name) for file in files if not file.error and not file.speech_seconds]
    advice = "nothing in them is louder than -42 dB, so they are left out; raise their level if they contain speech"
    yield from _file_finding("silent", "warning", "silent", advice, found)


def _too_short(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    short = [(file, file.dropped_seconds.get("too_short", 0.0)) for file in files]
    found = [(file.name, f"{file.name} ({seconds:.2f} s)") for file, seconds in short if seconds]
    total, kept = sum(seconds for _, seconds in short), sum(file.kept_seconds for file in files)
    severity: Severity = "warning" if total > MUCH_TOO_SHORT * (total + kept) else "info"
    advice = (
        f"sound shorter than {LONGEST_SEGMENT_SECONDS} s by itself is too short to train on; join such files to longer "
        "ones"
    )
    yield from _file_finding(
        "too_short", severity, "too short, in whole or in part", advice, found, seconds=round(total, 1)
    )


def _dropped(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    """Time that is dropped for other reasons than silence, shortness and the user's choice."""
    reasons = [reason for reason in REASON_TEXTS if reason not in {"silent", "too_short", "left_out"}]
    dropped = [
        (file.name, {reason: file.dropped_seconds[reason] for reason in reasons if reason in file.dropped_seconds})
        for file in files
    ]
    found = [(name, f"{name} ({text})") for name, each in dropped if (text := dropped_text(each))]
    total = sum(sum(each.values()) for _, each in dropped)
    advice = "export them again; what is far louder than the rest of a file, or no number, is damage or a click"
    yield from _file_finding("dropped", "warning", "dropped in part", advice, found, seconds=round(total, 1))


def _over_full_scale(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    loudest_first = sorted(files, key=lambda file: -file.over_full_scale_db)
    found = [(f.name, f"{f.name} (+{f.over_full_scale_db:.1f} dB)") for f in loudest_first if f.over_full_scale_db]
    highest = loudest_first[0].over_full_scale_db if loudest_first else 0.0
    advice = "nothing is lost: each is scaled to full scale as a whole; no action is needed"
    yield from _file_finding("over_full_scale", "info", "over full scale", advice, found, highest_db=highest)


def _opposite_phase(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    found = [(file.name, file.name) for file in files if file.is_inverted]
    advice = "the two channels would cancel each other, so one is inverted before they are mixed; no action is needed"
    yield from _file_finding("opposite_phase", "info", "of opposite phase in the two channels", advice, found)


def _surround(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    found = [(file.name, f"{file.name} ({file.channels})") for file in files if file.is_mixed_by_layout]
    advice = (
        "the channels are mixed to mono as loudspeakers play them, the centre in full; export the voice alone if the "
        "other channels hold other sound"
    )
    yield from _file_finding("surround", "info", "of more than two channels", advice, found)


def _clipped(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    worst_first = sorted(files, key=lambda file: -file.clipped_share)
    found = [
        (f.name, f"{f.name} ({100 * f.clipped_share:.1f} %)") for f in worst_first if f.clipped_share > MUCH_CLIPPING
    ]
    share = worst_first[0].clipped_share if worst_first else 0.0
    advice = "record them with less gain, or leave them out"
    yield from _file_finding(
        "clipped", "warning", "clipped, so the voice may sound harsh", advice, found, worst_share=round(share, 4)
    )


def _noisy(files: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    snr, noise = metrics.snr_db, metrics.noise_db
    if snr is None or noise is None:
        return
    values = {"snr_db": snr, "noise_db": noise}
    if snr < SOME_NOISE_DB:
        is_bad = snr < NOISY_DB
        yield Finding(
            "noisy",
            "warning" if is_bad else "info",
            f"the noise is only about {snr:.0f} dB below the speech ({noise:.0f} dB of full scale)",
            "the voice will reproduce it; record in a quieter place, closer to the microphone, or remove the noise"
            if is_bad
            else "a voice reproduces steady noise too; 30 dB or more sounds clean",
            values=values,
        )
        return
    found = [
        (file.name, f"{file.name} ({file.snr_db:.0f} dB)")
        for file in files
        if file.snr_db is not None and file.snr_db < NOISY_DB and file.seconds >= 3
    ]
    advice = f"the noise of the others is about {snr:.0f} dB below the speech; listen to these, and leave out bad ones"
    yield from _file_finding(
        "noisy_files", "info", "noisier than the others, or without a pause", advice, found, **values
    )


def _reverberant(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    seconds = metrics.reverberation_seconds
    if seconds is not None and seconds >= REVERBERANT_SECONDS:
        yield Finding(
            "reverberant",
            "warning",
            f"the room is audible: sound decays by 60 dB in about {seconds:.1f} s",
            "the voice will reproduce the reverberation; record in a room with soft furnishings, closer to the "
            "microphone",
            values={"reverberation_seconds": seconds},
        )


def _low_rate(files: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    low = [file for file in files if file.sample_rate is not None and file.sample_rate < LOW_SAMPLE_RATE]
    if sum(file.seconds for file in low) > 0.5 * metrics.seconds:
        rates = sorted({f"{(file.sample_rate or 0) / 1000:g}" for file in low}, key=float)
        yield Finding(
            "low_sample_rate",
            "warning",
            f"recorded at {', '.join(rates)} kHz, so the voice will lack brightness",
            "40 kHz or more is best; with these recordings sample_rate=32k loses nothing",
            values={"highest_rate": max(float(rate) for rate in rates) * 1000},
        )
    elif metrics.bandwidth_hz is not None and metrics.bandwidth_hz < LOW_BANDWIDTH:
        yield Finding(
            "low_bandwidth",
            "warning",
            f"the files have no content above {metrics.bandwidth_hz / 1000:.1f} kHz, whatever their sample rate: they "
            f"were recorded or encoded at about {_old_rate(metrics.bandwidth_hz)} kHz",
            "sample_rate=32k loses nothing; for a brighter voice use the original recordings if they have more",
            values={"bandwidth_hz": metrics.bandwidth_hz},
        )


def _old_rate(bandwidth_hz: float) -> str:
    """The common sample rate, in kHz, whose half fits a bandwidth best."""
    rates = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000)
    return f"{min(rates, key=lambda rate: abs(rate / 2 - bandwidth_hz)) / 1000:g}"


def _same_samples(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    groups = metrics.same_samples
    if groups:
        num_copies = sum(len(group) - 1 for group in groups)
        firsts = {group[0] for group in groups}
        copies = [name for group in groups for name in group[1:] if name not in firsts]  # names may be equal too
        are = "recording is an exact copy" if num_copies == 1 else "recordings are exact copies"
        yield Finding(
            "duplicates",
            "warning",
            f"{num_copies} {are} of another: {quoted([' = '.join(group[:3]) for group in groups])}",
            "keep one of each: in training a copy counts again",
            [name for group in groups for name in group][:MAX_LISTED],
            {"num_files": num_copies},
            copies[:MAX_LISTED],
        )


def _same_takes(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    pairs = metrics.same_takes
    if pairs:
        yield Finding(
            "near_duplicates",
            "info",
            f"{len(pairs)} pairs of files sound like the same take, encoded or scaled differently: "
            f"{quoted([' ~ '.join(pair) for pair in pairs])}",
            "listen to them, and keep the better one of each pair",
            list(dict.fromkeys(name for pair in pairs for name in pair))[:MAX_LISTED],
            {"num_pairs": len(pairs)},
        )


def _speakers(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    groups = metrics.groups
    if groups is not None:
        names = metrics.in_smaller_group
        yield Finding(
            "several_speakers",
            "warning",
            f"several speakers suspected: the speech forms two groups that differ clearly in pitch or timbre "
            f"({100 * (1 - groups.share):.0f} % near {groups.larger_hz:.0f} Hz, {100 * groups.share:.0f} % near "
            f"{groups.smaller_hz:.0f} Hz, such as {quoted(names)})",
            "listen to both; one person with two microphones, or speaking and singing, gives the same result. Train a "
            "voice on one speaker's recordings alone, or put each speaker's into a folder of their own and train with "
            "speakers=folders",
            names[:MAX_LISTED],
            {
                "smaller_share": round(groups.share, 3),
                "larger_hz": round(groups.larger_hz, 1),
                "smaller_hz": round(groups.smaller_hz, 1),
            },
        )


def _uneven(files: Sequence[FileReport], _: DatasetMetrics) -> Iterator[Finding]:
    levels = [file.speech_db for file in files if file.speech_db is not None]
    if len(levels) >= 5 and (spread := float(np.percentile(levels, 90) - np.percentile(levels, 10))) > UNEVEN_DB:
        yield Finding(
            "uneven_loudness",
            "info",
            f"the loudness of speech differs by {spread:.0f} dB between files",
            "slices are brought to a similar level before training, which also raises the noise of quiet files; "
            "bring the files to the same loudness if they should match",
            values={"spread_db": round(spread, 1)},
        )


def _much_silence(_: Sequence[FileReport], metrics: DatasetMetrics) -> Iterator[Finding]:
    share = 1 - metrics.speech_seconds / metrics.seconds if metrics.seconds else 0.0
    if share > MUCH_SILENCE:
        yield Finding(
            "much_silence",
            "info",
            f"{100 * share:.0f} % of the time is silence (below -42 dB)",
            "silence is cut out; if it contains speech, raise the level of the recordings",
            values={"silence_share": round(share, 3)},
        )


_RULES: tuple[Callable[[Sequence[FileReport], DatasetMetrics], Iterator[Finding]], ...] = (
    _little_speech,
    _unreadable,
    _damaged,
    _silent,
    _dropped,
    _too_short,
    _over_full_scale,
    _opposite_phase,
    _surround,
    _clipped,
    _noisy,
    _reverberant,
    _speakers,
    _low_rate,
    _same_samples,
    _same_takes,
    _uneven,
    _much_silence,
)
