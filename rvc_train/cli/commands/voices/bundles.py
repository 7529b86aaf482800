"""`rvc-train voices export` and `import`: a voice as one zip, from one server to another."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from rvc_engine.names.voices import voice_file_stem
from rvc_train.cli.output import size
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("export", cls=ApiCommand)(export)
    app.command("import", cls=ApiCommand)(import_voice)


def export(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the voice.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The zip. Default: NAME.bundle.zip here.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="JOB", help="The version, by its job's id. Default: the current one.")
    ] = None,
    recordings: Annotated[bool, typer.Option("--dataset", help="With the recordings it was trained on.")] = False,
) -> None:
    """Download a whole voice as one zip: its files, the last save, evaluations and previews."""
    target = output or Path(f"{voice_file_stem(name)}.bundle.zip")
    if target.exists():
        raise UsageError(f"{target} exists already; name another file with --output")
    job_id = None if job is None else session.client.find_job(job).id
    with session.output.transfer_bar() as bar:
        show = partial(_show_transfer, bar, bar.add_task(target.name, total=None))
        session.client.voices.export(name, target, job_id=job_id, with_recordings=recordings, progress=show)
    num_bytes = target.stat().st_size
    session.output.result({"file": str(target), "size_bytes": num_bytes}, f"{target}  {size(num_bytes)}")
    session.output.note(f"take it in on another server with: rvc-train voices import {target}")


def import_voice(
    session: Session,
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="A zip that `voices export` made.")],
    name: Annotated[str | None, typer.Option(help="Name of the voice here. Default: the one it had.")] = None,
) -> None:
    """Send a voice to the server, which checks it; it becomes the newest version of the voice of its name."""
    if not bundle.is_file():
        raise UsageError(f"there is no file {bundle}; make one with: rvc-train voices export NAME")
    with session.output.transfer_bar() as bar:
        show = partial(_show_transfer, bar, bar.add_task(bundle.name, total=None))
        voice = session.client.voices.take_in(bundle, name, show)
    newest = voice.newest
    session.output.result(voice, f"{voice.name}: version {newest.version}, the job {newest.job_id}")
    session.output.note(f"train on with: rvc-train submit DATASET --name NAME --start-from {newest.job_id}")


def _show_transfer(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)
