"""Base classes of the schemas: requests are strict, answers may have further fields."""

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field


class RequestModel(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class ResponseModel(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(
        extra="ignore", use_attribute_docstrings=True, json_schema_serialization_defaults_required=True
    )


DEPRECATED: dict[str, JsonValue] = {"deprecated": True}
"""Schema of a field whose name lacks its unit; a field with the unit has the same value."""


class SizedModel(ResponseModel):
    """Base of answers about bytes."""

    size: int = Field(json_schema_extra=DEPRECATED)
    """`size_bytes` under its old name."""

    @computed_field  # type: ignore[prop-decorator] # as in pydantic's manual
    @property
    def size_bytes(self) -> int:
        """Number of bytes."""
        return self.size


T = TypeVar("T")


class Page(ResponseModel, Generic[T]):
    """Page of a list."""

    # pydantic searches the source around each `Page[...]` for docstrings, and fails there.
    model_config = ConfigDict(use_attribute_docstrings=False)

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = Field(
        default=None, description="Value of `after` for the next page; null on the last one. Opaque."
    )
