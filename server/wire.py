"""What all wire shapes are: what a caller sends is strict, what the server sends may grow."""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """Base of everything a caller sends."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class Answer(BaseModel):
    """Base of everything the server sends."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)
