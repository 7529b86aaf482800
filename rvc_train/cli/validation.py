"""Validation of values from the command line, with errors that name the option."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rvc_train.errors import UsageError

M = TypeVar("M", bound=BaseModel)


def validated(shape: type[M], fields: Mapping[str, Any], options: Mapping[str, str] | None = None) -> M:
    """Validate fields. Raises UsageError.

    `options`: option or argument of each field; default: `--max-train-seconds` for `max_train_seconds`.
    """
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        option = (options or {}).get(field, f"--{field.replace('_', '-')}") if field else "the options"
        raise UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error
