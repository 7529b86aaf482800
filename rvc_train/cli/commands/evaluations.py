"""`rvc-train previews` and `metrics`: scores and previews of a job's evaluated saves, and its losses as a table."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.commands.jobs import JobArgument
from rvc_train.cli.output import table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.schemas.results import CheckpointPublic, PreviewPublic


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("previews", cls=ApiCommand)(previews)
    app.command("metrics", cls=ApiCommand)(metrics)


def previews(
    session: Session,
    job: JobArgument,
    folder: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Download audio, pictures and recordings into this folder."),
    ] = None,
) -> None:
    """Show the scores of each evaluated save on held-out clips, and its previews. The lowest mel is the best."""
    found = session.client.find_job(job)
    checkpoints = session.client.checkpoints(found.id)
    clips = session.client.previews(found.id)
    paths = [] if folder is None else _fetch(session, clips, folder)
    if session.output.as_json:
        plain = {"checkpoints": [checkpoint.model_dump(mode="json") for checkpoint in checkpoints]}
        plain |= {"previews": [preview.model_dump(mode="json") for preview in clips]}
        session.output.json(plain | {"files": [str(path) for path in paths]})
        return
    if not checkpoints:
        session.output.note(
            "no save was evaluated yet: that is done every save_every_epochs and at the end, while it takes under "
            "10 % of the training time"
        )
        return
    session.output.console.print(_rows(checkpoints, clips))
    if not checkpoints[-1].held_out:
        session.output.note("measured on training clips, since the dataset is short: scores are too optimistic")
    for path in paths:
        session.output.note(str(path))
    if folder is None:
        session.output.note(f"download them with: rvc-train previews {found.id} -o DIR")


def metrics(
    session: Session,
    job: JobArgument,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="NAME", help="Only this metric, such as loss/mel; repeatable.")
    ] = None,
    since_step: Annotated[int, typer.Option(help="Only steps after this one.")] = 0,
    max_points: Annotated[int, typer.Option(help="Thin each metric to about this many steps.")] = 20_000,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the table into this file.")
    ] = None,
) -> None:
    """Show losses, gradient norms, learning rate and speed over the training steps, as a table in CSV."""
    found = session.client.find_job(job)
    query: dict[str, Any] = {"since_step": since_step, "max_points": max_points, **({"key": key} if key else {})}
    if session.output.as_json:
        session.output.json(session.client.metrics(found.id, **query).model_dump(mode="json"))
        return
    text = session.client.metrics_csv(found.id, **query)
    if file is None:
        sys.stdout.write(text.replace("\r\n", "\n"))
        return
    file.write_text(text, encoding="utf-8", newline="")
    session.output.note(str(file))


def _rows(checkpoints: list[CheckpointPublic], clips: list[PreviewPublic]) -> Table:
    rows = table("EPOCH", "STEP", "MEL", "PITCH ERROR", "VOICING ERROR", "SIMILARITY", "PREVIEW", "")
    names = {preview.step: preview.audio.name for preview in reversed(clips)}
    for checkpoint in checkpoints:
        rows.add_row(
            str(checkpoint.epoch),
            str(checkpoint.step),
            _shown(checkpoint, "eval/mel", "{:.2f}"),
            translated(_shown(checkpoint, "eval/f0_cents", "{:.0f} cents")),
            _shown(checkpoint, "eval/voicing", "{:.0%}"),
            _shown(checkpoint, "eval/similarity", "{:.3f}"),
            names.get(checkpoint.step, "-"),
            translated_word("mark", "best") if checkpoint.is_best else "",
        )
    return rows


def _shown(checkpoint: CheckpointPublic, key: str, form: str) -> str:
    value = checkpoint.scores.get(key)
    return "-" if value is None else form.format(value)


def _fetch(session: Session, clips: list[PreviewPublic], folder: Path) -> list[Path]:
    files = {file.name: file for each in clips for file in (each.recording, each.audio, each.picture)}
    return [session.client.download_artifact(file, folder) for file in files.values()]
