"""The one rule of what training uses of a recording: the pieces kept, and the time dropped, by reason. No torch.

Slicing writes what this module selects, and the report on a dataset counts it. Both judge the recording after its
mixdown (`mixing`) and the 48 Hz high-pass, by the level and the peak of each 15 ms.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rvc_engine.audio.mixing import MAX_PEAK
from rvc_engine.audio.parts import Parts, stretches
from rvc_engine.audio.silence import THRESHOLD, Levels, loud_spans
from rvc_engine.listing import shorten

PIECE_SECONDS = 3.7
OVERLAP_SECONDS = 0.3
LONGEST_SECONDS = PIECE_SECONDS + OVERLAP_SECONDS
"""Longest slice: a longer rest is cut further."""
LONGEST_SEGMENT_SECONDS = 0.4
"""Longest training segment of all variants (32k). A dataset must have at least one slice of this length."""
MIN_SECONDS_OF_SOUND = 1.0
"""Least sound of a dataset, in the pieces that are not dropped."""
INAUDIBLE_PEAK = 1e-6
"""Pieces that stay below it are zeros, but for rounding."""
MAX_REASONS = 10
"""Files named in one message."""
SHOWN_SECONDS = 0.05
"""Less time than this is 0.0 s in a message."""

DropReason = Literal["silent", "too_short", "too_loud", "not_a_number", "unreadable", "left_out"]
"""silent: between the pieces, or a piece of zeros; too_short: in pieces shorter than LONGEST_SEGMENT_SECONDS, which are
written but too short to train on; too_loud: in pieces far louder than the rest of the recording; not_a_number: dropped,
and damaged samples (NaN, infinite); unreadable: in the header's length, but not decoded; left_out: in parts that the
user leaves out."""
REASON_TEXTS: Mapping[DropReason, str] = {
    "silent": "silent",
    "too_short": "too short",
    "too_loud": "too loud",
    "not_a_number": "not a number",
    "unreadable": "unreadable",
    "left_out": "left out",
}
_REASONS: tuple[DropReason, ...] = ("silent", "too_short", "too_loud", "not_a_number", "unreadable", "left_out")
_KEPT = len(_REASONS)
"""Number of the time that is kept, after those of the reasons."""


@dataclass(frozen=True)
class Piece:
    """A part of a recording, in samples; neighbours may overlap."""

    start: int
    end: int
    reason: DropReason | None
    """None: it is kept."""

    @property
    def is_written(self) -> bool:
        """Whether slicing writes it; short ones too, as the reference does, though training leaves them out."""
        return self.reason in {None, "too_short"}


@dataclass(frozen=True)
class Selection:
    """The parts of one recording that are kept, and the time that is dropped."""

    pieces: tuple[Piece, ...] = ()
    kept_seconds: float = 0.0
    """Time in pieces that are kept; overlaps count once."""
    longest_seconds: float = 0.0
    """Length of the longest piece that is written."""
    sound_seconds: float = 0.0
    """Time above the threshold of silence in the pieces that are kept."""
    dropped: Mapping[DropReason, float] = field(default_factory=dict)
    """Seconds by reason, without reasons of none. With `kept_seconds` they add up to the recording's length."""

    @property
    def reason(self) -> str | None:
        """The reason why nothing of it is kept, as a clause; None where something is."""
        if self.kept_seconds:
            return None
        if "too_short" in self.dropped:
            return f"all of its sound is shorter than {LONGEST_SEGMENT_SECONDS} s; join such files to longer ones"
        if "too_loud" in self.dropped:
            return "all of it is silent or far above the level of the rest"
        if "not_a_number" in self.dropped:
            return "its samples are not numbers; export it again"
        if "left_out" in self.dropped:
            return "nothing but silence remains of it without the parts that are left out"
        return "nothing in it is louder than -42 dB; raise its level if it contains speech"


@dataclass(frozen=True)
class Cutting:
    """Way to cut recordings into pieces."""

    way: Literal["auto", "fixed", "none"] = "auto"
    """auto: at pauses, as the reference does; fixed: every `seconds`; none: not at all."""
    seconds: float = PIECE_SECONDS
    """Length of the pieces with `fixed`."""
    overlap_seconds: float = OVERLAP_SECONDS
    """Time that neighbours share with `fixed`."""


AT_PAUSES = Cutting()


def select(
    levels: Levels,
    sample_rate: int,
    damaged: NDArray[np.int64] | None = None,
    unreadable_seconds: float = 0.0,
    cutting: Cutting = AT_PAUSES,
    without: Parts = (),
) -> Selection:
    """Apply the rule to the levels of a whole recording.

    `damaged`: numbers of the hops of 15 ms in which samples were damaged and are read as zeros. `without`: parts
    that are left out and were read as silence; no piece reaches into one.
    """
    rms, hop = levels.rms(), levels.hop_length
    lengths = np.full(-(-levels.num_samples // hop), hop)
    if len(lengths):
        lengths[-1] = levels.num_samples - hop * (len(lengths) - 1)
    chosen = tuple(_pieces(levels, rms, sample_rate, cutting, without)) if levels.sound_seconds() else ()
    fates = np.zeros(len(lengths), np.int64)  # silent
    for piece in sorted(chosen, key=lambda piece: piece.reason is None):  # where pieces overlap, the kept one counts
        hops = slice(round(piece.start / hop), max(round(piece.end / hop), round(piece.start / hop) + 1))
        fates[hops] = _KEPT if piece.reason is None else _REASONS.index(piece.reason)
    if damaged is not None:
        is_damaged = np.zeros(len(fates), bool)
        is_damaged[damaged[damaged < len(fates)]] = True
        fates[is_damaged & (fates != _KEPT)] = _REASONS.index("not_a_number")
    for part in without:
        hops = slice(round(part.start * sample_rate / hop), round(part.end * sample_rate / hop))
        fates[hops] = _REASONS.index("left_out")
    seconds = np.bincount(fates, weights=lengths, minlength=_KEPT + 1) / sample_rate
    dropped = dict(zip(_REASONS, seconds[:_KEPT].tolist(), strict=True))
    dropped["unreadable"] = unreadable_seconds
    is_loud = levels.is_loud()[: len(fates)]
    return Selection(
        pieces=chosen,
        kept_seconds=float(seconds[_KEPT]),
        longest_seconds=max((piece.end - piece.start for piece in chosen if piece.is_written), default=0) / sample_rate,
        sound_seconds=float(np.count_nonzero(is_loud & (fates == _KEPT))) * hop / sample_rate,
        dropped={reason: value for reason, value in dropped.items() if value > 0},
    )


def _pieces(
    levels: Levels, rms: NDArray[np.float64], sample_rate: int, cutting: Cutting, without: Parts
) -> Iterator[Piece]:
    for start, end in _cuts(levels, rms, sample_rate, cutting, without):
        peak = levels.peak(start, end)
        reason: DropReason | None = None
        if peak > MAX_PEAK:
            reason = "too_loud"
        elif peak < INAUDIBLE_PEAK or (without and not _has_sound(rms, start, end, levels.hop_length)):
            reason = "silent"
        elif end - start < LONGEST_SEGMENT_SECONDS * sample_rate:
            reason = "too_short"
        yield Piece(start, end, reason)


def _has_sound(rms: NDArray[np.float64], start: int, end: int, hop: int) -> bool:
    """Whether a piece is louder than silence anywhere; between parts that are left out there may be a mere pause."""
    return bool((rms[start // hop : end // hop + 1] >= THRESHOLD).any())


def _cuts(
    levels: Levels, rms: NDArray[np.float64], sample_rate: int, cutting: Cutting, without: Parts
) -> Iterator[tuple[int, int]]:
    """Start and end of each piece, in samples."""
    if cutting.way == "auto":
        spans = loud_spans(rms, levels.num_samples, levels.hop_length)
    else:
        spans = iter([(0, levels.num_samples)])
    for span in spans:
        for start, end in stretches(*span, without, sample_rate):
            if cutting.way == "none":
                yield start, end
            elif cutting.way == "fixed":
                length = round(cutting.seconds * sample_rate)
                step = length - round(cutting.overlap_seconds * sample_rate)
                yield from ((start + first, start + last) for first, last in _fixed_pieces(end - start, length, step))
            else:
                yield from pieces(start, end, sample_rate)


def _fixed_pieces(num_samples: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    """Pieces of `length`, one each `step`; the last is what is left, and not within the one before."""
    for start in range(0, num_samples, step):
        yield start, min(start + length, num_samples)
        if start + length >= num_samples:
            return


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


@dataclass(frozen=True)
class Judged:
    """A file of a dataset: its selection, or why it could not be read."""

    name: str
    selection: Selection
    error: str | None = None

    @property
    def reason(self) -> str | None:
        """The reason why nothing of it is used; None where something is."""
        return self.error or self.selection.reason


def unusable_reason(files: Sequence[Judged], min_seconds: float = MIN_SECONDS_OF_SOUND) -> str | None:
    """The reason why training cannot use a dataset; None where it can. `min_seconds`: least sound in all."""
    reasons = shorten(
        [f"{file.name}: {file.reason}" for file in files if file.reason], MAX_REASONS, "; ", "; and {} more"
    )
    if all(file.error for file in files):
        return f"none of the files can be read as audio: {reasons}"
    left_out = f". Left out: {reasons}" if reasons else ""
    short = total_dropped([file.selection for file in files]).get("too_short", 0.0)
    longest = max(file.selection.longest_seconds for file in files)
    if short and longest < LONGEST_SEGMENT_SECONDS:
        return (
            f"the longest sound without a pause in the dataset is {longest:.1f} s; training needs at least "
            f"{LONGEST_SEGMENT_SECONDS} s, and a good voice 10 minutes in all{left_out}"
        )
    sound = sum(file.selection.sound_seconds for file in files)
    if sound < min_seconds:
        too_short = (
            f". {short:.1f} s more are in sounds shorter than {LONGEST_SEGMENT_SECONDS} s, too short to train on"
            if short
            else ""
        )
        return (
            f"the dataset has {sound:.1f} s of sound (louder than -42 dB); training needs at least "
            f"{min_seconds:g} s, and a good voice 10 minutes{too_short}{left_out}"
        )
    return None


def total_dropped(selections: Sequence[Selection]) -> dict[DropReason, float]:
    """Seconds that are dropped of all recordings, by reason."""
    totals = {reason: sum(each.dropped.get(reason, 0.0) for each in selections) for reason in _REASONS}
    return {reason: seconds for reason, seconds in totals.items() if seconds > 0}


def dropped_text(dropped: Mapping[DropReason, float]) -> str:
    """Dropped time for people, such as "12.3 s silent, 0.3 s too short"; empty where it is too little to show."""
    shown = [(REASON_TEXTS[reason], seconds) for reason, seconds in dropped.items() if seconds >= SHOWN_SECONDS]
    return ", ".join(f"{seconds:.1f} s {text}" for text, seconds in shown)
