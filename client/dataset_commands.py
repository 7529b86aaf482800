"""`rvc-train dataset ...`: recordings on the server."""

from pathlib import Path
from typing import Annotated

import typer

from client.api import default_dataset_name
from client.output import ago, duration, size, table
from client.session import Session, connected
from server.schemas import DatasetPublic

app = typer.Typer(no_args_is_help=True, help="Recordings on the server: upload, list, report, delete.")

DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Id, unique beginning of one, name, or `last`.")
]


@app.command()
@connected
def upload(
    session: Session,
    paths: Annotated[list[Path], typer.Argument(metavar="DIR|ZIP|FILES...", help="Recordings of one voice.")],
    name: Annotated[str | None, typer.Option(help="Name of the dataset. Else the folder's or the file's.")] = None,
) -> None:
    """Send recordings: a folder, a zip, or audio files."""
    label = name or default_dataset_name(paths)
    with session.output.transfer_bar() as bar:
        task = bar.add_task(f"uploading {label}", total=None)
        dataset = session.client.upload_dataset(
            paths, label, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    text = f"{dataset.id}  {dataset.name}  {size(dataset.size)} in {_files(dataset.num_files)}, {dataset.status}"
    notes = "".join(f"\nnote: {note}" for note in dataset.notes)
    session.output.result(dataset, f"{text}{notes}\nmake a voice with: rvc-train submit {dataset.id} --name VOICE")


@app.command("list")
@connected
def list_datasets(session: Session) -> None:
    """All datasets, newest first."""
    datasets = list(session.client.datasets())
    rows = table("ID", "NAME", "STATUS", "FILES", "SPEECH", "SIZE", "UPLOADED")
    for dataset in datasets:
        usable = dataset.num_files if dataset.num_usable is None else dataset.num_usable
        rows.add_row(
            dataset.id,
            dataset.name,
            dataset.status,
            str(usable),
            duration(dataset.seconds),
            size(dataset.size),
            ago(dataset.created_at),
        )
    session.output.result(
        datasets, rows if datasets else "no datasets yet; send one with: rvc-train dataset upload DIR"
    )


@app.command()
@connected
def show(session: Session, dataset: DatasetArgument) -> None:
    """One dataset."""
    found = session.client.find_dataset(dataset)
    session.output.result(found, _described(found))


@app.command()
@connected
def report(session: Session, dataset: DatasetArgument) -> None:
    """What the server found in the recordings, file by file."""
    found = session.client.dataset_report(session.client.find_dataset(dataset).id)
    rows = table("FILE", "LENGTH", "RATE", "CHANNELS", "CODEC", "FAULT")
    for file in found.files:
        rows.add_row(
            file.name,
            duration(file.seconds),
            str(file.sample_rate or "-"),
            str(file.channels or "-"),
            file.codec or "-",
            file.error or "",
        )
    session.output.result(found, rows)
    verdict = "usable" if found.usable else f"not usable: {found.reason}"
    session.output.note(f"{found.num_usable} of {_files(found.num_files)}, {duration(found.seconds)}; {verdict}")
    for text in found.warnings:
        session.output.note(f"warning: {text}")


@app.command()
@connected
def delete(session: Session, dataset: DatasetArgument) -> None:
    """Delete recordings and all that was derived from them; not while a job needs them."""
    found = session.client.find_dataset(dataset)
    session.client.delete_dataset(found.id)
    session.output.result({"deleted": found.id}, f"deleted {found.id} ({found.name})")


def _files(number: int) -> str:
    return f"{number} file" + ("" if number == 1 else "s")


def _described(dataset: DatasetPublic) -> str:
    lines = [
        f"{dataset.id}  {dataset.name}",
        f"status    {dataset.status}" + (f": {dataset.reason}" if dataset.reason else ""),
        f"speech    {duration(dataset.seconds)} in {_files(dataset.num_files)}",
        f"size      {size(dataset.size)}",
        f"sha256    {dataset.sha256}",
        *(f"note      {note}" for note in dataset.notes),
    ]
    return "\n".join(lines)
