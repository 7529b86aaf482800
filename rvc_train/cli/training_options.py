"""Command line options for the fields of `TrainingConfig`, generated with their help from the fields."""

import inspect
import json
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from rvc_engine.config import TrainingConfig
from rvc_engine.environment.text_files import read_text
from rvc_train.cli.validation import validated
from rvc_train.errors import UsageError
from rvc_train.schemas.jobs import JOB_DEFAULTS


def with_training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Append an option for each field to a command, which gets the given ones as the keyword `choices`."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "choices"]
    fields = {name: _parameter(name, field) for name, field in TrainingConfig.model_fields.items()}

    def command(*args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name, None) for name in fields}
        choices = {name: _value(name, value) for name, value in given.items() if value is not None}
        function(*args, **kwargs, choices=choices)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    vars(command)["__signature__"] = signature.replace(parameters=[*own, *fields.values()])
    return command


def training_config(file: Path | None, choices: dict[str, Any]) -> TrainingConfig:
    """The config of a JSON file, if any, overridden by `choices`. Raises UsageError that names the wrong option."""
    content: Any = {}
    if file is not None:
        try:
            content = json.loads(read_text(file))
        except (OSError, ValueError) as error:
            raise UsageError(f"the config file {file} cannot be read ({error}); give a JSON object") from error
        if not isinstance(content, dict):
            raise UsageError(f"the config file {file} is not a JSON object of training options")
    return validated(TrainingConfig, content | choices)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Keyword parameter for a field, with the default None for an option that is not given."""
    option = name.replace("_", "-")
    help_text = " ".join((field.description or "").split())
    settings: dict[str, Any] = {"help": help_text, "rich_help_panel": "Training"}
    settings["show_default"] = _shown(JOB_DEFAULTS.get(name, field.default))
    kinds = _kinds(field.annotation)
    kind = kinds[0] if len(kinds) == 1 else str  # a number or a text, such as `auto`
    if get_origin(kind) is Literal:
        values = tuple(str(value) for value in get_args(kind))
        annotation: Any = Annotated[Literal[values] | None, typer.Option(f"--{option}", **settings)]
    elif kind is bool:
        annotation = Annotated[bool | None, typer.Option(f"--{option}/--no-{option}", **settings)]
    else:
        annotation = Annotated[kind | None, typer.Option(f"--{option}", **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kinds(annotation: Any) -> list[Any]:
    """Types of an annotation without None: `[float]` for `float | None`."""
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        return [kind for kind in get_args(annotation) if kind is not types.NoneType]
    return [annotation]


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "not set" if default is None else str(default)


def _value(name: str, value: Any) -> Any:
    """Convert a text of the command line to the field's type (the literals of `width` are numbers)."""
    kinds = _kinds(TrainingConfig.model_fields[name].annotation)
    for literal in (literal for kind in kinds if get_origin(kind) is Literal for literal in get_args(kind)):
        if str(literal) == value:
            return literal
    is_number = len(kinds) > 1 and value.lstrip("-").isdigit()
    return int(value) if is_number else value  # TrainingConfig rejects anything else
