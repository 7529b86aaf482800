"""The option `--version` of the programs. No torch."""

from importlib.metadata import distribution
from typing import Annotated

import typer

from rvc_engine.installation import DISTRIBUTION


def show_version(is_given: bool) -> None:
    """Callback of an option `--version`: print the version of this installation and end."""
    if is_given:
        typer.echo(distribution(DISTRIBUTION).version)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
"""The option `--version` of both programs."""
