"""`rvc-train up`: a server and workers on this machine, until Ctrl-C."""

import contextlib
import re
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from rvc_train.cli.output import Output
from rvc_train.cli.services import Services
from rvc_train.cli.session import TokenOption, command
from rvc_train.cli.settings import resolve
from rvc_train.errors import UsageError

DEVICE = re.compile(r"^(auto|cpu|cuda(:\d+)?|cuda:\d+(\+cuda:\d+)+)$")
COLOURS = {"server": "cyan", "worker": "magenta"}


class Stopped(BaseException):
    """SIGTERM came. Like KeyboardInterrupt, no `except Exception` may take it."""


def add_to(app: typer.Typer) -> None:
    """Give the command to the program."""
    app.command("up")(command(up))


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
    devices: Annotated[
        str | None,
        typer.Option(
            envvar="RVC_TRAIN_DEVICES",
            metavar="DEVICE,...",
            help="A worker for each, such as cuda:0,cuda:1; with cuda:0+cuda:1 two train one job together.",
        ),
    ] = None,
    token: TokenOption = None,
) -> None:
    """Start a server and workers here; Ctrl-C stops all, and what runs goes on at the next start."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    services = Services(
        data_folder=data.resolve(),
        host=host,
        port=port,
        devices=_devices(device if devices is None else devices),
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


def _devices(words: str) -> list[str]:
    """One for each worker. UsageError for a word that names none."""
    devices = [word.strip() for word in words.split(",") if word.strip()]
    wrong = [word for word in devices if not DEVICE.match(word)]
    if wrong or not devices:
        raise UsageError(
            f"{wrong[0] if wrong else words!r} is no device; name auto, cpu or cuda:N, with commas between"
        )
    return devices


def relay(output: Output, name: str, line: str) -> None:
    """A line of a service, on standard error, with its name before it."""
    output.errors.print(Text.assemble((f"{name:<6} │ ", COLOURS.get(name.partition(" ")[0], "")), Text.from_ansi(line)))


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    # A second one must not break into the stopping that the first one began.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
