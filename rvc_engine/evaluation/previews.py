"""Previews of a save: a clip rendered with the voice, as FLAC, and its log-mel below the recording's, as PNG.

`previews/e<epoch>_s<step>_<n>.flac` and `.png`, and once per run `recording_<n>.flac`; n is the number of the clip.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from rvc_engine.evaluation.mel_plot import plot_mels
from rvc_engine.workspace.atomic_files import write_atomically


@dataclass(frozen=True)
class Preview:
    """The files of one clip at one save."""

    audio: Path
    picture: Path
    recording: Path


@dataclass(frozen=True)
class Sound:
    """A sound and its log-mel."""

    wave: NDArray[np.float32]
    """(num_samples,), full scale ±1."""
    mel: NDArray[np.float32]
    """(n_mels, T)."""


def write_preview(
    folder: Path, clip: int, epoch: int, step: int, rendered: Sound, recorded: Sound, sample_rate: int
) -> Preview:
    """Write the files of a clip; the recording only if it does not exist yet. Raises OSError on a full disk."""
    name = f"e{epoch}_s{step}_{clip}"
    preview = Preview(folder / f"{name}.flac", folder / f"{name}.png", folder / f"recording_{clip}.flac")
    if not preview.recording.is_file():
        write_atomically(preview.recording, _flac(recorded.wave, sample_rate))
    write_atomically(preview.audio, _flac(rendered.wave, sample_rate))
    write_atomically(preview.picture, plot_mels([recorded.mel, rendered.mel], sample_rate))
    return preview


def _flac(wave: NDArray[np.float32], sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.clip(wave, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
