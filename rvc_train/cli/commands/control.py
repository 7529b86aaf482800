"""`rvc-train pause`, `resume`, `retry`, `label`, `priority`, `estimate`, `queue`, `workers`, `drain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rvc_train.cli.commands.jobs import JobArgument, labels_of
from rvc_train.cli.output import ago, size, span, table
from rvc_train.cli.session import Session, api_command
from rvc_train.cli.training_options import training_config, with_training_options
from rvc_train.errors import UsageError
from rvc_train.schemas.jobs import JobPublic, Range
from rvc_train.schemas.queue import EstimateRequest, JobEstimate


def add_to(app: typer.Typer) -> None:
    """Give the commands to the program."""
    app.command("pause")(api_command(pause))
    app.command("resume")(api_command(resume))
    app.command("retry")(api_command(with_training_options(retry)))
    app.command("label")(api_command(label))
    app.command("priority")(api_command(priority))
    app.command("estimate")(api_command(with_training_options(estimate)))
    app.command("queue")(api_command(queue))
    app.command("workers")(api_command(workers))
    app.command("drain")(api_command(drain))


def pause(session: Session, job: JobArgument) -> None:
    """Stop a job after its present step and a checkpoint, until it is resumed."""
    _print_job(session, session.client.pause(session.client.find_job(job).id))


def resume(session: Session, job: JobArgument) -> None:
    """Put a paused job back into the queue; it goes on from its checkpoint."""
    _print_job(session, session.client.resume(session.client.find_job(job).id))


def retry(
    session: Session,
    job: JobArgument,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Train anew, in place of going on from the last checkpoint.")
    ] = False,
    *,
    choices: dict[str, Any],
) -> None:
    """Try a job that has ended again, as a new job; training options that are given change.

    One that succeeded can be gone on with, for more epochs.
    """
    found = session.client.find_job(job)
    made = session.client.retry(found.id, "start" if from_start else "checkpoint", choices)
    session.output.result(
        made, f"{made.id}  {made.name}  {made.status}  retry of {found.id}\nwatch it with: rvc-train watch {made.id}"
    )


def label(
    session: Session,
    job: JobArgument,
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= takes the label away.")],
) -> None:
    """Set labels of a job, or take them away."""
    labels = {key: value or None for key, value in labels_of(words).items()}
    found = session.client.edit(session.client.find_job(job).id, labels=labels)
    text = "  ".join(f"{key}={value}" for key, value in found.labels.items()) or "no labels"
    session.output.result(found, f"{found.id}  {found.name}  {text}")


def priority(
    session: Session,
    job: JobArgument,
    number: Annotated[int, typer.Argument(min=-100, max=100, help="Higher goes first.")],
) -> None:
    """Change the priority of a job that is queued."""
    _print_job(session, session.client.edit(session.client.find_job(job).id, priority=number))


def _print_job(session: Session, job: JobPublic) -> None:
    place = f"  place {job.queue_position}" if job.queue_position else ""
    session.output.result(job, f"{job.id}  {job.name}  {job.status}{place}")


def estimate(
    session: Session,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id, unique beginning, name, or `last`.")],
    config: Annotated[
        Path | None, typer.Option(help="JSON file of training options; single options win over it.")
    ] = None,
    *,
    choices: dict[str, Any],
) -> None:
    """Say what a job would take: clips, steps, time, disk, memory. Submits nothing."""
    settings = training_config(config, choices)
    found = session.client.find_dataset(dataset)
    made = session.client.estimate(EstimateRequest(dataset_id=found.id, config=settings))
    session.output.result(made, "\n".join(_lines(made)))
    for warning in made.warnings:
        session.output.warning(warning)


def _lines(made: JobEstimate) -> list[str]:
    speech = "not known yet" if made.speech_seconds is None else f"{made.speech_seconds / 60:.1f} min"
    return [
        f"speech     {speech}, {_number(made.num_clips)} clips",
        f"steps      {_number(made.steps)}",
        f"takes      {span(made.seconds)}",
        f"starts in  {span(made.starts_in)}",
        f"disk       {_bytes(made.disk_bytes)}",
        f"memory     {_bytes(made.gpu_memory_bytes)}, by a rule of thumb",
        f"basis      {made.basis or 'unknown'}: {made.basis_detail}",
    ]


def _number(numbers: Range | None) -> str:
    if numbers is None:
        return "-"
    low, high = f"{numbers.low:.0f}", f"{numbers.high:.0f}"
    return low if low == high else f"{low} to {high}"


def _bytes(numbers: Range | None) -> str:
    return "-" if numbers is None else f"{size(int(numbers.low))} to {size(int(numbers.high))}"


def queue(session: Session) -> None:
    """What runs and what waits, in its order."""
    found = session.client.queue()
    rows = table("PLACE", "ID", "VOICE", "STATUS", "DONE", "STARTS IN", "ENDS IN")
    for entry in [*found.running, *found.queued]:
        place = "-" if entry.queue_position is None else str(entry.queue_position)
        starts_in, ends_in = span(entry.starts_in), span(entry.eta)
        rows.add_row(place, entry.id, entry.name, entry.status, f"{entry.progress:.0%}", starts_in, ends_in)
    is_empty = not (found.running or found.queued)
    session.output.result(found, "nothing runs and nothing waits" if is_empty else rows)
    session.output.note(f"{found.num_queued} wait, {found.num_workers} workers live")


def workers(session: Session) -> None:
    """Workers that the server knows."""
    found = session.client.workers()
    rows = table("ID", "NAME", "HOST", "DEVICE", "STATUS", "JOB", "SEEN")
    for worker in found:
        device = worker.device if worker.device_name is None else f"{worker.device}: {worker.device_name}"
        seen = ago(worker.last_seen_at)
        rows.add_row(worker.id, worker.name, worker.host, device, worker.status, worker.job_id or "-", seen)
    session.output.result(found, rows if found else "no workers; start one with: rvc-train worker")


def drain(
    session: Session,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Id, unique beginning of one, or name.")],
    finish: Annotated[
        bool, typer.Option("--finish", help="Bring its job to the end first; else another worker goes on with it.")
    ] = False,
) -> None:
    """Have a worker take nothing new, let go of its job after a checkpoint, and end."""
    found = session.client.find_worker(worker)
    if found.status == "stopped":
        raise UsageError(f"the worker {found.id} has stopped already")
    drained = session.client.drain_worker(found.id, "finish" if finish else "hand_back")
    session.output.result(drained, f"{drained.id}  {drained.name}  {drained.status}")
