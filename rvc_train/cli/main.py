"""The program `rvc-train`; its commands are in `rvc_train.cli.commands`."""

import sys

import typer

from rvc_engine.installation import VersionOption
from rvc_engine.translation.program_errors import errors_reported
from rvc_engine.translation.programs import LanguageOption, LogLevelOption, localized
from rvc_train.cli import exit_codes
from rvc_train.cli.commands import (
    access,
    admin,
    base_weights,
    control,
    datasets,
    demo,
    evaluations,
    jobs,
    services,
    setup,
    up,
)
from rvc_train.cli.commands.voices import convert, voices

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Train RVC voices: upload recordings, submit a job, watch it, download the voice.",
    epilog="Exit codes: 0 done, 1 error, 2 usage, 3 no connection, 4 job failed, 5 job cancelled, 6 not allowed, "
    "130 Ctrl-C.",
)
app.add_typer(datasets.app, name="dataset")
app.add_typer(base_weights.app, name="base-weights")
app.add_typer(voices.app, name="voices")
jobs.add_to(app)
control.add_to(app)
evaluations.add_to(app)
convert.add_to(app)
admin.add_to(app)
access.add_to(app)
up.add_to(app)
setup.add_to(app)
demo.add_to(app)
services.add_to(app)


@app.callback()
def options(version: VersionOption = False, lang: LanguageOption = "", log_level: LogLevelOption = "") -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point of the program."""
    with errors_reported():
        try:
            localized(app)()
        except KeyboardInterrupt:
            sys.exit(exit_codes.INTERRUPTED)


if __name__ == "__main__":
    main()
