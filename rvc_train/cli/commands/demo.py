"""`rvc-train demo`: from recordings to a voice on this machine, in minutes, with nothing left running.

Starts a server and a worker with a free port and a data folder of their own, uploads the sample recordings, submits a
job with a time limit, watches it, downloads and verifies the voice, and stops both.
"""

import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, TextIO

import typer

from rvc_engine.config import TrainingConfig
from rvc_engine.environment.processes import on_stop_signals
from rvc_engine.translation.messages import translated
from rvc_train.cli import exit_codes
from rvc_train.cli.output import Output, duration, size
from rvc_train.cli.services import Services, free_port
from rvc_train.cli.session import CommandContext, OutputCommand
from rvc_train.cli.training_options import training_config
from rvc_train.cli.watch import print_outcome, watch
from rvc_train.client import Client, connect
from rvc_train.errors import ClientError, UsageError
from rvc_train.schemas.datasets import DatasetPublic
from rvc_train.schemas.jobs import JobCreate, JobPublic, JobStatus
from rvc_train.schemas.results import ArtifactPublic

SAMPLES = tuple(Path(__file__).resolve().parents[2] / folder for folder in ("samples", "../samples"))
"""Folders of the sample recordings: in an installed wheel, and in a checkout."""
VOICE = "sample"
SECONDS_ON_CPU = 300.0
SECONDS_ON_GPU = 1500.0


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("demo", cls=OutputCommand)(demo)


def demo(
    context: CommandContext,
    max_train_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="RVC_TRAIN_DEMO_SECONDS",
            help=f"Seconds to train. Default: {SECONDS_ON_CPU:.0f}, with an NVIDIA GPU {SECONDS_ON_GPU:.0f}.",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the voice.")] = Path(
        "demo_output"
    ),
    width: Annotated[
        Literal["24", "48", "96", "192"],
        typer.Option(envvar="RVC_TRAIN_DEMO_WIDTH", help="Width of the synthesizer; 192 is the published one."),
    ] = "192",
) -> None:
    """Train a voice from the included sample recordings, with a server and a worker that stop at the end."""
    config = demo_config(max_train_seconds, int(width))
    on_stop_signals(_interrupt, is_ctrl_c_kept=True)
    try:
        code = Demo(folder.resolve(), config, context.output).run()
    except KeyboardInterrupt:
        context.output.error("interrupted; server and worker are stopped")
        code = exit_codes.INTERRUPTED
    raise typer.Exit(code)


def demo_config(max_train_seconds: float | None, width: int) -> TrainingConfig:
    """Training config of the demo: no downloads, and a time limit. Raises UsageError."""
    choices = {
        "content": "whisper-tiny",
        "pretrained": "none",
        "max_train_seconds": max_train_seconds or (SECONDS_ON_GPU if has_gpu() else SECONDS_ON_CPU),
        "total_epochs": 20_000,
        "save_every_epochs": 20_000,
        "save_only_latest": True,
        "width": width,
    }
    return training_config(None, choices)


def sample_recordings() -> list[Path]:
    """Sample recordings of the package. Raises UsageError when they are missing."""
    recordings = sorted(path for folder in SAMPLES for path in folder.glob("*.flac"))
    if not recordings:
        raise UsageError(f"the sample recordings are missing from {SAMPLES[0]}; install rvc-train again")
    return recordings


def has_gpu() -> bool:
    """Whether nvidia-smi lists a GPU; without torch."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        listed = subprocess.run(
            [program, "-L"], capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=False
        )
        return listed.returncode == 0 and "GPU " in listed.stdout
    return False


class Demo:
    """One run of the demo."""

    def __init__(self, folder: Path, config: TrainingConfig, output: Output) -> None:
        self._folder = folder
        self._config = config
        self._output = output
        self._started = time.monotonic()

    def run(self) -> int:
        """Make the voice and return an exit code."""
        recordings = sample_recordings()
        self._folder.mkdir(parents=True, exist_ok=True)
        data = Path(tempfile.mkdtemp(prefix="data-", dir=self._folder))  # a folder named `data` may be a server's
        self._print_introduction(recordings[0].parent.resolve())
        with (self._folder / "services.log").open("w", encoding="utf-8") as file:
            log = ServiceLog(file)
            token = secrets.token_urlsafe(32)  # in memory: the demo changes no file of the user's
            services = Services(data_folder=data, port=free_port(), token=token, relay=log.line)
            try:
                with services, connect(services.url, token) as http:
                    job, files = self._make_voice(Client(http), recordings)
            except ClientError:
                if log.last:
                    self._output.note("last output of server and worker:\n" + "\n".join(log.last))
                raise
        if job.status is not JobStatus.SUCCEEDED:
            self._output.note(f"the job's files are kept in {data}, the output of server and worker in {file.name}")
            return print_outcome(job, self._output)
        shutil.rmtree(data, ignore_errors=True)
        self._print_result(job, files)
        if self._output.as_json:
            self._output.json({"files": [str(path) for path in files]}, indent=None)
        return exit_codes.DONE

    def _make_voice(self, client: Client, recordings: list[Path]) -> tuple[JobPublic, list[Path]]:
        self._step("server and worker are running")
        dataset = self._upload(client, recordings)
        request = JobCreate(name=VOICE, dataset_id=dataset.id, config=self._config)
        job = client.submit(request)
        self._step(f"submitted the job {job.id}")
        job = watch(client, job, self._output)
        if job.status is not JobStatus.SUCCEEDED:
            return job, []
        artifacts = [artifact for artifact in client.artifacts(job.id) if artifact.kind in {"voice", "index"}]
        return job, [self._download(client, artifact) for artifact in artifacts]

    def _upload(self, client: Client, recordings: list[Path]) -> DatasetPublic:
        with self._output.transfer_bar() as bar:
            task = bar.add_task(translated("uploading samples"), total=None)
            dataset = client.upload_dataset(
                recordings, "samples", lambda done, total: bar.update(task, completed=done, total=total)
            )
        self._step(f"uploaded {dataset.num_files} recordings ({size(dataset.size)}) as {dataset.id}")
        return dataset

    def _download(self, client: Client, artifact: ArtifactPublic) -> Path:
        with self._output.transfer_bar() as bar:
            task = bar.add_task(artifact.name, total=artifact.size)
            path = client.download_artifact(
                artifact, self._folder, lambda done, total: bar.update(task, completed=done, total=total)
            )
        self._step(f"downloaded {artifact.name}: {size(artifact.size)}, sha256 {artifact.sha256} is right")
        return path

    def _step(self, text: str) -> None:
        self._output.note(f"[{duration(time.monotonic() - self._started):>12}]  {translated(text)}")

    def _print_introduction(self, samples: Path) -> None:
        seconds = duration(self._config.max_train_seconds)
        self._output.note(
            f"This makes a voice from {samples}: about {seconds} of training, and a minute or two around it.\n"
            "It downloads nothing: content=whisper-tiny comes with the package, pretrained=none starts from scratch."
        )

    def _print_result(self, job: JobPublic, files: list[Path]) -> None:
        steps = f"{job.step} steps" if job.step else "a few steps"
        self._output.note(f"\nThe voice is made, and nothing is left running ({duration(self._elapsed())} in all):")
        for path in files:
            self._output.note(f"  {path}")
        self._output.note(
            f"\nThis is a working file, not yet a good voice: {steps} from scratch only show that everything works.\n"
            f"{job.content_notice or ''}\n\n"
            "For a good voice, on a machine with a GPU and with at least ten minutes of your own recordings:\n"
            "  rvc-engine weights fetch hubert pretrained-v2-40k --weights data/weights    # once\n"
            "  rvc-train up                                     # in another terminal\n"
            "  rvc-train dataset upload DIR --name NAME\n"
            "  rvc-train submit NAME --name VOICE --total-epochs 200 --batch-size 8 --watch\n"
            "  rvc-train download last                          # VOICE.pth and VOICE.index"
        )

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


class ServiceLog:
    """Log file of server and worker, whose last lines are kept for error reports."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.last: deque[str] = deque(maxlen=20)

    def line(self, name: str, text: str) -> None:
        """Append a line of one service."""
        self.last.append(f"{name} | {text}")
        with suppress(ValueError):  # output after the file was closed
            self._file.write(f"{name} | {text}\n")
            self._file.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
