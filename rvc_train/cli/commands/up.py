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
from rvc_train.cli.session import CommandContext, OutputCommand, TokenOption
from rvc_train.cli.settings import resolve
from rvc_train.errors import UsageError

DEVICE = re.compile(r"^(auto|cpu|cuda(:\d+)?|cuda:\d+(\+cuda:\d+)+)$")
COLOURS = {"server": "cyan", "worker": "magenta"}


class Stopped(BaseException):
    """SIGTERM was received. Like KeyboardInterrupt, it passes every `except Exception`."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("up", cls=OutputCommand)(up)


def up(
    context: CommandContext,
    host: Annotated[
        str,
        typer.Option(envvar="RVC_TRAIN_HOST", help="Address to listen on; other than this machine's it needs a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="RVC_TRAIN_PORT", min=1, max=65_535, help="Port to listen on.")] = 8000,
    data: Annotated[
        Path,
        typer.Option(
            envvar="RVC_TRAIN_DATA_FOLDER", metavar="DIR", help="Folder for recordings, voices and the database."
        ),
    ] = Path("data"),
    device: Annotated[
        str, typer.Option(envvar="RVC_TRAIN_DEVICE", help="Device to train on: auto, cpu or cuda:N.")
    ] = "auto",
    devices: Annotated[
        str | None,
        typer.Option(
            envvar="RVC_TRAIN_DEVICES",
            metavar="DEVICE,...",
            help="Devices with a worker each, such as cuda:0,cuda:1; cuda:0+cuda:1 trains one job on two GPUs.",
        ),
    ] = None,
    token: TokenOption = None,
) -> None:
    """Start a server and workers. Ctrl-C stops them; running jobs continue at the next start."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    output = context.output
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


def _devices(text: str) -> list[str]:
    """Parse devices separated by commas. Raises UsageError."""
    devices = [device.strip() for device in text.split(",") if device.strip()]
    wrong = [device for device in devices if not DEVICE.match(device)]
    if wrong or not devices:
        raise UsageError(
            f"{wrong[0] if wrong else text!r} is not a device; use auto, cpu or cuda:N, with commas between"
        )
    return devices


def relay(output: Output, name: str, line: str) -> None:
    """Print a line of a service on standard error, with the service's name in front."""
    output.errors.print(Text.assemble((f"{name:<6} │ ", COLOURS.get(name.partition(" ")[0], "")), Text.from_ansi(line)))


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the shutdown that the first one started.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
