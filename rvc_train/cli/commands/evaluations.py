"""`rvc-train previews`: how a voice sounded at its saves, and which of them is the best."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rvc_train.cli.commands.jobs import JobArgument
from rvc_train.cli.output import table
from rvc_train.cli.session import Session, api_command
from rvc_train.schemas.results import CheckpointPublic, PreviewPublic


def add_to(app: typer.Typer) -> None:
    """Give the command to the program."""
    app.command("previews")(api_command(previews))


def previews(
    session: Session,
    job: JobArgument,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Fetch sound, pictures and recordings into this folder."),
    ] = None,
) -> None:
    """What each save is worth on clips it was not trained on, and how it sounds. The lowest mel is the best."""
    found = session.client.find_job(job)
    saves = session.client.checkpoints(found.id)
    heard = session.client.previews(found.id)
    paths = [] if folder is None else _fetch(session, heard, folder)
    if session.output.as_json:
        plain = {"checkpoints": [save.model_dump(mode="json") for save in saves]}
        plain |= {"previews": [preview.model_dump(mode="json") for preview in heard]}
        session.output.json(plain | {"files": [str(path) for path in paths]})
        return
    if not saves:
        session.output.note(
            "no save was evaluated yet: one is at every save_every_epochs, and at the end, where that takes under 10 % "
            "of the training time"
        )
        return
    session.output.console.print(_rows(saves, heard))
    if not saves[-1].held_out:
        session.output.note("measured on clips that are also trained on, for the dataset is short: better than true")
    for path in paths:
        session.output.note(str(path))
    if folder is None:
        session.output.note(f"fetch them with: rvc-train previews {found.id} -o DIR")


def _rows(saves: list[CheckpointPublic], heard: list[PreviewPublic]) -> Table:
    rows = table("EPOCH", "STEP", "MEL", "PITCH OFF", "VOICING WRONG", "SIMILARITY", "PREVIEW", "")
    names = {preview.step: preview.audio.name for preview in reversed(heard)}
    for save in saves:
        rows.add_row(
            str(save.epoch),
            str(save.step),
            _shown(save, "eval/mel", "{:.2f}"),
            _shown(save, "eval/f0_cents", "{:.0f} cents"),
            _shown(save, "eval/voicing", "{:.0%}"),
            _shown(save, "eval/similarity", "{:.3f}"),
            names.get(save.step, "-"),
            "best" if save.is_best else "",
        )
    return rows


def _shown(save: CheckpointPublic, key: str, form: str) -> str:
    value = save.scores.get(key)
    return "-" if value is None else form.format(value)


def _fetch(session: Session, heard: list[PreviewPublic], folder: Path) -> list[Path]:
    files = {file.name: file for each in heard for file in (each.recording, each.audio, each.picture)}
    return [session.client.download_artifact(file, folder) for file in files.values()]
