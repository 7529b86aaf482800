"""Errors of the engine as a message and an exit code instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rvc_engine.errors import EngineError
from rvc_engine.events import EXIT_FAILED, EXIT_USAGE
from rvc_engine.translation.programs import echo


@contextmanager
def exit_on_error(usage_error: type[EngineError] | None = None) -> Iterator[None]:
    """Print the message of an EngineError and exit: code 2 for `usage_error`, 1 for all others."""
    try:
        yield
    except EngineError as error:
        echo(f"error: {error}", err=True)
        is_usage = usage_error is not None and isinstance(error, usage_error)
        raise typer.Exit(EXIT_USAGE if is_usage else EXIT_FAILED) from error
