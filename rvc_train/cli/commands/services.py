"""`rvc-train server`, `worker`, `ray` and `admin`: the server-side programs, each by itself.

None is imported: this process is replaced by the program, started as `rvc-train up` does, so that signals, standard
output and the exit code are the program's own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NoReturn

import typer

from rvc_engine.child_processes import inherited_environment, name_collision, python_command
from rvc_engine.installation import install_command
from rvc_engine.translation.programs import echo
from rvc_train.cli import exit_codes
from rvc_train.cli.data_folders import VARIABLE, default_data_folder

REMOTE = "RVC_TRAIN_WORKER_SERVER"
_SETTINGS = (
    "Settings come from environment variables that begin with RVC_TRAIN_, such as {examples}; "
    "docs/operations.md lists all of them."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    examples = "RVC_TRAIN_DATA_FOLDER, RVC_TRAIN_HOST, RVC_TRAIN_PORT and RVC_TRAIN_TOKEN"
    app.command("server", epilog=_SETTINGS.format(examples=examples))(server)
    examples = "RVC_TRAIN_DATA_FOLDER and RVC_TRAIN_DEVICE"
    app.command("worker", epilog=_SETTINGS.format(examples=examples))(worker)
    app.command("ray")(ray)
    any_arguments = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command("admin", add_help_option=False, context_settings=any_arguments)(admin)


def server() -> None:
    """Run only the server, until SIGTERM or Ctrl-C. `up` runs a server and workers."""
    _become("server", extra="server")


# Long because of its list of options.
def worker(
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Server on another machine; without it, the one with the same data folder."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Token with the scope work for that server; better in RVC_TRAIN_TOKEN."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for the files of jobs, on a fast disk; with --server: of this worker."
        ),
    ] = None,
    jobs_per_device: Annotated[
        int | None,
        typer.Option(min=1, max=16, metavar="N", help="Run N jobs at once on the device, with a share of it each."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Label that jobs may ask for; repeatable."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End after one job: the same as --max-jobs 1.")] = False,
    job: Annotated[str | None, typer.Option(metavar="ID", help="Run only this job, and end with it.")] = None,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N jobs; each attempt counts.")
    ] = None,
    exit_when_idle: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End after so long without a job or a conversion.")
    ] = None,
) -> None:
    """Run one worker, until SIGTERM or Ctrl-C; its job then saves a checkpoint for another worker to continue.

    With limits the exit code is 0: its jobs succeeded, 4: one failed, 7: it ran none, 8: one is in the queue again.
    """
    if once and max_jobs not in {None, 1}:
        raise typer.BadParameter("--once is --max-jobs 1; leave one of them out")
    if any("," in each for each in label or []):
        raise typer.BadParameter("a comma separates labels in RVC_TRAIN_WORKER_LABELS, so a label has none")
    if server is None and token is not None:
        raise typer.BadParameter("--token is for a server on another machine; name it with --server")
    given = {
        "WORKER_SERVER": server,
        "TOKEN": token,
        "DATA_FOLDER": data or _folder_of_remote_worker(server),
        "JOBS_PER_DEVICE": jobs_per_device,
        "WORKER_LABELS": ",".join(label) if label else None,
        "WORKER_JOB": job,
        "WORKER_MAX_JOBS": 1 if once else max_jobs,
        "EXIT_WHEN_IDLE_SECONDS": exit_when_idle,
    }
    settings = {f"RVC_TRAIN_{name}": str(value) for name, value in given.items() if value is not None}
    needs = "psutil" if (server or os.environ.get(REMOTE)) else "sqlmodel"
    _become("worker", extra="all", needs=needs, settings=settings)


def _folder_of_remote_worker(server: str | None) -> Path | None:
    """Default folder of a worker on another machine: another one than that of a server, which may run here too."""
    if (server or os.environ.get(REMOTE)) is None or os.environ.get(VARIABLE):
        return None
    return default_data_folder() / "remote-worker"


# Long because of its list of options.
def ray(
    server: Annotated[str, typer.Option(metavar="URL", envvar="RVC_TRAIN_WORKER_SERVER", help="Server with the jobs.")],
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Token with the scope work for that server; better in RVC_TRAIN_TOKEN."),
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address of the Ray cluster; auto: the one of this machine.")
    ] = "auto",
    gpus_per_job: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="GPUs of a job that asks for none or one: 0.25 puts four on a GPU, 0 takes CPUs."
        ),
    ] = None,
    cpus_per_job: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPUs of a job, and threads of its engine.")
    ] = None,
    memory_per_job: Annotated[
        float | None, typer.Option(metavar="GIB", help="Main memory of a job; without it none is reserved.")
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="GPUs of the largest node, with those that the autoscaler can start."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Label that all nodes count as having; repeatable."),
    ] = None,
    max_workers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most workers at a time.")] = None,
    max_waiting: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most workers that wait for a place at a time.")
    ] = None,
) -> None:
    """Run a worker on a Ray cluster for each job that is due, until SIGTERM or Ctrl-C; what runs then goes on."""
    labels = dict(each.partition("=")[::2] for each in label or [])
    if not all(each.partition("=")[1] for each in label or []) or any("," in each for each in label or []):
        raise typer.BadParameter("a label is KEY=VALUE, without a comma")
    given = {
        "address": address,
        "gpus_per_job": gpus_per_job,
        "cpus_per_job": cpus_per_job,
        "memory_per_job": memory_per_job,
        "gpus_per_node": gpus_per_node,
        "labels": labels or None,
        "max_workers": max_workers,
        "max_waiting": max_waiting,
    }
    options = json.dumps({name: value for name, value in given.items() if value is not None})
    settings = {"RVC_TRAIN_WORKER_SERVER": server} | ({"RVC_TRAIN_TOKEN": token} if token else {})
    _become("worker.ray", options, extra="ray", needs="ray", program="dispatcher", settings=settings)


def admin(context: typer.Context) -> None:
    """Administer the server on its own machine: doctor, backup, adopt, gc, migrate, force-fail, token."""
    _become("server.admin", *context.args, extra="server")


def _become(
    module: str,
    *arguments: str,
    extra: str,
    needs: str = "sqlmodel",
    program: str | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> NoReturn:
    """Replace this process by a program, or print the command that installs it and exit.

    `needs`: a library that is there where the program is installed. `program`: its name for users, where that is not
    the module's.
    """
    if find_spec(needs) is None:
        name = program or module.partition(".")[0]
        echo(f"error: the {name} is not installed here; install it with: {install_command(extra)}", err=True)
        sys.exit(exit_codes.USAGE)
    collision = name_collision(module.partition(".")[0])
    if collision is not None:
        echo(f"error: {collision}", err=True)
        sys.exit(exit_codes.USAGE)
    command, environment = python_command(module, *arguments), inherited_environment(os.environ)
    environment.setdefault(VARIABLE, str(default_data_folder()))
    environment |= settings
    if sys.platform == "win32":  # has no call that replaces a process
        sys.exit(subprocess.call(command, env=environment))
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is the point
