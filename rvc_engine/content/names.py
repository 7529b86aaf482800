"""Content encoders by the names that voices, configurations and files know them by. No torch."""

from rvc_engine.config import ContentEncoder
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig

_EMBEDDERS: dict[ContentEncoder, str] = {
    "contentvec": "contentvec",
    "spin": "spin",
    "spin-v2": "spin-v2",
    "whisper-tiny": "whisper-tiny.en-l2l3",
}
"""Those that all the world has by one name; Applio's own names where it has them."""
_LOCAL = "local-"
"""Begins the name of a HuBERT of someone's own; the sha256 of its weights follows."""

_ONLY_HERE = "RVC and Applio load it, but it converts correctly only with `rvc-engine convert`"
_APPLIO_TOO = (
    "RVC loads it, but does not convert correctly with it. Applio does where {encoder} is chosen as its embedder model "
    "(it does not choose by itself), and so does `rvc-engine convert`"
)
_WITH_THE_FOLDER = (
    "RVC loads it, but does not convert correctly with it. Applio does where the same folder is chosen as its custom "
    "embedder model, and so does `rvc-engine convert --content-folder`"
)


def embedder_name(encoder: ContentEncoder, sha256: str | None = None) -> str:
    """What a voice carries as `embedder_model`: which features it understands.

    `sha256` is that of a local encoder's weights: nothing else tells two of them apart.
    """
    if encoder != "local":
        return _EMBEDDERS[encoder]
    assert sha256 is not None
    return f"{_LOCAL}{sha256}"


def encoder_of(embedder: str | None) -> ContentEncoder:
    """The encoder that a voice needs; a voice that names none was made by RVC, with ContentVec.

    Raises IncompatibleCheckpoint for an encoder that is not known here: another one would give garbage.
    """
    if embedder is not None and is_local(embedder):
        return "local"
    for encoder, name in _EMBEDDERS.items():
        if name == (embedder or "contentvec"):
            return encoder
    raise IncompatibleCheckpoint(
        f"this voice needs the content encoder {embedder!r}, and only {', '.join(_EMBEDDERS.values())} are known here; "
        "convert with the program that made the voice"
    )


def embedder_of_features(encoder: ContentEncoder, made_with: str | None) -> str:
    """What a voice carries that was trained on features of this encoder; `made_with` is the content stage's mark.

    Raises InvalidConfig for features of a local encoder of which nobody knows which it was.
    """
    if encoder != "local":
        return embedder_name(encoder)
    if made_with is None or not is_local(made_with):
        raise InvalidConfig(
            "nothing says which local encoder made the features that are there, and a voice must name it; give the "
            "recordings again, or say content=contentvec if they are ContentVec's"
        )
    return made_with


def is_local(embedder: str) -> bool:
    """Whether this is what a voice carries that was trained with a local encoder."""
    return embedder.startswith(_LOCAL)


def programs_note(embedder: str) -> str | None:
    """Which programs convert correctly with a voice, by its `embedder_model` or `content`; None: all do.

    RVC and Applio do not look at the name: RVC gives every voice ContentVec's features, Applio those that are chosen.
    """
    if embedder == "contentvec":
        return None
    if embedder in {"spin", "spin-v2"}:
        return _APPLIO_TOO.format(encoder=embedder)
    if embedder == "local" or is_local(embedder):
        return _WITH_THE_FOLDER
    return _ONLY_HERE
