"""Live view of a job: a progress bar on a terminal, plain lines elsewhere, one JSON object per event with --json."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rvc_engine.translation.messages import translated, translated_word
from rvc_train.cli import exit_codes
from rvc_train.cli.output import Output, duration
from rvc_train.client import Client
from rvc_train.schemas.events import EventPublic
from rvc_train.schemas.jobs import JobPublic, JobStatus

SECONDS_BETWEEN_LINES = 10
"""Interval of progress lines without a terminal."""
LOSSES = {"loss/mel": "mel", "loss/kl": "kl", "loss/gen": "gen", "loss/fm": "fm", "loss/disc": "disc"}
_QUIET = {"progress", "metric", "failed"}
"""Events without a line of their own: the bar shows the numbers, and the end a failure."""

EXIT_CODES = {
    JobStatus.SUCCEEDED: exit_codes.DONE,
    JobStatus.FAILED: exit_codes.JOB_FAILED,
    JobStatus.CANCELLED: exit_codes.JOB_CANCELLED,
}


class View:
    """State of a job at a moment, as text."""

    def __init__(self, job: JobPublic) -> None:
        self.status: str = job.status
        # With a time limit, the number of epochs is only an upper bound, which is not shown.
        ends_early = job.config.get("max_train_seconds") is not None or job.config.get("total_epochs") == "auto"
        self._shows_total = not ends_early
        self.queue_position = job.queue_position
        self.losses: dict[str, float | None] = dict(job.losses)
        self.numbers: dict[str, Any] = job.model_dump(
            include={"stage", "progress", "epoch", "total_epochs", "step", "total_steps", "eta_seconds", "step_seconds"}
        )
        self.numbers |= {"clips_per_second": None, "machine_share": None}

    def update(self, event: EventPublic) -> None:
        """Update the state from an event."""
        if event.type in {"progress", "stage_changed"}:
            self.numbers |= {key: value for key, value in event.data.items() if key in self.numbers}
            self.status = "running"
        elif event.type == "metric":
            self.losses |= event.data.get("values", {})
            self.numbers |= {key: event.data[key] for key in ("epoch", "step") if key in event.data}
        elif event.type in {"queued", "started", "paused", "retrying"}:
            self.status = {"started": "running", "retrying": "queued"}.get(event.type, event.type)

    @property
    def fraction(self) -> float:
        """0..1 over all stages."""
        return float(self.numbers["progress"] or 0)

    def heading(self) -> str:
        """The stage; without one, the status."""
        stage = self.numbers["stage"]
        if self.status != "running" or stage is None:
            place = f" (place {self.queue_position})" if self.status == "queued" and self.queue_position else ""
            return translated_word("status", self.status) + translated(place)
        return translated_word("stage", str(stage))

    def _throughput(self) -> str:
        """Duration of a step, clips per second, and the used share of the machine's computing power."""
        n = self.numbers
        facts = [f"{n['step_seconds']:.2g} s"] if n["step_seconds"] else []
        facts += [f"{n['clips_per_second']:.3g} clips/s"] if n["clips_per_second"] else []
        facts += [f"{n['machine_share']:.0%} of the machine"] if n["machine_share"] else []
        return f" ({', '.join(map(translated, facts))})" if facts else ""

    def details(self) -> str:
        """Epoch, step, losses and remaining time, without unknown ones."""
        n = self.numbers
        parts = []
        if n["epoch"] is not None and n["stage"] == "train":
            total = f"/{n['total_epochs']}" if n["total_epochs"] and self._shows_total else ""
            parts.append(translated(f"epoch {n['epoch']}{total}"))
        if n["step"] is not None and n["stage"] == "train":
            parts.append(translated(f"step {n['step']}") + self._throughput())
            losses = [f"{LOSSES[key]} {self.losses[key]:.2f}" for key in LOSSES if self.losses.get(key) is not None]
            parts.append(" ".join(losses))
        if n["eta_seconds"] is not None:
            parts.append(translated(f"ETA {duration(n['eta_seconds'])}"))
        return "  ".join(part for part in parts if part)


class Display:
    """Display of a job. This one shows nothing: with --json the events themselves are the output."""

    def show(self, view: View) -> None:
        """Show a changed state."""

    def print_line(self, text: str) -> None:
        """Print a line for an event."""


class Bar(Display):
    """Progress bar that is redrawn in place, with lines above it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0, heading="", details="")

    def show(self, view: View) -> None:
        """Redraw the bar."""
        self._progress.update(self._task, completed=view.fraction, heading=view.heading(), details=view.details())

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text)


class Lines(Display):
    """Plain lines for pipes and logs, progress at most every SECONDS_BETWEEN_LINES."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last = 0.0

    def show(self, view: View) -> None:
        """Print a line of progress when one is due."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._output.note(f"{view.fraction:6.1%}  {view.heading()}  {view.details()}".rstrip())

    def print_line(self, text: str) -> None:
        """Print a line at once."""
        self._output.note(text)


@contextmanager
def display(output: Output, name: str) -> Iterator[Display]:
    """Display that fits the output."""
    if output.as_json:
        yield Display()
    elif not output.console.is_terminal:
        yield Lines(output)
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}  {task.fields[heading]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>5.1f} %  {task.fields[details]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=output.console) as progress:
            yield Bar(progress, name)


def watch(client: Client, job: JobPublic, output: Output, after: int | None = None) -> JobPublic:
    """Show a job until its end, through restarts of the server; return the finished job.

    With --json each event after number `after` (None: every event) is a line. Otherwise only new events are shown.
    """
    if not output.as_json and job.status.is_terminal:
        return job
    view = View(job)
    start = (0 if output.as_json else job.last_event_seq) if after is None else after
    with display(output, job.name) as shown:
        shown.show(view)
        for event in client.follow_events(job.id, after=start, on_wait=output.warning):
            if output.as_json:
                output.json(event, indent=None)
            view.update(event)
            shown.show(view)
            if event.type not in _QUIET:
                shown.print_line(f"{event.created_at.astimezone():%H:%M:%S}  {translated(event.message)}")
    return client.job(job.id)


def print_outcome(job: JobPublic, output: Output) -> int:
    """Print the outcome of a finished job and the next command; return the exit code."""
    match job.status:
        case JobStatus.SUCCEEDED:
            output.note(f"{job.name} is ready; fetch it with: rvc-train download {job.id}")
        case JobStatus.FAILED if job.error is not None:
            output.error(f"the job failed ({job.error.code}): {job.error.message}")
        case _:
            output.note(f"the job is {job.status}")
    if job.content_notice and job.status is JobStatus.SUCCEEDED:
        output.warning(job.content_notice)
    return EXIT_CODES.get(job.status, exit_codes.ERROR)
