"""Install command for an extra of this package in the running environment. No torch."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from urllib.request import url2pathname

import typer

from rvc_engine.environment.shells import shell_words
from rvc_engine.translation.messages import use_language
from rvc_engine.translation.programs import echo, take_language

DISTRIBUTION = "rvc-train"
FOLDER = Path(__file__).resolve().parent.parent
"""Folder that contains the package: a checkout, or site-packages."""


def install_command(extra: str) -> str:
    """A `pip install` command that adds `extra` from the origin of the running installation.

    The package is on no index, and anyone who registers its name there could run code here: so the command has a
    folder, a file or an address, never the bare name. For an installation without a recorded origin (PEP 610) it has
    the file name of a release's wheel.
    """
    return f"pip install {_requirement(extra)}"


@contextmanager
def missing_package_reported(extra: str) -> Iterator[None]:
    """Exit with code 2 and a message when a package of `extra` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"rvc_train", "rvc_engine", "server", "worker"}:
            raise  # a bug of ours, not a missing extra
        use_language(take_language(sys.argv[1:]))
        echo(
            f"error: this program needs the package {error.name}, which is not installed; install everything it "
            f"needs with: {install_command(extra)}",
            err=True,
        )
        sys.exit(2)


def _requirement(extra: str) -> str:
    if (FOLDER / "pyproject.toml").is_file():  # a checkout, installed as editable or not at all
        return f"-e {shell_words(f'{FOLDER}[{extra}]')}"
    ours = distribution(DISTRIBUTION)
    origin = json.loads(ours.read_text("direct_url.json") or "{}")
    address = origin.get("url", "")
    if not address:
        return shell_words(f"./rvc_train-{ours.version}-py3-none-any.whl[{extra}]")
    if "vcs_info" in origin:
        return shell_words(f"{DISTRIBUTION}[{extra}] @ {origin['vcs_info']['vcs']}+{address}")
    if urlsplit(address).scheme != "file":
        return shell_words(f"{DISTRIBUTION}[{extra}] @ {address}")
    return shell_words(f"{url2pathname(urlsplit(address).path)}[{extra}]")


def show_version(is_given: bool) -> None:
    """Callback of an option `--version`: print the version of this installation and end."""
    if is_given:
        typer.echo(distribution(DISTRIBUTION).version)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
"""The option `--version` of both programs."""
