"""`rvc-train up`: a server and a worker on this machine, until Ctrl-C."""

import contextlib
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from client.output import Output
from client.services import Services
from client.session import TokenOption, told
from client.settings import resolve

COLOURS = {"server": "cyan", "worker": "magenta"}


class Stopped(BaseException):
    """SIGTERM came. Like KeyboardInterrupt, no `except Exception` may take it."""


def add_to(app: typer.Typer) -> None:
    """Give the command to the program."""
    app.command("up")(told(up))


def up(
    output: Output,
    host: Annotated[
        str,
        typer.Option(envvar="RVC_TRAIN_HOST", help="Address to listen on; beyond this machine it needs a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="RVC_TRAIN_PORT", min=1, max=65_535, help="Port to listen on.")] = 8000,
    data: Annotated[
        Path,
        typer.Option(envvar="RVC_TRAIN_DATA_FOLDER", metavar="DIR", help="Folder for recordings, voices and the book."),
    ] = Path("data"),
    device: Annotated[
        str, typer.Option(envvar="RVC_TRAIN_DEVICE", help="Where to train: auto, cpu or cuda:N.")
    ] = "auto",
    token: TokenOption = None,
) -> None:
    """Start a server and a worker here; Ctrl-C stops both, and what runs goes on at the next start."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    services = Services(
        data_folder=data.resolve(),
        host=host,
        port=port,
        device=device,
        token=resolve(None, token).token,
        relay=lambda name, line: relay(output, name, line),
    )
    with contextlib.suppress(KeyboardInterrupt, Stopped), services:
        output.note(f"ready: {services.url}   data: {services.data_folder}   stop with Ctrl-C")
        if output.as_json:
            output.json({"url": services.url, "data": str(services.data_folder)}, indent=None)
        wait = threading.Event()
        while not wait.wait(0.5):
            services.watch_once()
    output.note("stopped")


def relay(output: Output, name: str, line: str) -> None:
    """A line of a service, on standard error, with its name before it."""
    output.errors.print(Text.assemble((f"{name:<6} │ ", COLOURS.get(name, "")), Text.from_ansi(line)))


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    # A second one must not break into the stopping that the first one began.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
