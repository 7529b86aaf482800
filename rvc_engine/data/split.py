"""Split of a dataset's clips into those for training and those for evaluation.

The split depends on the clips' names alone, so every attempt, on any machine, makes the same. A slice is named
`<recording>_<piece>`, and pieces of one recording overlap by 0.3 s and sound alike: where whole recordings are short
enough to be held out, only whole ones are. Where none is (few, long recordings), single pieces are held out, and the
evaluation avoids their ends as far as it can. Silent clips are always trained on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rvc_engine.data.clips import ClipFiles

SHARE = 0.05
MAX_CLIPS = 8
MIN_SPEECH_SECONDS = 180
"""With less speech, every clip is needed for training."""
NUM_TRAINING_CLIPS = 2
"""Training clips that are evaluated where none is held out: less informative, and a short run has little time."""
FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Split:
    """The clips of a dataset by their use."""

    trained: list[ClipFiles]
    """Clips for training, in the order of the dataset."""
    evaluated: list[ClipFiles]
    are_held_out: bool
    """Whether the evaluated clips are kept out of training."""


def split(clips: Sequence[ClipFiles], slices: Path, evaluate: str = "auto") -> Split:
    """Hold out 5 % of the clips, at most 8; with under 3 minutes of speech, evaluate two training clips instead.

    `slices` is the workspace's folder of slices; clips that lie elsewhere are silence. `evaluate` is the config's
    option; with `never` no clip is evaluated.
    """
    if evaluate == "never":
        return Split(list(clips), [], are_held_out=False)
    voiced = [clip for clip in clips if clip.wave.parent == slices]
    if sum(clip.frames for clip in voiced) < MIN_SPEECH_SECONDS * FRAMES_PER_SECOND:
        return Split(list(clips), sorted(voiced, key=_rank)[:NUM_TRAINING_CLIPS], are_held_out=False)
    limit = min(MAX_CLIPS, max(1, int(SHARE * len(voiced))))
    chosen = _whole_recordings(voiced, limit) or sorted(voiced, key=_rank)[:limit]
    names = {clip.wave for clip in chosen}
    return Split([clip for clip in clips if clip.wave not in names], sorted(chosen, key=_rank), are_held_out=True)


def _whole_recordings(clips: Sequence[ClipFiles], limit: int) -> list[ClipFiles]:
    """All clips of some recordings, at most `limit` clips in total."""
    recordings: dict[str, list[ClipFiles]] = {}
    for clip in clips:
        recordings.setdefault(clip.wave.stem.rpartition("_")[0] or clip.wave.stem, []).append(clip)
    chosen: list[ClipFiles] = []
    for name in sorted(recordings, key=name_hash):
        if len(chosen) + len(recordings[name]) <= limit:
            chosen += recordings[name]
    return chosen


def _rank(clip: ClipFiles) -> str:
    return name_hash(clip.wave.stem)


def name_hash(name: str) -> str:
    """Hash of a clip's or recording's name, equal on every machine."""
    return hashlib.sha256(name.encode()).hexdigest()
