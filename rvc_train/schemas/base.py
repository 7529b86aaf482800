"""What all wire shapes are: what a caller sends is strict, what the server sends may grow."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict


class RequestModel(BaseModel):
    """Base of everything a caller sends."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class ResponseModel(BaseModel):
    """Base of everything the server sends."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


T = TypeVar("T")


class Page(ResponseModel, Generic[T]):
    """A piece of a list."""

    # pydantic looks for docstrings in the source around each `Page[...]`, and stumbles over it.
    model_config = ConfigDict(use_attribute_docstrings=False)

    data: list[T]
    has_more: bool
    next_cursor: str | None
