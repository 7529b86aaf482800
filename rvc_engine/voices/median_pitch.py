"""The median pitch of a voice's speakers, which a voice file carries: `pitch_shift=auto` moves a recording to it.

RVC and Applio ignore the key. It comes from the pitch features of the clips that `filelist.txt` names, so that it is
there for a save in mid-training too.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.filelist import SILENCE, training_lines

MEDIAN_PITCH = "median_pitch"
"""Key of a voice file: {speaker id: Hz}."""


def median_pitch(workspace: Workspace) -> dict[int, float]:
    """Median of the pitch of each speaker's training clips in Hz, by id; empty for a voice without pitch."""
    curves: dict[int, list[NDArray[np.float64]]] = {}
    for parts in training_lines(workspace):
        if len(parts) != 5 or SILENCE.fullmatch(Path(parts[0]).stem):
            continue
        try:
            curve = np.load(_present(Path(parts[3]), workspace.f0_hz)).astype(np.float64).ravel()
            speaker = int(parts[4])
        except (OSError, ValueError, EOFError):
            continue  # of a clip that cannot be trained on either
        curves.setdefault(speaker, []).append(curve[np.isfinite(curve) & (curve > 0)])
    pooled = {speaker: np.concatenate(parts) for speaker, parts in sorted(curves.items())}
    return {speaker: round(float(np.median(hz)), 2) for speaker, hz in pooled.items() if len(hz)}


def stored_median_pitch(tree: dict[str, Any]) -> dict[int, float]:
    """Median pitch in a voice file, by speaker id; empty where it has none. Values of another form are ignored."""
    table = tree.get(MEDIAN_PITCH)
    if not isinstance(table, dict):
        return {}
    return {
        speaker: float(hz)
        for speaker, hz in table.items()
        if isinstance(speaker, int) and isinstance(hz, int | float) and 20 < hz < 5000
    }


def _present(path: Path, folder: Path) -> Path:
    """The file, or the one of its name in the workspace's own folder where that was moved."""
    return path if path.is_file() else folder / path.name
