"""`rvc-train pause`, `resume`, `retry`, `label`, `priority`, `estimate`, `queue`, `workers`, `drain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli.commands.jobs import JobArgument, labels_of, resources_of
from rvc_train.cli.output import ago, size, span, table
from rvc_train.cli.session import ApiCommand, Session
from rvc_train.cli.training_options import training_config, with_training_options
from rvc_train.errors import UsageError
from rvc_train.schemas.jobs import JobPublic, Range, Resources
from rvc_train.schemas.queue import EstimateRequest, JobEstimate


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("pause", cls=ApiCommand)(pause)
    app.command("resume", cls=ApiCommand)(resume)
    app.command("retry", cls=ApiCommand)(with_training_options(retry))
    app.command("label", cls=ApiCommand)(label)
    app.command("priority", cls=ApiCommand)(priority)
    app.command("estimate", cls=ApiCommand)(with_training_options(estimate))
    app.command("queue", cls=ApiCommand)(queue)
    app.command("workers", cls=ApiCommand)(workers)
    app.command("drain", cls=ApiCommand)(drain)


def pause(session: Session, job: JobArgument) -> None:
    """Pause a job after its current step and a checkpoint."""
    _print_job(session, session.client.pause(session.client.find_job(job).id))


def resume(session: Session, job: JobArgument) -> None:
    """Put a paused job back into the queue; it continues from its checkpoint."""
    _print_job(session, session.client.resume(session.client.find_job(job).id))


def retry(
    session: Session,
    job: JobArgument,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Train from the start instead of from the last checkpoint.")
    ] = False,
    *,
    choices: dict[str, Any],
) -> None:
    """Retry a finished job as a new job, with the given training options changed.

    A job that succeeded can be continued for more epochs.
    """
    found = session.client.find_job(job)
    made = session.client.retry(found.id, "start" if from_start else "checkpoint", choices)
    text = f"{made.id}  {made.name}  {translated_word('status', made.status)}  retry of {found.id}"
    session.output.result(made, f"{text}\nwatch it with: rvc-train watch {made.id}")


def label(
    session: Session,
    job: JobArgument,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= removes the label.")],
) -> None:
    """Set or remove labels of a job."""
    labels = {key: value or None for key, value in labels_of(pairs).items()}
    found = session.client.edit(session.client.find_job(job).id, labels=labels)
    text = "  ".join(f"{key}={value}" for key, value in found.labels.items()) or "no labels"
    session.output.result(found, f"{found.id}  {found.name}  {text}")


def priority(
    session: Session,
    job: JobArgument,
    number: Annotated[int, typer.Argument(min=-100, max=100, help="Jobs with a higher priority run first.")],
) -> None:
    """Change the priority of a queued job."""
    _print_job(session, session.client.edit(session.client.find_job(job).id, priority=number))


def _print_job(session: Session, job: JobPublic) -> None:
    place = translated(f"  place {job.queue_position}") if job.queue_position else ""
    session.output.result(job, f"{job.id}  {job.name}  {translated_word('status', job.status)}{place}")


def estimate(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id, unique prefix of one, name, or `last`.")],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of training options, which single options override.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="As for `submit`.", show_default="0")] = None,
    gpu_memory: Annotated[float | None, typer.Option(metavar="GB", help="As for `submit`.")] = None,
    worker_label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As for `submit`.")] = None,
    *,
    choices: dict[str, Any],
) -> None:
    """Estimate a job's clips, steps, time, disk space and memory, without submitting it."""
    settings = training_config(config, choices)
    found = session.client.find_dataset(dataset)
    given = resources_of(gpus, gpu_memory, worker_label) or Resources()
    made = session.client.estimate(EstimateRequest(dataset_id=found.id, config=settings, resources=given))
    session.output.result(made, "\n".join(_lines(made)))
    for warning in made.warnings:
        session.output.warning(warning)


def _lines(made: JobEstimate) -> list[str]:
    speech = "unknown yet" if made.speech_seconds is None else f"{made.speech_seconds / 60:.1f} min"
    return [
        f"speech     {speech}, {_counts(made.num_clips)} clips",
        f"steps      {_counts(made.steps)}",
        f"takes      {span(made.seconds)}",
        f"starts in  {span(made.starts_in)}",
        f"disk       {_bytes(made.disk_bytes)}",
        f"memory     {_bytes(made.gpu_memory_bytes)}, by a rule of thumb",
        f"basis      {made.basis or 'unknown'}: {made.basis_detail}",
    ]


def _counts(numbers: Range | None) -> str:
    if numbers is None:
        return "-"
    low, high = f"{numbers.low:.0f}", f"{numbers.high:.0f}"
    return low if low == high else f"{low} {translated_word('range', 'to')} {high}"


def _bytes(numbers: Range | None) -> str:
    if numbers is None:
        return "-"
    return f"{size(int(numbers.low))} {translated_word('range', 'to')} {size(int(numbers.high))}"


def queue(session: Session) -> None:
    """Show running jobs, and queued ones in order."""
    found = session.client.queue()
    rows = table("PLACE", "ID", "VOICE", "STATUS", "DONE", "STARTS IN", "ENDS IN")
    for entry in [*found.running, *found.queued]:
        place = "-" if entry.queue_position is None else str(entry.queue_position)
        starts_in, ends_in = span(entry.starts_in), span(entry.eta)
        rows.add_row(
            place,
            entry.id,
            entry.name,
            translated_word("status", entry.status),
            f"{entry.progress:.0%}",
            starts_in,
            ends_in,
        )
    is_empty = not (found.running or found.queued)
    session.output.result(found, "no jobs are running or queued" if is_empty else rows)
    for entry in found.queued:
        for sentence in entry.lacking:
            session.output.note(f"{entry.id}: {sentence}")
    session.output.note(f"{found.num_queued} queued, {found.num_workers} workers alive")


def workers(session: Session) -> None:
    """List the workers."""
    found = session.client.workers()
    rows = table("ID", "NAME", "HOST", "DEVICE", "LABELS", "STATUS", "JOB", "SEEN")
    for worker in found:
        device = worker.device if worker.device_name is None else f"{worker.device}: {worker.device_name}"
        seen = ago(worker.last_seen_at)
        rows.add_row(
            worker.id,
            worker.name,
            worker.host,
            device,
            ",".join(f"{key}={value}" for key, value in worker.labels.items()) or "-",
            translated_word("status", worker.status),
            worker.job_id or "-",
            seen,
        )
    session.output.result(found, rows if found else "no workers; start one with: rvc-train worker")


def drain(
    session: Session,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Id, unique prefix of one, or name.")],
    finish: Annotated[
        bool, typer.Option("--finish", help="Complete its job first. Default: another worker continues it.")
    ] = False,
) -> None:
    """Drain a worker: it claims no job, releases its own after a checkpoint, and ends."""
    found = session.client.find_worker(worker)
    if found.status == "stopped":
        raise UsageError(f"the worker {found.id} is stopped already")
    drained = session.client.drain_worker(found.id, "finish" if finish else "hand_back")
    session.output.result(drained, f"{drained.id}  {drained.name}  {translated_word('status', drained.status)}")
