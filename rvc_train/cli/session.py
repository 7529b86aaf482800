"""What every command of the line has: a server, a token, an output, and errors told in one sentence."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import httpx
import typer

from rvc_train.cli import exit_codes
from rvc_train.cli.output import Output
from rvc_train.cli.settings import resolve
from rvc_train.client import Client, connect
from rvc_train.errors import AuthError, ClientError, ConnectionFailed, UsageError

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Address of the server. Else RVC_TRAIN_SERVER, or the config file."),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="Token of the server. Else RVC_TRAIN_TOKEN, or the config file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    client: Client
    output: Output


def exit_code_of(error: ClientError | OSError) -> int:
    """The exit code that tells a script what kind of error it was."""
    match error:
        case ConnectionFailed():
            return exit_codes.NO_CONNECTION
        case AuthError():
            return exit_codes.NOT_ALLOWED
        case UsageError():
            return exit_codes.USAGE
        case _:
            return exit_codes.ERROR


def fail(error: ClientError | OSError, output: Output) -> NoReturn:
    """Tell an expected error and end. An OSError is a file that cannot be read or written here."""
    if isinstance(error, BrokenPipeError):
        raise error  # whoever read our output has enough (`| head`); the program ends without a word
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    if isinstance(error, AuthError) and error.problem.status == httpx.codes.UNAUTHORIZED:
        text += "; give the server's token with --token or RVC_TRAIN_TOKEN"
    output.error(text)
    if output.as_json:
        output.json({"error": text, "exit_code": exit_code_of(error)})
    raise typer.Exit(exit_code_of(error))


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --json; it gets an Output as its first argument, and its ClientErrors are reported."""

    def run(json: bool, *args: Any, **kwargs: Any) -> None:
        output = Output(as_json=json)
        try:
            function(output, *args, **kwargs)
        except (ClientError, OSError) as error:
            fail(error, output)

    return _with_options(function, run, {"json": (JsonOption, False)})


def api_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --server, --token and --json; it gets a Session as its first argument; its errors are reported."""

    def run(server: str | None, token: str | None, json: bool, *args: Any, **kwargs: Any) -> None:
        output = Output(as_json=json)
        try:
            where = resolve(server, token)
            with connect(where.server, where.token) as http:
                function(Session(Client(http), output), *args, **kwargs)
        except (ClientError, OSError) as error:
            fail(error, output)

    options = {"server": (ServerOption, None), "token": (TokenOption, None), "json": (JsonOption, False)}
    return _with_options(function, run, options)


def _with_options(
    function: Callable[..., Any], run: Callable[..., None], options: dict[str, tuple[Any, Any]]
) -> Callable[..., Any]:
    """`run` under `function`'s name, with its parameters but the first, and the options behind them."""
    signature = inspect.signature(function)
    own = list(signature.parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]

    @functools.wraps(function)
    def command(**kwargs: Any) -> None:
        taken = {name: kwargs.pop(name) for name in options}
        run(**taken, **kwargs)

    vars(command)["__signature__"] = signature.replace(parameters=[*own, *added])
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
    del command.__wrapped__
    return command
