"""Names of the content encoders in configurations, voices and messages. No torch."""

from rvc_engine.config import ContentEncoder
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig

_EMBEDDERS: dict[ContentEncoder, str] = {
    "contentvec": "contentvec",
    "spin": "spin",
    "spin-v2": "spin-v2",
    "whisper-tiny": "whisper-tiny.en-l2l3",
}
"""Values of `embedder_model` of published encoders: Applio's names where it has them."""
_LOCAL = "local-"
"""Prefix of the name of a user's own HuBERT; the sha256 of its weights follows."""

_ONLY_HERE = "RVC and Applio load it, but it converts correctly only with `rvc-engine convert`"
_APPLIO_TOO = (
    "RVC loads it, but does not convert correctly with it. Applio does where {encoder} is chosen as its embedder model "
    "(it is not chosen automatically), and so does `rvc-engine convert`"
)
_WITH_THE_FOLDER = (
    "RVC loads it, but does not convert correctly with it. Applio does where the same folder is chosen as its custom "
    "embedder model, and so does `rvc-engine convert --content-folder`"
)


def embedder_name(encoder: ContentEncoder, sha256: str | None = None) -> str:
    """Value of `embedder_model` in a voice file: the encoder whose features the voice was trained on.

    `sha256` is the checksum of a local encoder's weights, the only difference between two of them.
    """
    if encoder != "local":
        return _EMBEDDERS[encoder]
    assert sha256 is not None
    return f"{_LOCAL}{sha256}"


def encoder_of(embedder: str | None) -> ContentEncoder:
    """Encoder that a voice needs, by its `embedder_model`; RVC's voices have none and need ContentVec.

    Raises IncompatibleCheckpoint for an unknown encoder: another one would give garbage.
    """
    if embedder is not None and is_local(embedder):
        return "local"
    for encoder, name in _EMBEDDERS.items():
        if name == (embedder or "contentvec"):
            return encoder
    raise IncompatibleCheckpoint(
        f"this voice needs the content encoder {embedder!r}, which this program does not have (it has "
        f"{', '.join(_EMBEDDERS.values())}); convert with the program that made the voice"
    )


def embedder_of_features(encoder: ContentEncoder, made_with: str | None) -> str:
    """Value of `embedder_model` for a voice trained on this encoder's features; `made_with` is what the stage recorded.

    Raises InvalidConfig for features of an unknown local encoder.
    """
    if encoder != "local":
        return embedder_name(encoder)
    if made_with is None or not is_local(made_with):
        raise InvalidConfig(
            "it is not recorded which local encoder made the features in the workspace, and a voice must name it; "
            "provide the recordings again, or set content=contentvec if the features are ContentVec's"
        )
    return made_with


def is_local(embedder: str) -> bool:
    """Whether an `embedder_model` is that of a local encoder."""
    return embedder.startswith(_LOCAL)


def programs_note(embedder: str) -> str | None:
    """Note on the programs that convert correctly with a voice, by its `embedder_model` or `content`; None: all do.

    RVC and Applio ignore the name: RVC uses ContentVec for every voice, Applio the encoder that the user chooses.
    """
    if embedder == "contentvec":
        return None
    if embedder in {"spin", "spin-v2"}:
        return _APPLIO_TOO.format(encoder=embedder)
    if embedder == "local" or is_local(embedder):
        return _WITH_THE_FOLDER
    return _ONLY_HERE
