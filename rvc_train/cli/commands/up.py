"""`rvc-train up`: a server and workers on this machine, until Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from itertools import islice
from types import FrameType
from typing import Annotated

import typer
from rich.text import Text

from rvc_engine.environment.disks import synchronised_text, synchronising_program
from rvc_engine.environment.processes import on_stop_signals
from rvc_engine.translation.characters import has_every_character
from rvc_engine.translation.messages import translated
from rvc_train.cli.browser import has_display, open_browser, qr_code, shared_address, sign_in_link
from rvc_train.cli.commands.setup import DataOption, prepare
from rvc_train.cli.data_folders import default_data_folder, is_data_folder, last_data_folder, remember_data_folder
from rvc_train.cli.output import Output
from rvc_train.cli.services import Services
from rvc_train.cli.session import CommandContext, OutputCommand
from rvc_train.cli.settings import DEFAULT_SERVER, TOKEN_VARIABLE
from rvc_train.client import Client, connect
from rvc_train.errors import ClientError, UsageError
from rvc_train.http.authorization import recorded_token
from rvc_train.local_servers import is_loopback
from rvc_train.schemas.jobs import JobStatus

DEVICE = re.compile(r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?|cuda:\d+(\+cuda:\d+)+)$")
MOST_COUNTED = 2000
MARKS = frozenset({"level", "logger", "timestamp", "request_id"})
"""Fields of a log line for programs that read it."""
COLOURS = {"server": "cyan", "worker": "magenta"}


class Stopped(BaseException):
    """SIGTERM was received. Like KeyboardInterrupt, it passes every `except Exception`."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("up", cls=OutputCommand)(up)


# Long because of its list of options.
def up(
    context: CommandContext,
    host: Annotated[
        str,
        typer.Option(envvar="RVC_TRAIN_HOST", help="Address to listen on. Default: of this machine only."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="RVC_TRAIN_PORT", min=1, max=65_535, help="Port to listen on.")] = 8000,
    data: DataOption = None,
    device: Annotated[
        str,
        typer.Option(
            envvar="RVC_TRAIN_DEVICE", help="Device to train on: auto, cpu, cuda:N, xpu:N (Intel) or mps (Apple)."
        ),
    ] = "auto",
    devices: Annotated[
        str | None,
        typer.Option(
            envvar="RVC_TRAIN_DEVICES",
            metavar="DEVICE,...",
            help="Devices with a worker each, such as cuda:0,cuda:1; cuda:0+cuda:1 trains one job on two GPUs.",
        ),
    ] = None,
    jobs_per_device: Annotated[
        int,
        typer.Option(
            envvar="RVC_TRAIN_JOBS_PER_DEVICE",
            min=1,
            max=16,
            metavar="N",
            help="Jobs at once on each device, with a share of it each.",
        ),
    ] = 1,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="The server's administrator token. Default: RVC_TRAIN_TOKEN, or a local token that the client finds.",
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Do not open the page in a browser at the first start.")
    ] = False,
    setup: Annotated[
        bool, typer.Option("--setup", help="Download first the published weights that a good voice needs.")
    ] = False,
) -> None:
    """Start a server and workers. Ctrl-C stops them; running jobs continue at the next start."""
    on_stop_signals(_raise_stopped, is_ctrl_c_kept=True)
    output = context.output
    folder = (data or default_data_folder()).resolve()
    services = Services(
        data_folder=folder,
        host=host,
        port=port,
        devices=_devices(device if devices is None else devices),
        jobs_per_device=jobs_per_device,
        token=token or os.environ.get(TOKEN_VARIABLE) or None,
        relay=lambda name, line: relay(output, name, line),
    )
    is_new, last = not is_data_folder(folder), last_data_folder()
    may_open = not no_browser and is_new
    if is_new and last not in {None, folder}:
        output.note(f"{folder} is new; the data folder used last is {last}: for its voices, start with --data {last}")
    if (program := synchronising_program(folder)) is not None:
        output.warning(synchronised_text(folder, program))
    with contextlib.suppress(KeyboardInterrupt, Stopped), contextlib.ExitStack() as stack:
        if setup or is_new:
            prepare(output, folder, fetches=setup)
        stack.enter_context(services)
        remember_data_folder(folder)
        contents = _contents(services)
        output.note(f"ready: {services.url}   data: {services.data_folder}   stop with Ctrl-C")
        if contents is not None:
            output.note(f"in {folder}: voices: {contents['num_voices']}, jobs: {contents['num_jobs']}")
        if output.as_json:
            output.json({"url": services.url, "data": str(folder), **(contents or {})}, indent=None)
        print_sign_in(output, services, may_open=may_open)
        while not _is_stopped():
            services.watch_once()
            time.sleep(0.5)
    output.note("stopped")


def _contents(services: Services) -> dict[str, int] | None:
    """Numbers of voices and jobs, of the newest MOST_COUNTED jobs; None where the server's token is not found."""
    try:
        with Client(connect(services.url, services.token)) as client:
            jobs = list(islice(client.jobs(limit=500), MOST_COUNTED))
    except ClientError:
        return None
    return {"num_voices": sum(job.status == JobStatus.SUCCEEDED for job in jobs), "num_jobs": len(jobs)}


def _devices(text: str) -> list[str]:
    """Parse devices separated by commas. Raises UsageError."""
    devices = [device.strip() for device in text.split(",") if device.strip()]
    wrong = [device for device in devices if not DEVICE.match(device)]
    if wrong or not devices:
        raise UsageError(
            f"{wrong[0] if wrong else text!r} is not a device; use auto, cpu, cuda:N, xpu:N or mps, with commas between"
        )
    return devices


def print_sign_in(output: Output, services: Services, *, may_open: bool) -> None:
    """Print how to sign in to the page, on a terminal with links; `may_open`: open it where there is a display."""
    if output.as_json:
        return
    shared = shared_address(services.host, services.port)
    if services.token is None and not is_loopback(services.host):
        output.note(
            f"other machines reach this server at {services.host}, and its only token is the one that "
            f"`rvc-train token show --server {services.url}` prints"
        )
    if not sys.stdout.isatty():  # a link has a code, which belongs in no log
        is_found = services.url == DEFAULT_SERVER  # by `open` without an option
        output.note(
            "sign in to the page with `rvc-train open`"
            if is_found
            else f"sign in to the page with `rvc-train open --server {services.url}`"
        )
        if shared is not None:
            output.note(f"the page for other devices is at {shared}")
        return
    try:
        token = services.token or recorded_token(services.url)  # its own server, whatever its address
        with connect(services.url, token) as http:
            client = Client(http)
            link = sign_in_link(client, services.url)
            shared_link = None if shared is None else sign_in_link(client, shared)
    except ClientError:  # without a config folder the server printed its token; it is sent to loopback only
        output.note(f"sign in at {shared or services.url}/sign-in with the server's token")
        return
    is_opened = may_open and has_display() and open_browser(link)
    output.note(f"opened {services.url} in the browser" if is_opened else f"sign in, within ten minutes, at {link}")
    if shared_link is not None:
        output.note(f"from another device, within ten minutes, at {shared_link}")
        if has_every_character(sys.stdout.encoding):
            output.note(qr_code(shared_link))


def relay(output: Output, name: str, line: str) -> None:
    """Print a line of a service on standard error, its name in front; on a terminal as people read it."""
    if output.errors.is_terminal:
        shown = in_words(line)
        if shown is None:
            return
        line = shown
    output.errors.print(Text.assemble((f"{name:<6} │ ", COLOURS.get(name.partition(" ")[0], "")), Text.from_ansi(line)))


def in_words(line: str) -> str | None:
    """A line of the server's log, which is JSON, as people read it; None for its routine, such as answered requests.

    The page alone sends a request every two seconds: in a minute the link that signs in would be out of sight.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    event, level = str(entry.pop("event")), entry.get("level", "info")
    is_of_routine = event == "request" or str(entry.get("logger")).startswith("uvicorn")
    if level in {"debug", "info"} and is_of_routine and entry.get("status", 0) < 500:
        return None
    details = [f"{name}={value}" for name, value in entry.items() if name not in MARKS]
    return "  ".join([translated(event) if level == "info" else f"{level}: {translated(event)}", *details])


def _is_stopped() -> bool:
    """Whether SIGTERM was received: its exception is lost where Python runs a hook, such as those around a fork."""
    return signal.getsignal(signal.SIGTERM) is _pass_over


def _raise_stopped(number: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the shutdown that the first one started.
    on_stop_signals(_pass_over, is_ctrl_c_kept=True)
    raise Stopped


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Handler in place of SIG_IGN, which child processes would inherit."""
