"""Programs in the user's language: the option `--lang`, the texts of the help, and the entry point. No torch."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, TextIO

import typer

from rvc_engine.translation.messages import ENGLISH, available, translated, translated_word, use_language

LanguageOption = Annotated[
    str,
    typer.Option(
        "--lang",
        metavar="LANGUAGE",
        help="Language of help and messages: en or zh. Default: that of LANG. Accepted after a command too.",
    ),
]
"""For the help alone: `localized` takes the option out of the arguments."""
LogLevelOption = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        help="debug: show the traceback of an unexpected error. Accepted after a command too.",
    ),
]
"""For the help alone, as `LanguageOption`: `localized` puts the level into the variable `LEVEL_VARIABLE`."""
LEVEL_VARIABLE = "RVC_TRAIN_LOG_LEVEL"
LEVELS = ("debug", "info", "warning", "error")
SHOWN_TEXTS = ("help", "short_help", "epilog", "rich_help_panel")


def echo(text: str, *, err: bool = False, words: Callable[[str], str] = lambda text: text) -> None:
    """Print a message in the user's language. `err`: on standard error. `words`: last changes of its words."""
    typer.echo(words(translated(text)), err=err)


def localized(app: typer.Typer, name: str | None = None, *, takes_level: bool = True) -> Callable[[], Any]:
    """A program with the arguments of the process, in the user's language.

    `name`: its name in the help. `takes_level`: False for a program with an option `--log-level` of its own.
    """
    arguments = sys.argv[1:]
    wanted = take_language(arguments)
    level = take_option("--log-level", arguments) if takes_level else None
    language = use_language(wanted if all(map(_has_chinese, (sys.stdout, sys.stderr))) else ENGLISH)
    if wanted is not None and available(wanted) is None:
        echo(f"error: --lang: there are no messages in the language {wanted!r}; use en or zh", err=True)
        sys.exit(2)
    if level is not None:
        if level.lower() not in LEVELS:
            echo(f"error: --log-level: {level!r} is no level; use debug, info, warning or error", err=True)
            sys.exit(2)
        os.environ[LEVEL_VARIABLE] = level.lower()  # also that of programs that this one starts
    command: Any = typer.main.get_command(app)
    if language != ENGLISH:
        translate_help(command)
        fold_words_of_help()
        for step in ("make_context", "invoke"):
            setattr(command, step, _with_translated_errors(getattr(command, step)))
    return partial(command, arguments, prog_name=name)


def _has_chinese(output: TextIO) -> bool:
    """Whether the encoding of an output has Chinese letters."""
    try:
        "中文".encode(output.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def take_language(arguments: list[str]) -> str | None:
    """Take `--lang LANGUAGE` and `--lang=LANGUAGE` out of the arguments; returns the last one's language."""
    return take_option("--lang", arguments)


def take_option(option: str, arguments: list[str]) -> str | None:
    """Take an option with its value out of the arguments; returns the last one's value, None without one."""
    value, rest = None, iter(list(arguments))
    arguments.clear()
    for argument in rest:
        if argument == "--":
            arguments += [argument, *rest]
        elif argument.startswith(f"{option}="):
            value = argument.removeprefix(f"{option}=")
        elif argument == option:
            value = next(rest, "")
        else:
            arguments.append(argument)
    return value


def translate_help(command: Any) -> None:
    """Translate the help of a command of Click, of its options and of its subcommands."""
    for shown in (command, *command.params):
        for attribute in SHOWN_TEXTS:
            text = getattr(shown, attribute, None)
            if isinstance(text, str):
                setattr(shown, attribute, translated(text))
        default = getattr(shown, "show_default", None)
        if isinstance(default, str):
            shown.show_default = translated_word("default", default)
    _translate_generated_texts(command)
    subcommands: Mapping[str, Any] = getattr(command, "commands", {})
    for subcommand in subcommands.values():
        translate_help(subcommand)


def _translate_generated_texts(command: Any) -> None:
    """Translate what a command makes when its help is shown: the usage line and the option `--help`."""
    get_usage, get_help_option = command.get_usage, command.get_help_option

    def translated_usage(context: Any) -> str:
        usage: str = get_usage(context)
        return usage.replace("Usage: ", translated("Usage: "), 1)

    def translated_help_option(context: Any) -> Any:
        option = get_help_option(context)
        if option is not None:
            option.help = translated(option.help)
        return option

    command.get_usage, command.get_help_option = translated_usage, translated_help_option


def fold_words_of_help() -> None:
    """Make Typer fold words that are longer than a line of the help: Rich cuts them off, and Chinese has no spaces."""
    from typer import rich_utils

    make_text = getattr(rich_utils, "_make_rich_text", None)
    if make_text is None:  # another version of Typer
        return

    def make_folding_text(**settings: Any) -> Any:
        text = make_text(**settings)
        text.overflow = "fold"
        return text

    vars(rich_utils)["_make_rich_text"] = make_folding_text


def _with_translated_errors(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of Click whose errors have a translated message."""

    def translating(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except Exception as error:
            if hasattr(error, "format_message"):  # an error of Click, or of the copy of it in Typer
                text = translated(error.format_message().replace("Value error, ", "", 1))  # pydantic's beginning
                vars(error)["format_message"] = lambda: text
            raise

    return translating
