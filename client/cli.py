"""`rvc-train`: the program. Its commands stand in `dataset_commands`, `job_commands`, `save_commands` and `up`."""

import subprocess
import sys
from importlib.util import find_spec

import typer

from client import (
    access_commands,
    dataset_commands,
    exit_codes,
    job_commands,
    keeper_commands,
    save_commands,
    steering_commands,
    up,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Make RVC voices: upload recordings, submit a job, watch it, download the voice.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 no connection, 4 job failed, 5 job cancelled, 6 not allowed, "
    "130 Ctrl-C.",
)
app.add_typer(dataset_commands.app, name="dataset")
job_commands.add_to(app)
steering_commands.add_to(app)
save_commands.add_to(app)
keeper_commands.add_to(app)
access_commands.add_to(app)
up.add_to(app)


@app.command(
    "admin",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def admin(context: typer.Context) -> None:
    """For the server's keeper, on its machine: doctor, backup, adopt, gc, migrate, force-fail, token."""
    if find_spec("sqlmodel") is None:
        sys.stderr.write("error: the server is not installed here; install it with: pip install 'rvc-train[server]'\n")
        sys.exit(exit_codes.USAGE)
    sys.exit(subprocess.call([sys.executable, "-m", "server.admin", *context.args]))


def main() -> None:
    """Entry point of the program."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)


if __name__ == "__main__":
    main()
