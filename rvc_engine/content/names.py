"""Content encoders by the names that voices, configurations and files know them by. No torch."""

from rvc_engine.config import ContentEncoder
from rvc_engine.errors import IncompatibleCheckpoint

_EMBEDDERS: dict[ContentEncoder, str] = {"contentvec": "contentvec", "whisper-tiny": "whisper-tiny.en-l2l3"}


def embedder_name(encoder: ContentEncoder) -> str:
    """What a voice carries as `embedder_model`: which features it understands."""
    return _EMBEDDERS[encoder]


def encoder_of(embedder: str | None) -> ContentEncoder:
    """The encoder that a voice needs; a voice that names none was made by RVC, with ContentVec.

    Raises IncompatibleCheckpoint for an encoder that is not known here: another one would give garbage.
    """
    for encoder, name in _EMBEDDERS.items():
        if name == (embedder or "contentvec"):
            return encoder
    raise IncompatibleCheckpoint(
        f"this voice needs the content encoder {embedder!r}, and only {', '.join(_EMBEDDERS.values())} are known here; "
        "convert with the program that made the voice"
    )
