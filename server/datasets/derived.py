"""What a derived dataset leaves out of the one that it is made from: whole recordings, and parts of others."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rvc_engine.audio.parts import MAX_PARTS, Part, merged, total_seconds, within
from rvc_engine.audio.recordings import Recording
from rvc_train.schemas.datasets import DatasetReport, RecordingPart
from server.errors import Conflict, Refused

MIN_LEFT_SECONDS = 0.4
"""Least rest of a recording of which parts are left out: the longest training segment of all variants."""


@dataclass(frozen=True)
class Omission:
    """What is left out."""

    names: frozenset[str] = frozenset()
    """Names of recordings."""
    parts: Mapping[int, tuple[Part, ...]] = field(default_factory=dict)
    """Parts of others, by the recording's number from 1."""

    @classmethod
    def from_json(cls, stored: Iterable[str | list[float]]) -> "Omission":
        """What the row of a dataset has: names, and [number, start, end] for each part."""
        names, parts = set[str](), dict[int, list[Part]]()
        for each in stored:
            if isinstance(each, str):
                names.add(each)
            else:
                parts.setdefault(int(each[0]), []).append(Part(each[1], each[2]))
        return cls(frozenset(names), {number: merged(found) for number, found in parts.items()})

    def to_json(self) -> list[str | list[float]]:
        """The same in a form that does not depend on the order of a request."""
        parts = [[number, *part] for number, found in sorted(self.parts.items()) for part in found]
        return [*sorted(self.names), *parts]

    def sha256(self, of_origin: str) -> str:
        """What stands for the hash of the bytes of a derived dataset."""
        return hashlib.sha256(json.dumps([of_origin, self.to_json()]).encode()).hexdigest()


def checked_omission(
    recordings: Sequence[Recording], report: DatasetReport | None, without: list[str], parts: list[RecordingPart]
) -> Omission:
    """What a request leaves out of a dataset's recordings. Raises Refused; for parts Conflict without a report."""
    known = {recording.name for recording in recordings}
    for place, name in enumerate(without):
        if name not in known:
            raise Refused(f"the dataset has no recording {name!r}", f"/without/{place}")
    names = frozenset(without)
    if names >= known:
        raise Refused("no recording would be left; leave out fewer", "/without")
    found: dict[int, list[Part]] = {}
    for place, part in enumerate(parts):
        pointer = f"/without_parts/{place}"
        seconds = _length(recordings, report, part.recording, names, pointer)
        if part.from_seconds >= seconds:
            raise Refused(
                f"recording {part.recording} is {seconds:.3f} s long, and the part begins after its end",
                f"{pointer}/from_seconds",
            )
        found.setdefault(part.recording, []).append(Part(part.from_seconds, min(part.to_seconds, seconds)))
        rest = seconds - total_seconds(
            merged([*within(recordings[part.recording - 1].without, seconds), *found[part.recording]])
        )
        if rest < MIN_LEFT_SECONDS:
            raise Refused(
                f"less than {MIN_LEFT_SECONDS} s of recording {part.recording} would be left; name the recording in "
                "`without` to leave it out as a whole",
                pointer,
            )
    omission = Omission(names, {number: merged(each) for number, each in found.items()})
    kept = [recording for recording in recordings if recording.name not in names]
    if sum(len(recording.without) for recording in kept) + sum(map(len, omission.parts.values())) > MAX_PARTS:
        raise Refused(f"a dataset leaves out at most {MAX_PARTS} parts; leave out whole recordings", "/without_parts")
    return omission


def _length(
    recordings: Sequence[Recording], report: DatasetReport | None, number: int, names: frozenset[str], pointer: str
) -> float:
    """Seconds of a recording, with the parts that are left out already. Raises Refused and Conflict."""
    if report is None:
        raise Conflict("the recordings are being examined, and their lengths are not known yet; try again in a moment")
    if number > len(recordings):
        raise Refused(
            f"the dataset has {len(recordings)} recordings; there is no number {number}", f"{pointer}/recording"
        )
    if recordings[number - 1].name in names:
        raise Refused(
            f"recording {number} is left out as a whole, by its name in `without`; leave out its parts, or all of it",
            f"{pointer}/recording",
        )
    file = report.files[number - 1] if number <= len(report.files) else None
    if file is None or file.error is not None or file.seconds is None:
        raise Refused(
            f"recording {number} cannot be read, so it has no parts; name it in `without` to leave it out",
            f"{pointer}/recording",
        )
    return file.seconds + sum(part.to_seconds - part.from_seconds for part in file.without_parts)
