"""Audio files of converted speech: WAV and FLAC without loss, MP3 and Opus for small files."""

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from rvc_engine.audio.resampling import Resampler
from rvc_engine.environment.files import replace
from rvc_engine.errors import InvalidConfig
from rvc_engine.workspace.disk import translating_disk_full

LOSSLESS = {".wav": "WAV", ".flac": "FLAC"}
LOSSY = {".mp3": ("mp3", "libmp3lame", 192_000), ".opus": ("ogg", "libopus", 96_000)}
"""Container, encoder and bits per second."""
LOSSY_SAMPLE_RATE = 48_000
"""Opus has no other rate, and MP3 has no 40 kHz."""


def check_suffix(target: Path) -> None:
    """Raise InvalidConfig for a suffix that no format has."""
    if target.suffix.lower() not in {*LOSSLESS, *LOSSY}:
        raise InvalidConfig(
            f"{target.name}: the output format must be .wav, .flac, .mp3 or .opus; change the file name"
        )


def write_audio(target: Path, samples: NDArray[np.int16], sample_rate: int) -> None:
    """Write mono samples (num_samples,) in the format of the suffix, under the name once complete.

    Raises InvalidConfig for another suffix, and DiskFull.
    """
    check_suffix(target)
    suffix = target.suffix.lower()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with translating_disk_full(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if suffix in LOSSLESS:
                soundfile.write(temporary, samples, sample_rate, subtype="PCM_16", format=LOSSLESS[suffix])
            else:
                _encode(temporary, samples, sample_rate, *LOSSY[suffix])
            replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _encode(
    path: Path, samples: NDArray[np.int16], sample_rate: int, container_format: str, codec: str, bit_rate: int
) -> None:
    """Write a file with a lossy codec. Raises OSError."""
    resampler = Resampler(LOSSY_SAMPLE_RATE)
    wave = (samples / 32768).astype(np.float32)
    resampled = np.concatenate([*resampler.add(wave, sample_rate), *resampler.finish()])
    with path.open("wb") as file, av.open(file, "w", format=container_format) as container:
        stream: Any = container.add_stream(codec, rate=LOSSY_SAMPLE_RATE, layout="mono")
        stream.bit_rate = bit_rate
        integers = (resampled.clip(-1, 1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(integers[None], format="s16", layout="mono")
        frame.sample_rate = LOSSY_SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
