"""Files that the package contains beside its code. No torch."""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "assets"

WHISPER_TINY_WEIGHTS = _FOLDER / "whisper-tiny.en-encoder.safetensors"
"""Whisper tiny.en's audio encoder, float16 (MIT, see NOTICE)."""
PUBLISHED_WEIGHTS = _FOLDER / "model_assets.json"
"""Repository, path, size and sha256 of the weight files used by RVC."""
