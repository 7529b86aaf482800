"""Start of training in place of published base weights: from those of the job's owner, or from an earlier save."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from rvc_engine.checkpoints.retention import SaveRegistry
from rvc_engine.checkpoints.step_numbers import LATEST_STEP_NAME
from rvc_engine.config import TrainingConfig
from rvc_engine.weights.own import BASE_ROLES, BaseRole, OwnFile, WeightsKind, misfit
from rvc_train.schemas.jobs import JobCreate, StartFrom
from server.database.result_tables import Evaluation
from server.database.tables import BaseWeights, Job
from server.errors import Refused
from server.storage.local import Storage

_KINDS = ("version", "sample_rate", "f0", "width")


@dataclass(frozen=True)
class Start:
    """Files that training starts from."""

    files: Mapping[BaseRole, Path]
    origin: str
    """Description, for the voice's own record."""
    record: dict[str, Any] | None = None
    """The save of an earlier job, for the new job's row."""


def find_start(
    session: Session, request: JobCreate, storage: Storage, owner: str, visible_owner: str | None
) -> Start | None:
    """The start of a requested job; None for published base weights, or none.

    Raises Refused, with both kinds, where it is unknown or does not fit.
    """
    name = request.config.own_base_weights
    if request.start_from is not None:
        if name is not None:
            raise Refused(
                f"start_from and pretrained={name} are two starts; leave one of them out", "/config/pretrained"
            )
        return _earlier_save(session, request.start_from, request.config, storage, visible_owner)
    return None if name is None else _base_weights(session, name, request.config, storage, owner)


def _base_weights(session: Session, name: str, config: TrainingConfig, storage: Storage, owner: str) -> Start:
    row = session.exec(select(BaseWeights).where(BaseWeights.owner == owner, BaseWeights.name == name)).first()
    if row is None:
        known = session.exec(select(BaseWeights.name).where(BaseWeights.owner == owner)).all()
        raise Refused(
            f"there are no base weights named {name!r}; known are {', '.join(['auto', 'none', *sorted(known)])}",
            "/config/pretrained",
        )
    kinds = {role: OwnFile.model_validate(row.files[role]).kind for role in BASE_ROLES if role in row.files}
    if fault := misfit(f"the base weights {name}", kinds, config):
        raise Refused(fault, "/config/pretrained")
    folder = storage.base_weights_folder(row.id)
    return Start({role: folder / f"{role}.pth" for role in kinds}, f"the base weights {name}")


def _earlier_save(
    session: Session, wanted: StartFrom, config: TrainingConfig, storage: Storage, visible_owner: str | None
) -> Start:
    if wanted.job_id is not None:
        job = session.exec(select(Job).where(Job.id == wanted.job_id)).first()
        if job is None or visible_owner not in {None, job.owner}:
            raise Refused(f"there is no job {wanted.job_id} to start from", "/start_from/job_id")
    else:
        job = _newest_with_saves(session, str(wanted.voice), storage, visible_owner)
    name = f"the save of the job {job.id} ({job.name})"
    kind = WeightsKind.model_validate({field: job.config[field] for field in _KINDS if field in job.config})
    if fault := misfit(name, {"generator": kind}, config):
        raise Refused(fault, "/start_from")
    saves = saved_pairs(storage.workspace(job.id))
    if not saves:
        raise Refused(
            f"the job {job.id} has no pair of G_ and D_ files on this server: it saved none, they were deleted, or its "
            "worker keeps them elsewhere; start from another job",
            "/start_from",
        )
    if wanted.save == "best":
        number = _best_save(session, job, storage.workspace(job.id), saves)
    else:
        number = next(reversed(saves)) if wanted.save is None else wanted.save
    if number not in saves:
        raise Refused(
            f"the job {job.id} has no save {number}; it has {', '.join(map(str, sorted(saves)))}", "/start_from/save"
        )
    origin = f"{name}, number {number}"
    return Start(saves[number], origin, {"job_id": job.id, "voice": job.name, "save": number})


def _best_save(session: Session, job: Job, workspace: Path, saves: Mapping[int, object]) -> int:
    """Number of the pair that was saved at the job's best evaluation. Refused where there is none any more."""
    of_job = select(Evaluation).where(Evaluation.job_number == job.number)
    best = session.exec(of_job.where(col(Evaluation.is_best))).first()
    there = f"it has {', '.join(map(str, sorted(saves)))}"
    if best is None:
        raise Refused(
            f"no save of the job {job.id} was evaluated, so none is known as the best; {there}: name one",
            "/start_from/save",
        )
    last = session.exec(of_job.order_by(col(Evaluation.step).desc())).first()
    numbers = [save.generator for save in SaveRegistry(workspace).all() if save.step == best.step]
    number = int(numbers[0][2:-4]) if numbers and numbers[0] else None
    if number is None and last is not None and last.step == best.step:
        number = LATEST_STEP_NAME  # a pair of this name is of the last save, and not in the list
    if number is None or number not in saves:
        raise Refused(
            f"the best save of the job {job.id} (epoch {best.epoch}, step {best.step}) has no pair of G_ and D_ files: "
            f"none was saved there, or it was deleted; {there}: name one",
            "/start_from/save",
        )
    return number


def _newest_with_saves(session: Session, voice: str, storage: Storage, visible_owner: str | None) -> Job:
    query = select(Job).where(Job.name == voice, Job.status == "succeeded")
    if visible_owner is not None:
        query = query.where(Job.owner == visible_owner)
    for job in session.exec(query.order_by(col(Job.number).desc()).limit(50)):
        if saved_pairs(storage.workspace(job.id)):
            return job
    raise Refused(
        f"there is no voice {voice!r} whose pair of G_ and D_ files is on this server; name another, or a job",
        "/start_from/voice",
    )


def saved_pairs(workspace: Path) -> dict[int, dict[BaseRole, Path]]:
    """G_/D_ pairs in a job's workspace by the number in their names, the last written at the end."""
    found = {}
    for generator in workspace.glob("G_*.pth"):
        number = generator.stem.removeprefix("G_")
        discriminator = generator.with_name(f"D_{number}.pth")
        if number.isdecimal() and discriminator.is_file():
            pair: dict[BaseRole, Path] = {"generator": generator, "discriminator": discriminator}
            found[int(number)] = (generator.stat().st_mtime, pair)
    return {number: pair for number, (_, pair) in sorted(found.items(), key=lambda each: (each[1][0], each[0]))}
