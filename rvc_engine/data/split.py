"""Which clips a run is measured on, and which it trains on.

Both come from the clips' names alone, so every attempt, on any machine, chooses the same. A slice is named
`<recording>_<piece>`, and pieces of one recording overlap by 0.3 s and sound alike: where whole recordings fit into
what may be held out, only whole ones are taken. Where none does (few, long recordings), single pieces are, and the
evaluation keeps off their ends as far as it can. Silent clips are always trained on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.data.clips import ClipFiles

SHARE = 0.05
MAX_CLIPS = 8
MIN_SPEECH_SECONDS = 180
"""With less, every clip is needed for training."""
NUM_TRAINING_CLIPS = 2
"""So many training clips serve where none is held out: they tell less, and a short run should not wait for more."""
FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Split:
    """A dataset's clips by their use."""

    trained: list[ClipFiles]
    """In the order of the dataset."""
    evaluated: list[ClipFiles]
    are_held_out: bool
    """Whether the evaluated clips are kept out of training."""


def split(clips: Sequence[ClipFiles], slices: Path, evaluate: str = "auto") -> Split:
    """Hold out 5 % of the clips, at most 8; under 3 minutes of speech none, then two training clips are evaluated.

    `slices` is the workspace's folder of slices: clips that lie elsewhere are silence. `evaluate` is the config's;
    `never` holds none out.
    """
    if evaluate == "never":
        return Split(list(clips), [], are_held_out=False)
    voiced = [clip for clip in clips if clip.wave.parent == slices]
    if sum(clip.frames for clip in voiced) < MIN_SPEECH_SECONDS * FRAMES_PER_SECOND:
        return Split(list(clips), sorted(voiced, key=_rank)[:NUM_TRAINING_CLIPS], are_held_out=False)
    wanted = min(MAX_CLIPS, max(1, int(SHARE * len(voiced))))
    chosen = _whole_recordings(voiced, wanted) or sorted(voiced, key=_rank)[:wanted]
    names = {clip.wave for clip in chosen}
    return Split([clip for clip in clips if clip.wave not in names], sorted(chosen, key=_rank), are_held_out=True)


def _whole_recordings(clips: Sequence[ClipFiles], wanted: int) -> list[ClipFiles]:
    """All clips of some recordings, at most `wanted` clips."""
    recordings: dict[str, list[ClipFiles]] = {}
    for clip in clips:
        recordings.setdefault(clip.wave.stem.rpartition("_")[0] or clip.wave.stem, []).append(clip)
    chosen: list[ClipFiles] = []
    for name in sorted(recordings, key=name_hash):
        if len(chosen) + len(recordings[name]) <= wanted:
            chosen += recordings[name]
    return chosen


def _rank(clip: ClipFiles) -> str:
    return name_hash(clip.wave.stem)


def name_hash(name: str) -> str:
    """A hash of a clip's or recording's name that is the same everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()
