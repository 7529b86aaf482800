"""Make the card of a finished run from its folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rvc_engine.card.card import (
    Card,
    CardBase,
    CardBaseFile,
    CardData,
    CardEnd,
    CardEvaluation,
    CardFile,
    CardModel,
    CardScores,
    CardTraining,
    base_description,
    differing_settings,
    now,
    software_name,
)
from rvc_engine.card.markdown import render
from rvc_engine.card.provenance import Provenance
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.compute.accelerators import name_of
from rvc_engine.config import TrainingConfig
from rvc_engine.content.names import programs_note
from rvc_engine.errors import InvalidConfig
from rvc_engine.evaluation.history import SELECTION_METRIC, Row, kept_end, kept_evaluations
from rvc_engine.events import ArtifactReady
from rvc_engine.machine import Machine
from rvc_engine.voices.export import VoiceDetails
from rvc_engine.weights.catalogue import published_files
from rvc_engine.workspace.atomic_files import write_atomically
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.layout import Workspace

BASE_OF_A_PAIR = "those of a G_/D_ pair"
"""Identity of the base weights of a run that began with a pair in its folder."""


@dataclass(frozen=True)
class Recordings:
    """Recordings of a run."""

    number: int
    sha256: str
    """Over the contents of all."""


def write_card(
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    devices: Sequence[torch.device],
    recordings: Recordings | None,
    details: VoiceDetails,
    files: Sequence[ArtifactReady],
    base_paths: Sequence[Path],
) -> list[Path]:
    """Write `card.json` and `card.md` beside the files of a voice; returns their paths.

    `base_paths`: base weights that training may have begun with, as far as they are there. Raises DiskFull,
    InvalidConfig for provenance that cannot be read.
    """
    origin = _provenance(machine)
    card = Card(
        voice=details.name,
        job_id=origin.job_id,
        made_at=now(),
        software=software_name(),
        files=[CardFile(name=each.name, kind=each.kind, size_bytes=each.size, sha256=each.sha256) for each in files],
        model=_model(config, details),
        data=CardData(
            dataset=origin.dataset,
            recordings=None if recordings is None else recordings.number,
            seconds=details.seconds,
            recordings_sha256=None if recordings is None else recordings.sha256,
            upload_sha256=origin.upload_sha256,
        ),
        base=_base(workspace, origin, base_paths),
        training=CardTraining(
            epochs=details.epoch,
            steps=details.step,
            seconds=details.training_seconds,
            device=", ".join(name_of(device) for device in devices),
            settings=differing_settings(config),
            end=_end(workspace) if config.total_epochs == "auto" else None,
        ),
        evaluation=_evaluation(workspace, with_curve=config.total_epochs == "auto"),
        consent=origin.consent,
    )
    for path, text in ((workspace.card_json, card.to_json()), (workspace.card_page, render(card))):
        write_atomically(path, text.encode())
    return [workspace.card_json, workspace.card_page]


def _provenance(machine: Machine) -> Provenance:
    if machine.provenance is None:
        return Provenance()
    try:
        return Provenance.model_validate_json(machine.provenance.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{machine.provenance} cannot be read as the origin of the recordings: {error}") from error


def _model(config: TrainingConfig, details: VoiceDetails) -> CardModel:
    return CardModel(
        version=config.version,
        sample_rate=config.sample_rate,
        f0=config.f0,
        width=config.width,
        encoder=details.embedder,
        encoder_note=programs_note(details.embedder),
        pitch_estimator=config.pitch if config.f0 else "none",
        speakers={} if set(details.speakers) == {0} else dict(details.speakers),
    )


def _base(workspace: Workspace, provenance: Provenance, paths: Sequence[Path]) -> CardBase:
    """The base weights that the checkpoints name; of those that are still there with their whole sha256."""
    recorded = RecoveryStore(workspace, {}).base_weights() or BASE_OF_A_PAIR
    choice = BaseWeightsChoice.read(workspace)
    published = {sha256[:12]: sha256 for file in published_files() for sha256 in file.checksums}
    files = list(_base_files(recorded, published | {sha256[:12]: sha256 for sha256 in map(sha256_of, paths)}))
    start_from = None
    if recorded == BASE_OF_A_PAIR:
        kind = "pair"
    elif not files:
        kind = "none"
    elif provenance.start_from is not None:
        kind, start_from = "save", provenance.start_from
    else:
        kind = "published" if all(file.sha256[:12] in published for file in files) else "own"
    description = base_description(kind, None if choice is None else choice.origin, files)
    return CardBase.model_validate({"kind": kind, "description": description, "files": files, "start_from": start_from})


def _base_files(recorded: str, known: Mapping[str, str]) -> Iterator[CardBaseFile]:
    """Files in an identity such as `f0G40k.pth 3843da9e0000 f0D40k.pth ...`; `known`: whole sha256 by its beginning."""
    for found in re.finditer(r"(\S.*?) ([0-9a-f]{12})(?= |$)", recorded):
        yield CardBaseFile(name=found[1], sha256=known.get(found[2], found[2]))


def _end(workspace: Workspace) -> CardEnd | None:
    end = kept_end(workspace.root)
    return None if end is None else CardEnd(reason=end.reason, epochs=end.epoch, steps=end.step)


def _evaluation(workspace: Workspace, *, with_curve: bool) -> CardEvaluation | None:
    found = kept_evaluations(workspace.root)
    if found is None:
        return None
    rows, best, held_out = found
    curve = [(row.step, row.values[SELECTION_METRIC]) for row in rows if SELECTION_METRIC in row.values]
    return CardEvaluation(
        held_out=held_out,
        best=_scores(best),
        last=_scores(rows[-1] if rows else None),
        curve=curve if with_curve else [],
    )


def _scores(row: Row | None) -> CardScores | None:
    return None if row is None else CardScores(step=row.step, epoch=row.epoch, values=row.values)
