"""`rvc-train base-weights`: add, list, remove base weights of one's own, which jobs start from with --pretrained."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from rvc_train.cli.output import ago, size, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.errors import UsageError
from rvc_train.schemas.administration import BaseWeightsPublic

app = typer.Typer(no_args_is_help=True, help="Base weights of your own: add, list, remove.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Their name, which --pretrained takes.")]


@app.command(cls=ApiCommand)
def add(
    session: Session,
    name: NameArgument,
    generator: Annotated[
        str | None, typer.Option(metavar="FILE", help="G_ file such as f0G40k.pth, or its http(s) address.")
    ] = None,
    discriminator: Annotated[
        str | None, typer.Option(metavar="FILE", help="D_ file such as f0D40k.pth, or its http(s) address.")
    ] = None,
) -> None:
    """Send base weights to the server, which checks them. An address is downloaded by the server."""
    if generator is None and discriminator is None:
        raise UsageError("give --generator, --discriminator or both")
    with session.output.transfer_bar() as bar:
        show = partial(_show_transfer, bar, bar.add_task(name, total=None))
        added = session.client.base_weights.add(name, _source(generator), _source(discriminator), show)
    session.output.result(added, f"{added.name}: {_fits(added)}")
    session.output.note(f"use them with: rvc-train submit DATASET --name VOICE --pretrained {added.name}")


@app.command("list", cls=ApiCommand)
def list_base_weights(session: Session) -> None:
    """List base weights and what they fit, newest first."""
    found = list(session.client.base_weights.list())
    rows = table("NAME", "FITS", "SIZE", "UPLOADED", "ID")
    for each in found:
        rows.add_row(each.name, _fits(each), size(each.size_bytes), ago(each.created_at), each.id)
    session.output.result(
        found, rows if found else "no base weights of your own; add some with: rvc-train base-weights add NAME"
    )


@app.command(cls=ApiCommand)
def remove(session: Session, name: NameArgument) -> None:
    """Delete base weights from the server; not while a job that has not ended begins with them."""
    found = session.client.base_weights.find(name)
    session.client.base_weights.delete(found.id)
    session.output.result({"deleted": found.id}, f"deleted {found.id} ({found.name})")


def _source(text: str | None) -> Path | str | None:
    if text is None or text.startswith(("http://", "https://")):
        return text
    if not Path(text).is_file():
        raise UsageError(f"there is no file {text}; give a G_ or D_ file, or an address")
    return Path(text)


def _fits(found: BaseWeightsPublic) -> str:
    return ", ".join(file.description for file in (found.generator, found.discriminator) if file is not None)


def _show_transfer(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)
