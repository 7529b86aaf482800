"""The name of a voice in a path."""

from typing import Annotated

from fastapi import Path

from rvc_engine.names.voices import check_voice_name
from server.errors import NotFound
from server.job_store.versions import VoiceKey

VoiceNameInPath = Annotated[str, Path(max_length=400)]


def key_in_path(owner: str, name: str) -> VoiceKey:
    """The voice, with its name as jobs have it. NotFound for text that is no voice's name."""
    try:
        return VoiceKey(owner, check_voice_name(name))
    except ValueError as error:
        raise NotFound(f"there is no voice {name!r}") from error
