"""Kinds of commands: with --json, or with --server, --token and --json; both report expected errors in one sentence.

A command is registered with `app.command(cls=ApiCommand)` and takes the Session as its first parameter.
"""

import traceback
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, NoReturn

import httpx
import typer
from typer.core import TyperCommand

from rvc_engine.translation.program_errors import describe, is_debugging
from rvc_train.cli import exit_codes
from rvc_train.cli.output import Output, set_server_time
from rvc_train.cli.settings import Connection, resolve
from rvc_train.client import Client, connect
from rvc_train.errors import AuthError, ClientError, ConnectionFailed, UsageError
from rvc_train.http.authorization import local_file_fault

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="Address of the server. Default: RVC_TRAIN_SERVER or the config file."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="Token for the server. Default: RVC_TRAIN_TOKEN, the local one of a server here, or the config file.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]


_REPORTED = (ClientError, OSError, ImportError, UnicodeError, MemoryError, httpx.HTTPError, httpx.InvalidURL)
"""Errors of a command that are reported here, with --json as JSON; others are reported by the entry point."""
EXIT_CODES = {
    ConnectionFailed: exit_codes.NO_CONNECTION,
    AuthError: exit_codes.NOT_ALLOWED,
    UsageError: exit_codes.USAGE,
}


class CommandContext(typer.Context):
    """Context of a command with --json."""

    shared_options: dict[str, Any]

    @cached_property
    def output(self) -> Output:
        """Output for the command's results."""
        return Output(as_json=self.shared_options["json"])


class Session(CommandContext):
    """Context of a command that calls the server."""

    @cached_property
    def connection(self) -> Connection:
        """Address and token of the server. Raises UsageError."""
        return resolve(self.shared_options["server"], self.shared_options["token"])

    @cached_property
    def client(self) -> Client:
        """Client of the server, closed at the end of the command. Raises UsageError."""
        found = self.connection
        http = connect(found.server, found.token or "", found.token_source)
        http.event_hooks = {"response": [lambda answer: set_server_time(answer.headers.get("Date", ""))]}
        return Client(self.with_resource(http))


def _options_of(declare: Callable[..., None]) -> list[Any]:
    """The options that the annotations of a function declare."""
    app = typer.Typer(add_completion=False)
    app.command()(declare)
    return list(typer.main.get_command(app).params)


@_options_of
def _json_options(json: JsonOption = False) -> None: ...


@_options_of
def _api_options(server: ServerOption = None, token: TokenOption = None, json: JsonOption = False) -> None: ...


class OutputCommand(TyperCommand):
    """Command with --json, whose first parameter is a CommandContext."""

    context_class = CommandContext
    shared_options = _json_options

    def __init__(self, *args: Any, params: list[Any], **settings: Any) -> None:
        super().__init__(*args, params=[*params, *self.shared_options], **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and report its errors."""
        ctx.shared_options = {option.name: ctx.params.pop(option.name) for option in self.shared_options}
        try:
            return super().invoke(ctx)
        except _REPORTED as error:
            _fail(error, ctx.output)


class ApiCommand(OutputCommand):
    """Command with --server, --token and --json, whose first parameter is a Session."""

    context_class = Session
    shared_options = _api_options


def _fail(error: Exception, output: Output) -> NoReturn:
    """Print an error and exit."""
    if isinstance(error, BrokenPipeError):
        raise error  # the reading end of a pipe is closed (`| head`); the program ends silently
    if is_debugging():
        traceback.print_exception(error)
    text = str(error) if isinstance(error, ClientError) else describe(error)
    if isinstance(error, AuthError) and error.problem.status == httpx.codes.UNAUTHORIZED:
        text += "; give the server's token with --token or RVC_TRAIN_TOKEN"
        text += f"; {fault}" if (fault := local_file_fault()) else ""
    output.error(text)
    exit_code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), exit_codes.ERROR)
    if output.as_json:
        output.json({"error": text, "exit_code": exit_code})
    raise typer.Exit(exit_code)
