"""The engine's command line: `rvc-engine run`, `report`, `weights`, `convert` and the tools for voices and checkpoints.

torch is imported only by the commands that need it, so that `report` stays light.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from rvc_engine.cli.convert import convert
from rvc_engine.cli.voices import extract, inspect, merge, onnx, reorder_optimizer
from rvc_engine.cli.weights import app as weights_app
from rvc_engine.config import TrainingConfig, check_voice_name
from rvc_engine.errors import DiskFull, InvalidConfig
from rvc_engine.events import EXIT_FAILED, EXIT_USAGE, Failed
from rvc_engine.installation import missing_package_reported
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.reporting import Report
from rvc_engine.workspace.disk import is_disk_full
from rvc_engine.workspace.layout import Workspace

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from rvc_engine.pipeline.pipeline import StageSelection

app = typer.Typer(
    name="rvc-engine",
    help="Make RVC voices from recordings: slices, pitch, content features, training, index, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(weights_app)
app.command()(convert)
for name, tool in (
    ("inspect", inspect),
    ("extract", extract),
    ("merge", merge),
    ("hand-over", reorder_optimizer),
    ("onnx", onnx),
):
    app.command(name)(tool)


def usage_error(message: str) -> typer.Exit:
    """Say what is wrong with the options, and the exit to raise."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(EXIT_USAGE)


def describe_faults(error: ValidationError, flags: Mapping[str, str]) -> str:
    """Every wrong field of a config in one sentence each, by the flag that the person gave it with."""
    return "; ".join(_describe_fault(fault, flags) for fault in error.errors())


def _describe_fault(fault: "ErrorDetails", flags: Mapping[str, str]) -> str:
    name, text = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{flags.get(name, name)}: there is no such field; choose among {', '.join(TrainingConfig.model_fields)}"
    return f"{flags.get(name, name)}: {text}" if name else text


def config_from(options: dict[str, Any], flags: Mapping[str, str] = MappingProxyType({})) -> TrainingConfig:
    """A config of the given fields; `flags` tells by which flag each was given. Exits with what is wrong."""
    try:
        return TrainingConfig.model_validate(options)
    except ValidationError as error:
        raise usage_error(describe_faults(error, flags)) from error


def settings_from(settings: list[str]) -> dict[str, Any]:
    """The fields that `--set name=value` options give; a value is JSON, or else text."""
    import json

    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise usage_error(f"--set takes name=value, such as --set batch_size=8, and got {setting!r}")
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
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise usage_error(f"--config: {path} is no readable JSON file ({error})") from error
    return config_from({**fields, **settings_from(settings)})


@app.command()
def run(
    workspace: Annotated[Path, typer.Option(help="Folder of the run; it is made, or gone on with.")],
    voice: Annotated[str, typer.Option(help="Name of the voice: the stem of its files.")],
    dataset: Annotated[Path | None, typer.Option(help="Folder of recordings.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file of a TrainingConfig; defaults for what it omits.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="One field of the config, such as batch_size=8; repeatable.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda:<number>, or several GPUs that train together: cuda:0,cuda:1.")
    ] = "auto",
    processes: Annotated[int, typer.Option(min=1, help="Processes that train together, with --device cpu.")] = 1,
    weights: Annotated[Path | None, typer.Option(help="Folder of published weights.")] = None,
    content_folder: Annotated[
        Path | None, typer.Option(help="Folder of a HuBERT of your own, for content=local.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps slices, pitch and features for other runs.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when left out.")] = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="Write events as JSON lines, and stop, after a checkpoint, when input ends."),
    ] = False,
    lock_wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another engine in the same workspace.")
    ] = 0,
) -> None:
    """Make a voice from a folder of recordings. Started again, it goes on where it was."""
    from rvc_engine.pipeline.process import EventLines, StopSwitch

    try:
        name = check_voice_name(voice)
    except ValueError as error:
        raise usage_error(f"--voice: {error}") from error
    training = _read_config(config, setting or [])
    folder = weights or default_weights_folder()
    machine = Machine(device, threads, folder, cache, content_folder=content_folder, num_processes=processes)
    switch = StopSwitch()
    switch.on_signals()
    if events:
        switch.on_end_of_input()
    run_workspace = Workspace(workspace, name, training.version)
    report = EventLines(switch) if events else None
    raise typer.Exit(
        execute(dataset, run_workspace, training, machine, switch, report=report, lock_wait_seconds=lock_wait)
    )


def execute(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    switch: Callable[[], bool],
    *,
    report: Report | None = None,
    selection: "StageSelection | None" = None,
    level: str = "info",
    lock_wait_seconds: float = 0,
) -> int:
    """Run the engine with events to `report`, or to the terminal, and to the log file. Returns the exit code."""
    from rvc_engine.cli.console import LogFile, Terminal, broadcast
    from rvc_engine.pipeline.pipeline import StageSelection
    from rvc_engine.pipeline.process import run_engine

    terminal = Terminal(level) if report is None else None
    sink = report or terminal
    assert sink is not None
    try:
        log = LogFile(workspace.log)
    except OSError as error:
        message = f"{workspace.root} cannot be written to ({error.strerror}); free some space, or choose another folder"
        sink(Failed(code=DiskFull.code if is_disk_full(error) else InvalidConfig.code, message=message))
        return EXIT_FAILED
    try:
        return run_engine(
            dataset,
            workspace,
            config,
            machine,
            broadcast(sink, log),
            switch,
            selection or StageSelection(),
            lock_wait_seconds,
        )
    finally:
        log.close()
        if terminal is not None:
            terminal.close()


@app.command()
def report(
    dataset: Annotated[Path, typer.Argument(help="Folder of recordings.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
) -> None:
    """Say what a dataset holds and whether it can be used, as JSON."""
    from rvc_engine.errors import EngineError
    from rvc_engine.report.report import write_report

    try:
        write_report(dataset, output)
    except EngineError as error:
        raise usage_error(str(error)) from error


@app.command()
def machine() -> None:
    """Say what this machine can do for the engine, as JSON: devices, precision, libraries."""
    import json

    from rvc_engine.cli.machine_report import machine_report

    typer.echo(json.dumps(machine_report(), indent=1))


def main() -> None:
    """Entry point."""
    with missing_package_reported("engine"):
        app(prog_name="rvc-engine" if Path(sys.argv[0]).name == "__main__.py" else None)
