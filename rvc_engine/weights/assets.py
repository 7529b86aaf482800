"""Files that the package contains beside its code. No torch."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "assets"

WHISPER_TINY_WEIGHTS = _FOLDER / "whisper-tiny.en-encoder.safetensors"
"""Whisper tiny.en's audio encoder, float16 (MIT, see NOTICE)."""
FOREIGN_SPEAKERS = (_FOLDER / "speech" / "woman.flac", _FOLDER / "speech" / "man.flac")
"""A sentence each of a woman and a man, English, 16 kHz (public domain, see NOTICE)."""
PUBLISHED_WEIGHTS = _FOLDER / "model_assets.json"
"""Repository, path, size and sha256 of the weight files used by RVC."""
