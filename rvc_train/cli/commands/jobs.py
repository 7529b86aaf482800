"""`rvc-train submit`, `watch`, `logs`, `jobs`, `cancel`, `download`, `delete`: jobs from submission to download."""

import json as json_module
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import Progress, TaskID

from rvc_train.cli import exit_codes
from rvc_train.cli.output import ago, size, span, table
from rvc_train.cli.session import Session, api_command
from rvc_train.cli.training_options import training_config, with_training_options
from rvc_train.cli.watch import print_outcome, watch
from rvc_train.errors import UsageError
from rvc_train.schemas.jobs import JobCreate, JobPublic

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id, unique beginning of one, or `last`.")]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the program."""
    app.command("submit")(api_command(with_training_options(submit)))
    app.command("watch")(api_command(watch_job))
    app.command("logs")(api_command(logs))
    app.command("jobs")(api_command(jobs))
    app.command("show")(api_command(show))
    app.command("cancel")(api_command(cancel))
    app.command("download")(api_command(download))
    app.command("delete")(api_command(delete))


def submit(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id, unique beginning, name, or `last`.")],
    name: Annotated[str, typer.Option(help="Name of the voice: the stem of its files.")],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of training options; single options win over it.")
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Stay and watch the job to its end.")] = False,
    priority: Annotated[int, typer.Option(help="Higher goes first: -100 to 100.")] = 0,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A word to find the job by.")] = None,
    max_attempts: Annotated[int, typer.Option(help="How many times a run may fail where another try can help.")] = 2,
    max_duration_seconds: Annotated[float | None, typer.Option(help="Seconds that one attempt may take.")] = None,
    *,
    choices: dict[str, Any],
) -> None:
    """Ask for a voice, made from a dataset."""
    settings = training_config(config, choices)
    found = session.client.find_dataset(dataset)
    fields = {
        "name": name,
        "dataset_id": found.id,
        "config": settings,
        "priority": priority,
        "labels": labels_of(label or []),
        "max_attempts": max_attempts,
        "max_duration_seconds": max_duration_seconds,
    }
    try:
        request = JobCreate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error
    job = session.client.submit(request)
    if job.content_notice:
        session.output.warning(job.content_notice)
    if watch_it:
        session.output.note(f"{job.id}  {job.name}  {job.status}")
        raise typer.Exit(_watch_to_the_end(session, job))
    session.output.result(job, f"{job.id}  {job.name}  {job.status}\nwatch it with: rvc-train watch {job.id}")


def watch_job(
    session: Session,
    job: JobArgument,
    after: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Tell the events after this number, not only the new ones.")
    ] = None,
) -> None:
    """Show a job live until its end. Exit code: 0 succeeded, 4 failed, 5 cancelled, 3 no connection."""
    raise typer.Exit(_watch_to_the_end(session, session.client.find_job(job), after))


def _watch_to_the_end(session: Session, job: JobPublic, after: int | None = None) -> int:
    try:
        return print_outcome(watch(session.client, job, session.output, after), session.output)
    except KeyboardInterrupt:
        session.output.warning(f"the job goes on without you; see it again with: rvc-train watch {job.id}")
        return exit_codes.INTERRUPTED


def logs(
    session: Session,
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until the job's end.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last so many lines.")] = None,
) -> None:
    """The job's log."""
    found = session.client.find_job(job)
    if follow:
        lines = session.client.follow_logs(found.id, tail, on_wait=session.output.warning)
    else:
        lines = iter(session.client.logs(found.id, tail).splitlines())
    for line in lines:
        sys.stdout.write(
            (json_module.dumps({"line": line}, ensure_ascii=False) if session.output.as_json else line) + "\n"
        )
        sys.stdout.flush()


def jobs(
    session: Session,
    status: Annotated[str | None, typer.Option(help="Only jobs of this status, such as running.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs for a voice of this name.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    owner: Annotated[str | None, typer.Option(help="Only of this owner; for administrators.")] = None,
) -> None:
    """Jobs, newest first."""
    listed = session.client.jobs(status, min(limit, 100), name=name, labels=labels_of(label or []), owner=owner)
    found = [job for _, job in zip(range(limit), listed, strict=False)]
    rows = table("ID", "VOICE", "STATUS", "STAGE", "DONE", "EPOCH", "MEL", "ETA", "SUBMITTED")
    for job in found:
        mel = job.losses.get("loss/mel")
        rows.add_row(
            job.id,
            job.name,
            job.status,
            job.stage or "-",
            f"{job.progress:.0%}",
            "-" if job.epoch is None else f"{job.epoch}/{job.total_epochs}",
            "-" if mel is None else f"{mel:.1f}",
            "-" if job.status.is_terminal else span(job.eta),
            ago(job.created_at),
        )
    session.output.result(found, rows if found else "no jobs; ask for one with: rvc-train submit DATASET --name VOICE")


def show(session: Session, job: JobArgument) -> None:
    """One job: status, progress, files, and why it failed where it did."""
    found = session.client.find_job(job)
    files = session.client.artifacts(found.id)
    lines = [
        f"{found.id}  {found.name}",
        f"status     {found.status}" + (f", place {found.queue_position}" if found.queue_position else ""),
        f"progress   {found.progress:.1%}" + (f", {found.stage}" if found.stage else ""),
        f"attempt    {found.attempt}",
        *([f"ends in    {span(found.eta)}"] if found.eta else []),
        *([f"starts in  {span(found.starts_in)}"] if found.starts_in else []),
        *([f"retry of   {found.retry_of}, from the {found.retry_from}"] if found.retry_of else []),
        *([f"labels     {', '.join(f'{k}={v}' for k, v in found.labels.items())}"] if found.labels else []),
        *(f"file       {file.name}  {size(file.size)}  sha256 {file.sha256}" for file in files),
        *([f"error      {found.error.code}: {found.error.message}"] if found.error else []),
        *([f"notice     {found.content_notice}"] if found.content_notice else []),
    ]
    session.output.result(found, "\n".join(lines))


def cancel(session: Session, job: JobArgument) -> None:
    """Ask a job to end; a running one ends after its present step and a checkpoint."""
    found = session.client.cancel(session.client.find_job(job).id)
    session.output.result(found, f"{found.id}  {found.name}  {found.status}")


def download(
    session: Session,
    job: JobArgument,
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the files go.")] = Path(),
) -> None:
    """Fetch the voice and its index; an interrupted download goes on where it was."""
    found = session.client.find_job(job)
    files = session.client.artifacts(found.id)
    if not files:
        raise UsageError(f"the job {found.id} has no files yet; it is {found.status}")
    paths = []
    with session.output.transfer_bar() as bar:
        for file in files:
            report_progress = partial(_show_transfer, bar, bar.add_task(file.name, total=file.size))
            paths.append(session.client.download_artifact(file, folder, report_progress))
    rows = [
        {"path": str(path), "size": file.size, "sha256": file.sha256} for path, file in zip(paths, files, strict=True)
    ]
    if session.output.as_json:
        session.output.json({"files": rows})
    for row in rows:
        session.output.note(f"{row['path']}  {size(int(str(row['size'])))}  sha256 {row['sha256']}")
    if found.content_notice:
        session.output.warning(found.content_notice)


def _show_transfer(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def delete(session: Session, job: JobArgument) -> None:
    """Delete a finished job with its checkpoints, log and voice."""
    found = session.client.find_job(job)
    session.client.delete_job(found.id)
    session.output.result({"deleted": found.id}, f"deleted {found.id} ({found.name})")


def labels_of(words: list[str]) -> dict[str, str]:
    """Labels from the line. UsageError for a word that is none."""
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--label {word}: write it as KEY=VALUE")
        labels[key] = value
    return labels
