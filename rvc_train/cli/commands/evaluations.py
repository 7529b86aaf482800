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
    evaluated = [each for each in checkpoints if each.scores]
    if evaluated:
        session.output.console.print(_rows(evaluated, clips))
    if evaluated and not evaluated[-1].held_out:
        session.output.note("measured on training clips, since the dataset is short: scores are too optimistic")
    if scored := [each for each in checkpoints if each.quality]:
        _show_quality(session, scored)
    for path in paths:
        session.output.note(str(path))
    if folder is None and clips:
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


QUALITY_FORMS: dict[str, tuple[str, str]] = {
    "similarity": ("similarity to the speaker", "{:.3f}"),
    "naturalness": ("naturalness (1 to 5)", "{:.2f}"),
    "character_error_rate": ("characters misheard", "{:.0%}"),
    "f0_correlation": ("intonation kept", "{:.2f}"),
    "voicing_agreement": ("voicing kept", "{:.0%}"),
}
"""Name and form of each score by conversions."""


def _show_quality(session: Session, scored: list[CheckpointPublic]) -> None:
    """The scores by conversions of other speakers, between their bounds."""
    rows = table("EPOCH", "SCORE", "WITHOUT THE VOICE", "THIS VOICE", "SPEAKER'S OWN")
    for checkpoint in scored:
        for score in checkpoint.quality:
            label, form = QUALITY_FORMS.get(score.metric, (score.metric, "{:.3f}"))
            shown = [
                "-" if value is None else form.format(value) for value in (score.floor, score.value, score.ceiling)
            ]
            rows.add_row(str(checkpoint.epoch), translated(label), *shown)
    session.output.console.print(rows)
    session.output.note("scored by converting a woman and a man that the voice was not trained on")
    if len({score.metric for each in scored for score in each.quality}) < len(QUALITY_FORMS):
        session.output.note(
            "the other scores need 96 MB of weights, downloaded once on the server's page of weights: quality"
        )


def _shown(checkpoint: CheckpointPublic, key: str, form: str) -> str:
    value = checkpoint.scores.get(key)
    return "-" if value is None else form.format(value)


def _fetch(session: Session, clips: list[PreviewPublic], folder: Path) -> list[Path]:
    files = {file.name: file for each in clips for file in (each.recording, each.audio, each.picture)}
    return [session.client.download_artifact(file, folder) for file in files.values()]
