"""The model card of a real run: its facts, and the origin of its recordings that a server names."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rvc_engine.card.card import Card
from rvc_engine.card.provenance import Consent, EarlierSave, Provenance
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidConfig
from rvc_engine.events import ArtifactReady, Event
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]


def read(workspace: Workspace) -> Card:
    return Card.model_validate_json(workspace.card_json.read_bytes())


def test_a_run_leaves_a_card_beside_its_voice(make: Make) -> None:
    workspace, events = make(evaluate="always")
    card = read(workspace)
    artifacts = [event for event in events if isinstance(event, ArtifactReady)]
    assert [event.name for event in artifacts if event.kind == "card"] == ["card.json", "card.md"]
    assert [(each.name, each.sha256) for each in card.files] == [
        (path.name, sha256_of(path)) for path in (workspace.voice_file, workspace.index_file, workspace.best_file)
    ]
    assert (card.format, card.voice, card.job_id, card.consent) == (1, "anna", None, None)
    assert (card.model.encoder, card.model.width, card.model.pitch_estimator) == ("whisper-tiny.en-l2l3", 24, "dio")
    assert card.model.encoder_note is not None
    assert card.data.recordings == 2
    assert 5 < card.data.seconds < 120
    assert (card.base.kind, card.base.files) == ("none", [])
    assert card.training.epochs == 2
    assert card.training.steps == 6
    assert card.training.seconds > 0
    assert card.training.settings == {"batch_size": 2, "total_epochs": 2, "learning_rate": 1e-3, "evaluate": "always"}
    assert card.evaluation is not None
    assert card.evaluation.best is not None
    best = json.loads((workspace.root / "evaluation.json").read_text())["best"]
    assert (card.evaluation.best.step, card.evaluation.best.values) == (best["step"], best["values"])
    page = workspace.card_page.read_text(encoding="utf-8")
    assert page.startswith("# anna\n")
    assert sha256_of(workspace.voice_file) in page
    assert "converts correctly only with `rvc-engine convert`" in page


def test_a_card_keeps_what_the_server_knows_and_the_start_of_training(
    finished: Workspace, recordings: Path, machine: Machine, tmp_path: Path
) -> None:
    [generator] = finished.root.glob("G_*.pth")
    [discriminator] = finished.root.glob("D_*.pth")
    consent = Consent(speaker="Anna", statement="For the guide.", date="2026-11-28")
    start = EarlierSave(job_id="job_1", voice="old", save=3)
    file = tmp_path / "provenance.json"
    known = Provenance(job_id="job_2", dataset="anna", upload_sha256="f" * 64, start_from=start, consent=consent)
    file.write_text(known.model_dump_json())
    fields = {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "batch_size": 2}
    config = TrainingConfig.model_validate(fields | {"total_epochs": 1, "evaluate": "never"})
    begun = replace(machine, pretrained_g=generator, pretrained_d=discriminator, provenance=file)

    def carded(name: str, machine: Machine) -> Card:
        workspace = Workspace(tmp_path / name, name)
        make_voice(recordings, workspace, config, machine, lambda _: None)
        return read(workspace)

    card = carded("on", replace(begun, base_origin="the save of the job job_1 (old), number 3"))
    assert (card.job_id, card.data.dataset, card.data.upload_sha256) == ("job_2", "anna", "f" * 64)
    assert card.consent == consent
    assert (card.base.kind, card.base.start_from) == ("save", start)
    assert card.base.description == "the save of the job job_1 (old), number 3"
    assert [(each.name, each.sha256) for each in card.base.files] == [
        (path.name, sha256_of(path)) for path in (generator, discriminator)
    ]
    own = carded("own", replace(begun, provenance=None))
    assert own.base.kind == "own"
    assert own.base.description == f"base weights of the user's own: {generator.name}, {discriminator.name}"
    file.write_text("{")
    with pytest.raises(InvalidConfig, match="cannot be read as the origin of the recordings"):
        carded("broken", begun)
