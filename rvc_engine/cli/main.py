"""The engine's command line: `rvc-engine run`, `report`, `weights`, `convert` and the tools for voices and checkpoints.

torch is imported only by the commands that need it, so that `report` stays light.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from rvc_engine.cli.console import open_report
from rvc_engine.cli.convert import convert, serve_conversions
from rvc_engine.cli.errors import exit_on_error
from rvc_engine.cli.voices import extract, inspect, merge, onnx, reorder_optimizer
from rvc_engine.cli.weights import app as weights_app
from rvc_engine.config import TrainingConfig
from rvc_engine.environment.graphics import let_mps_fall_back
from rvc_engine.environment.processes import STOPS_WITH_PARENT, on_end_of_input
from rvc_engine.environment.text_files import read_text
from rvc_engine.events import EXIT_RESTART, EXIT_STOPPED, EXIT_USAGE
from rvc_engine.installation import VersionOption, missing_package_reported
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.names.voices import check_voice_name
from rvc_engine.translation.program_errors import errors_reported
from rvc_engine.translation.programs import LanguageOption, LogLevelOption, echo, localized
from rvc_engine.workspace.layout import Workspace

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

app = typer.Typer(
    name="rvc-engine",
    help="Make RVC voices from recordings: slices, pitch, content features, training, index, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_JOBS_HELP = "Trainings on the device at once, each with an equal share of its memory."

app.add_typer(weights_app)
app.command()(convert)
app.command(hidden=True)(serve_conversions)
for name, tool in (
    ("inspect", inspect),
    ("extract", extract),
    ("merge", merge),
    ("hand-over", reorder_optimizer),
    ("onnx", onnx),
):
    app.command(name)(tool)


@app.callback()
def options(version: VersionOption = False, lang: LanguageOption = "", log_level: LogLevelOption = "") -> None:
    """Options of the program itself."""


def usage_error(message: str, words: Callable[[str], str] = lambda text: text) -> typer.Exit:
    """Print an error about the options; returns the exit to raise. `words` names options in place of fields."""
    echo(f"error: {message}", err=True, words=words)
    return typer.Exit(EXIT_USAGE)


def describe_faults(error: ValidationError, flags: Mapping[str, str]) -> str:
    """One sentence for each invalid field of a config, named by the flag that set it."""
    return "; ".join(_describe_fault(fault, flags) for fault in error.errors())


def _describe_fault(fault: "ErrorDetails", flags: Mapping[str, str]) -> str:
    name, text = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{flags.get(name, name)}: no such field; use one of {', '.join(TrainingConfig.model_fields)}"
    return f"{flags.get(name, name)}: {text}" if name else text


def config_from(
    options: dict[str, Any],
    flags: Mapping[str, str] = MappingProxyType({}),
    words: Callable[[str], str] = lambda text: text,
) -> TrainingConfig:
    """A config of these fields. Exits when one is invalid.

    For errors, `flags` names the flag of each field, and `words` replaces other names of fields.
    """
    try:
        return TrainingConfig.model_validate(options)
    except ValidationError as error:
        raise usage_error(describe_faults(error, flags), words) from error


def settings_from(settings: list[str]) -> dict[str, Any]:
    """Fields given by `--set name=value` options; a value is parsed as JSON, or else taken as text."""
    import json

    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise usage_error(f"--set takes name=value, such as --set batch_size=8, not {setting!r}")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


def _read_config(path: Path | None, settings: list[str]) -> TrainingConfig:
    import json

    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = json.loads(read_text(path))
        except (OSError, ValueError) as error:
            raise usage_error(f"--config: {path} is not a readable JSON file ({error})") from error
    return config_from({**fields, **settings_from(settings)})


# Long because of its list of options.
@app.command()
def run(
    workspace: Annotated[Path, typer.Option(help="Folder of the run: a new one, or one to resume.")],
    voice: Annotated[str, typer.Option(help="Name of the voice: the stem of its files.")],
    dataset: Annotated[Path | None, typer.Option(help="Folder of recordings.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file of a TrainingConfig; fields left out have their defaults.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="One field of the config, such as batch_size=8; repeatable.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, mps, cuda:<n>, xpu:<n>, or several GPUs for data-parallel training: cuda:0,cuda:1."
        ),
    ] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Data-parallel processes, with --device cpu.")] = 1,
    weights: Annotated[Path | None, typer.Option(help="Folder of published weights.")] = None,
    content_folder: Annotated[
        Path | None, typer.Option(help="Folder of a HuBERT of your own, for content=local.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to share slices, pitch and features with other runs.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    pretrained_g: Annotated[
        Path | None, typer.Option("--pretrained-g", help="Base weights of the generator, instead of the published.")
    ] = None,
    pretrained_d: Annotated[
        Path | None,
        typer.Option("--pretrained-d", help="Base weights of the discriminators, instead of the published."),
    ] = None,
    base_origin: Annotated[
        str | None, typer.Option(help="Where these two files are from, for the voice's own record.")
    ] = None,
    provenance: Annotated[
        Path | None, typer.Option(help="JSON file with the origin of the recordings, for the voice's card.")
    ] = None,
    events: Annotated[
        bool,
        typer.Option(
            "--events", help="Write events as JSON lines; save a checkpoint and stop when standard input ends."
        ),
    ] = False,
    lock_wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another engine in the same workspace.")
    ] = 0,
    jobs_per_device: Annotated[int, typer.Option(min=1, metavar="N", help=_JOBS_HELP)] = 1,
) -> None:
    """Make a voice from a folder of recordings. Run the same command again to resume."""
    from rvc_engine.pipeline.pipeline import StageSelection
    from rvc_engine.pipeline.process import EventLines, StopSwitch, restart, run_engine

    try:
        name = check_voice_name(voice)
    except ValueError as error:
        raise usage_error(f"--voice: {error}") from error
    training = _read_config(config, setting or [])
    folder = weights or default_weights_folder()
    machine = Machine(
        device,
        threads,
        folder,
        cache,
        content_folder=content_folder,
        pretrained_g=pretrained_g,
        pretrained_d=pretrained_d,
        base_origin=base_origin,
        provenance=provenance,
        jobs_per_device=jobs_per_device,
        num_processes=processes,
    )
    switch = StopSwitch()
    switch.on_signals()
    if events:
        switch.on_end_of_input()
    run_workspace = Workspace(workspace, name, training.version)
    with open_report(run_workspace, EventLines(switch) if events else None) as report:
        code = run_engine(dataset, run_workspace, training, machine, report, switch, StageSelection(), lock_wait)
    raise typer.Exit(restart() if code == EXIT_RESTART else code)


@app.command()
def report(
    dataset: Annotated[Path, typer.Argument(help="Folder of recordings.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
) -> None:
    """Report what a dataset holds and whether it can be used, as JSON."""
    from rvc_engine.errors import EngineError
    from rvc_engine.report.report import write_report

    try:
        write_report(dataset, output)
    except EngineError as error:
        raise usage_error(str(error)) from error


@app.command()
def machine(
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure for about 20 seconds how fast the device prepares and trains."),
    ] = False,
    device: Annotated[str, typer.Option(help="Device to measure: auto, cpu, mps, cuda:<n> or xpu:<n>.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    jobs_per_device: Annotated[int, typer.Option(min=1, metavar="N", help=_JOBS_HELP)] = 1,
    stops_with_parent: Annotated[bool, typer.Option(STOPS_WITH_PARENT, hidden=True)] = False,
) -> None:
    """Print the machine's devices, precision and libraries as JSON; with --calibrate its speed."""
    import json

    from rvc_engine.cli.machine_report import calibration_report, machine_report

    if stops_with_parent:
        on_end_of_input(lambda: os._exit(EXIT_STOPPED))  # in the middle of a step: there is nothing to save
    with exit_on_error():
        found = calibration_report(device, threads, jobs_per_device) if calibrate else machine_report()
    typer.echo(json.dumps(found, indent=1))


@app.command()
def configs(
    write: Annotated[Path, typer.Option("--write", help="Folder to write to, such as configs.")],
) -> None:
    """Write RVC's configs/<version>/<rate>.json, to edit for new runs; a file that is there is kept."""
    from rvc_engine.workspace.rvc_files.templates import write_templates

    try:
        for path, is_new in write_templates(write):
            echo(f"{path}: written" if is_new else f"{path}: kept as it is")
    except OSError as error:
        raise usage_error(f"--write: {write} cannot be written to ({error.strerror}); choose another folder") from error


def main() -> None:
    """Entry point."""
    let_mps_fall_back()
    is_child = "--events" in sys.argv  # of a worker, whose log has the standard error of its engines
    with errors_reported(shows_traceback=is_child), missing_package_reported("engine"):
        localized(app, "rvc-engine" if Path(sys.argv[0]).name == "__main__.py" else None)()
