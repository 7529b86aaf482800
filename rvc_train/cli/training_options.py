"""An option for each field of `TrainingConfig`, made from the field itself, so that no choice lacks its help."""

import inspect
import json
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from rvc_engine.config import TrainingConfig
from rvc_train.errors import UsageError


def with_training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Append an option for each field to a command; it gets those that were given as the keyword `choices`."""
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
    """The config of a JSON file (or none) with single choices over it. Raises UsageError naming the option at fault."""
    written: Any = {}
    if file is not None:
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"the config file {file} cannot be read ({error}); give a JSON object") from error
        if not isinstance(written, dict):
            raise UsageError(f"the config file {file} holds no JSON object of training options")
    try:
        return TrainingConfig.model_validate(written | choices)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "the options"
        raise UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """A keyword parameter whose default None says that nothing was chosen."""
    option = name.replace("_", "-")
    help_text = " ".join((field.description or "").split())
    settings: dict[str, Any] = {"help": help_text, "show_default": _shown(field.default), "rich_help_panel": "Training"}
    kinds = _kinds(field.annotation)
    kind = kinds[0] if len(kinds) == 1 else str  # a number or a word, such as `auto`
    if get_origin(kind) is Literal:
        words = tuple(str(word) for word in get_args(kind))
        annotation: Any = Annotated[Literal[words] | None, typer.Option(f"--{option}", **settings)]
    elif kind is bool:
        annotation = Annotated[bool | None, typer.Option(f"--{option}/--no-{option}", **settings)]
    else:
        annotation = Annotated[kind | None, typer.Option(f"--{option}", **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kinds(annotation: Any) -> list[Any]:
    """What a field may be, but for None: `[float]` of `float | None`."""
    if get_origin(annotation) in {typing.Union, types.UnionType}:
        return [kind for kind in get_args(annotation) if kind is not types.NoneType]
    return [annotation]


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "not set" if default is None else str(default)


def _value(name: str, value: Any) -> Any:
    """A word of the command line as the field's own type (the choices of `width` are numbers)."""
    kinds = _kinds(TrainingConfig.model_fields[name].annotation)
    for word in (word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)):
        if str(word) == value:
            return word
    is_number = len(kinds) > 1 and value.lstrip("-").isdigit()
    return int(value) if is_number else value  # what is neither is the config's to refuse
