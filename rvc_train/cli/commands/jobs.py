"""`rvc-train submit`, `watch`, `events`, `logs`, `jobs`, `cancel`, `download`, `delete`: jobs up to their download."""

import sys
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TaskID

from rvc_engine.event_text import ending_text
from rvc_engine.events import TrainingEnded
from rvc_engine.names.voices import storable, voice_file_stem
from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli import exit_codes
from rvc_train.cli.output import ago, size, span, table, without_control
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.training_options import training_config, with_training_options
from rvc_train.cli.validation import validated
from rvc_train.cli.watch import print_outcome, watch
from rvc_train.errors import UsageError
from rvc_train.http.files import free_paths
from rvc_train.schemas.events import EventPublic, EventType
from rvc_train.schemas.jobs import (
    JobCreate,
    JobPublic,
    JobResources,
    Resources,
    StartedFrom,
    StartFrom,
    TrainingEnd,
)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id, unique prefix of one, or `last`.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("submit", cls=ApiCommand)(with_training_options(submit))
    app.command("watch", cls=ApiCommand)(watch_job)
    app.command("events", cls=ApiCommand)(events)
    app.command("logs", cls=ApiCommand)(logs)
    app.command("jobs", cls=ApiCommand)(jobs)
    app.command("show", cls=ApiCommand)(show)
    app.command("cancel", cls=ApiCommand)(cancel)
    app.command("download", cls=ApiCommand)(download)
    app.command("delete", cls=ApiCommand)(delete)


# Long because of its list of options.
def submit(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id, unique prefix of one, name, or `last`.")],
    name: Annotated[str, typer.Option(help="Name of the voice: the stem of its files.")],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of training options, which single options override.")
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch the job until its end.")] = False,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100; jobs with a higher priority run first.", show_default="0")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label of the job; repeatable.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Number of attempts that may fail with a retryable error.", show_default="2")
    ] = None,
    max_duration_seconds: Annotated[float | None, typer.Option(help="Longest duration of one attempt.")] = None,
    fetch_weights: Annotated[
        bool, typer.Option("--fetch-weights", help="Download weights that the server lacks, before training.")
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="JOB[:SAVE]",
            help="Go on from the voice of an earlier job: its id, a unique prefix of one, or `last`; and the number of "
            "a save, or `best`, in place of its last one.",
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Least number of GPUs of its worker.", show_default="0")] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Least memory of each of its worker's GPUs, in GB.")
    ] = None,
    worker_label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label that its worker must have; repeatable.")
    ] = None,
    *,
    choices: dict[str, Any],
) -> None:
    """Submit a job that trains a voice from a dataset."""
    settings = training_config(config, choices)
    found = session.client.find_dataset(dataset)
    fields = {
        "name": name,
        "dataset_id": found.id,
        "config": settings,
        "priority": priority,
        "labels": labels_of(label) if label else None,
        "max_attempts": max_attempts,
        "max_duration_seconds": max_duration_seconds,
        "fetch_weights": fetch_weights or None,
        "start_from": None if start_from is None else _start_of(session, start_from),
        "resources": resources_of(gpus, gpu_memory, worker_label),
    }
    given = {field: value for field, value in fields.items() if value is not None}
    job = session.client.submit(validated(JobCreate, given, {"labels": "--label"}))
    if job.content_notice:
        session.output.warning(job.content_notice)
    if not (stem := voice_file_stem(name)).isascii():
        session.output.warning(
            f"RVC on Windows cannot open {stem}.index, whose name is not ASCII, and converts without it; rename it "
            "there, together with the .pth"
        )
    if watch_it:
        session.output.note(f"{job.id}  {job.name}  {translated_word('status', job.status)}")
        raise typer.Exit(_watch_until_end(session, job))
    session.output.result(job, f"{job.id}  {job.name}  {job.status}\nwatch it with: rvc-train watch {job.id}")


def resources_of(gpus: int | None, gpu_memory: float | None, worker_label: list[str] | None) -> Resources | None:
    """The requirements in options; None without any."""
    fields = {
        "gpus": gpus,
        "gpu_memory_bytes": None if gpu_memory is None else int(gpu_memory * 1e9),
        "labels": labels_of(worker_label) if worker_label else None,
    }
    given = {field: value for field, value in fields.items() if value is not None}
    names = {"gpus": "--gpus", "gpu_memory_bytes": "--gpu-memory", "labels": "--worker-label"}
    return validated(Resources, given, names) if given else None


def _start_of(session: Session, text: str) -> StartFrom:
    job, colon, save = text.partition(":")
    if colon and save != "best" and not save.isdecimal():
        raise UsageError(
            f"--start-from {text}: the save is the number in the name of its G_ file, such as last:400, or best"
        )
    number = int(save) if save.isdecimal() else None
    return StartFrom(job_id=session.client.find_job(job).id, save="best" if save == "best" else number)


def watch_job(
    session: Session,
    job: JobArgument,
    after: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Show events after this number. Default: only new ones.")
    ] = None,
) -> None:
    """Watch a job until its end. Exit code: 0 succeeded, 4 failed, 5 cancelled, 3 no connection."""
    raise typer.Exit(_watch_until_end(session, session.client.find_job(job), after))


def _watch_until_end(session: Session, job: JobPublic, after: int | None = None) -> int:
    try:
        return print_outcome(watch(session.client, job, session.output, after), session.output)
    except KeyboardInterrupt:
        session.output.warning(f"the job continues; watch it again with: rvc-train watch {job.id}")
        return exit_codes.INTERRUPTED


def events(
    session: Session,
    job: Annotated[list[str] | None, typer.Option(metavar="JOB", help="Only events of this job; repeatable.")] = None,
    voice: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only events of jobs for this voice; repeatable.")
    ] = None,
    event_type: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only events of this type, such as succeeded; repeatable."),
    ] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="Print the events so far first.")] = False,
    owner: Annotated[str | None, typer.Option(help="Only events of this owner's jobs; for administrators.")] = None,
) -> None:
    """Print the events of all your jobs as they happen, until Ctrl-C; with --json an object for each."""
    client, cursor = session.client, None
    chosen: dict[str, Any] = {"types": event_type or (), "names": voice or (), "owner": owner}
    chosen["job_ids"] = [client.find_job(each).id for each in job or ()]
    while from_start:
        page = client.all_events(cursor, **chosen)
        cursor, from_start = page.last_cursor, page.has_more
        for event in page.data:
            _print_event(session, event, is_chosen=bool(event_type))
    for event in client.follow_all_events(cursor, **chosen, on_wait=session.output.warning):
        _print_event(session, event, is_chosen=bool(event_type))


def _print_event(session: Session, event: EventPublic, *, is_chosen: bool) -> None:
    """Print an event; progress and metrics, which come twice a second, only for programs and on request."""
    if session.output.as_json:
        session.output.json(event, indent=None)
    elif is_chosen or event.type not in {EventType.PROGRESS, EventType.METRIC}:
        at = f"{event.created_at.astimezone():%H:%M:%S}"
        session.output.console.print(f"{at}  {event.name}  {event.job_id}  {translated(event.message)}")


def logs(
    session: Session,
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job's end.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Number of last lines to print. Default: all.")] = None,
) -> None:
    """Print a job's log."""
    found = session.client.find_job(job)
    if follow:
        lines: Iterable[str] = session.client.follow_logs(found.id, tail, on_wait=session.output.warning)
    else:
        lines = session.client.logs(found.id, tail).splitlines()
    for line in lines:
        if session.output.as_json:
            session.output.json({"line": line}, indent=None)
        else:  # a pipe gets the log as it is
            sys.stdout.write((without_control(line) if sys.stdout.isatty() else line) + "\n")
            sys.stdout.flush()


def jobs(
    session: Session,
    status: Annotated[str | None, typer.Option(help="Only jobs with this status, such as running.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs for a voice with this name.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of jobs.")] = 20,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this owner; for administrators.")] = None,
) -> None:
    """List jobs, newest first."""
    listed = session.client.jobs(status, min(limit, 100), name=name, labels=labels_of(label or []), owner=owner)
    found = list(islice(listed, limit))
    rows = table("ID", "VOICE", "STATUS", "STAGE", "DONE", "EPOCH", "MEL", "ETA", "SUBMITTED")
    for job in found:
        mel = job.losses.get("loss/mel")
        rows.add_row(
            job.id,
            job.name,
            translated_word("status", job.status),
            translated_word("stage", job.stage or "-"),
            f"{job.progress:.0%}",
            _epochs(job),
            "-" if mel is None else f"{mel:.1f}",
            "-" if job.status.is_terminal else span(job.eta),
            ago(job.created_at),
        )
    session.output.result(found, rows if found else "no jobs; submit one with: rvc-train submit DATASET --name VOICE")


def _epochs(job: JobPublic) -> str:
    """Epochs done, and of how many where that is known."""
    if job.epoch is None:
        return "-"
    return str(job.epoch) if job.config.get("total_epochs") == "auto" else f"{job.epoch}/{job.total_epochs}"


def show(session: Session, job: JobArgument) -> None:
    """Show one job: status, progress, files, and the error of a failed one."""
    found = session.client.find_job(job)
    files = session.client.artifacts(found.id)
    place = translated(f", place {found.queue_position}") if found.queue_position else ""
    lines = [
        f"{found.id}  {found.name}",
        f"status     {translated_word('status', found.status)}{place}",
        f"progress   {found.progress:.1%}" + (f", {translated_word('stage', found.stage)}" if found.stage else ""),
        f"attempt    {found.attempt}",
        *([f"training   {_end_text(found.training_end)}"] if found.training_end else []),
        *([f"ends in    {span(found.eta)}"] if found.eta else []),
        *([f"starts in  {span(found.starts_in)}"] if found.starts_in else []),
        *(f"waits      {sentence}" for sentence in found.lacking),
        *([f"needs      {needs}"] if (needs := _needs_text(found.resources)) else []),
        *([f"retry of   {found.retry_of}, from the {found.retry_from}"] if found.retry_of else []),
        *([f"start      {_start_text(found.start_from)}"] if found.start_from else []),
        *([f"consent    {found.consent.speaker}, {found.consent.date}"] if found.consent else []),
        *([f"labels     {', '.join(f'{k}={v}' for k, v in found.labels.items())}"] if found.labels else []),
        *(f"file       {file.name}  {size(file.size)}  sha256 {file.sha256}" for file in files),
        *([f"error      {found.error.code}: {found.error.message}"] if found.error else []),
        *([f"notice     {found.content_notice}"] if found.content_notice else []),
    ]
    session.output.result(found, "\n".join(lines))


def _end_text(end: TrainingEnd) -> str:
    """The end of training as its event has it."""
    return translated(ending_text(TrainingEnded(**end.model_dump())))


def _needs_text(resources: JobResources) -> str:
    """Requirements that were given; not the memory that is required wherever there is a GPU."""
    labels = [f"{key}={value}" for key, value in resources.labels.items()]
    gpus = [f"{resources.gpus} GPU"] if resources.gpus else []
    memory = [f"{size(resources.gpu_memory_bytes)} each"] if gpus and resources.gpu_memory_bytes else []
    return ", ".join([*gpus, *memory, *labels])


def _start_text(start: StartedFrom) -> str:
    return f"save {start.save} of {start.job_id} ({start.voice})"


def cancel(session: Session, job: JobArgument) -> None:
    """Cancel a job; a running one ends after its current step and a checkpoint."""
    found = session.client.cancel(session.client.find_job(job).id)
    session.output.result(found, f"{found.id}  {found.name}  {translated_word('status', found.status)}")


def download(
    session: Session,
    job: JobArgument,
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace other files of the same names.")] = False,
) -> None:
    """Download the voice, its index and its card; an interrupted download resumes. Other files of their names stay."""
    found = session.client.find_job(job)
    files = session.client.artifacts(found.id)
    if not files:
        raise UsageError(f"the job {found.id} has no files yet; it is {found.status}")
    cards = [file for file in files if file.kind == "card"]  # whose names all jobs' cards have
    files = [file for file in files if file.kind != "card"]
    paths = free_paths(folder, files, replace=force)
    if paths[0].name != storable(files[0].name):
        session.output.warning(
            f"{folder} has other files of these names, which stay: the new ones are {paths[0].name} and so on; replace "
            "them with --force"
        )
    files, paths = [*files, *cards], [*paths, *free_paths(folder, cards, replace=force)]
    with session.output.transfer_bar() as bar:
        for file, path in zip(files, paths, strict=True):
            report_progress = partial(_show_transfer, bar, bar.add_task(file.name, total=file.size))
            session.client.download_artifact(file, folder, report_progress, path=path)
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


def labels_of(pairs: list[str]) -> dict[str, str]:
    """Parse labels of the form KEY=VALUE. Raises UsageError."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair} is not a label; write it as KEY=VALUE")
        labels[key] = value
    return labels
