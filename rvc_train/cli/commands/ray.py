"""`rvc-train ray`: the dispatcher of one-shot workers on a Ray cluster, started as a program of its own."""

import json
from typing import Annotated

import typer

from rvc_train.cli.commands.services import become


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("ray")(ray)


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
    become("worker.ray", options, extra="ray", needs="ray", program="dispatcher", settings=settings)
