"""Base weights of one's own and going on from a voice, with the client, a server, a worker and the real engine."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_train.schemas.jobs import StartFrom

SMALL = {
    "width": 24,
    "content": "whisper-tiny",
    "pretrained": "none",
    "pitch": "dio",
    "batch_size": 4,
    "evaluate": "never",
}


def voice(station: Any, job: Any, folder: Path) -> dict[str, Any]:
    """The content of a job's voice file, as RVC and Applio read it."""
    file = next(each for each in station.client.artifacts(job.id) if each.name.endswith(".pth"))
    tree: dict[str, Any] = torch.load(station.client.download_artifact(file, folder), weights_only=True)
    return tree


def trained(station: Any, dataset: Any, name: str, epochs: int = 1, **fields: Any) -> Any:
    config = SMALL | {"total_epochs": epochs} | fields.pop("config", {})
    job = station.submit(dataset, name=name, config=config, **fields)
    return station.wait_for(job, "succeeded", "failed", seconds=600)


@pytest.fixture
def first(station: Any) -> Any:
    """A server, a worker, and a job of one epoch that has made a voice."""
    station.start_server()
    station.start_worker()
    job = trained(station, station.upload(station.samples / "confbridge-pin-bad.flac", name="one"), "first")
    assert job.status == "succeeded", job.error
    return job


@pytest.fixture
def pair(station: Any, first: Any) -> tuple[Path, Path]:
    """Its generator and discriminator."""
    workspace = station.folder / "data" / "jobs" / first.id / "workspace"
    generator = next(workspace.glob("G_*.pth"))
    return generator, workspace / f"D_{generator.stem[2:]}.pth"


@pytest.fixture
def others(station: Any, first: Any) -> Any:
    """Recordings of which it has not learnt."""
    return station.upload(station.samples / "ss-noservice.flac", name="two")


@pytest.mark.timeout(800)  # two trainings
def test_a_voice_begins_with_the_save_of_another(station, first, pair, others, tmp_path):
    save = int(pair[0].stem[2:])
    on = trained(station, others, "second", start_from=StartFrom(voice="first"))
    assert on.status == "succeeded", on.error
    assert on.start_from is not None
    assert (on.start_from.job_id, on.start_from.save) == (first.id, save)
    origin = f"the save of the job {first.id} (first), number {save}"
    assert voice(station, on, tmp_path)["base_weights"] == origin
    log = station.client.logs(on.id)
    assert f"training starts from {origin}" in log
    assert "base weights: generator.pth " in log
    assert f"save {save} of {first.id} (first)" in station.cli("show", on.id).stdout
    words = ["--width", "24", "--pretrained", "none", "--content", "whisper-tiny", "--start-from", f"{first.id}:7777"]
    absent = station.cli("submit", others.id, "--name", "x", *words)
    assert "has no save 7777" in " ".join(absent.stderr.split())


@pytest.mark.long  # each day the engine's tests train from such files, and the server's take them in
@pytest.mark.timeout(800)
def test_a_voice_begins_with_base_weights_of_ones_own(station, pair, others, tmp_path):
    generator, discriminator = pair
    added = station.cli(
        "base-weights", "add", "mine", "--generator", str(generator), "--discriminator", str(discriminator)
    )
    assert added.returncode == 0, added.stderr
    assert "v2 40k weights with pitch of width 24" in added.stdout
    assert "mine" in station.cli("base-weights", "list").stdout
    job = trained(station, others, "third", config={"pretrained": "mine"})
    assert job.status == "succeeded", job.error
    assert voice(station, job, tmp_path)["base_weights"] == "the base weights mine"
    unfit = station.cli(
        "submit",
        others.id,
        "--name",
        "x",
        "--width",
        "48",
        "--pretrained",
        "mine",
        "--content",
        "whisper-tiny",
    )
    assert unfit.returncode != 0
    assert "the job asks for v2 40k weights with pitch of width 48" in " ".join(unfit.stderr.split())
    assert station.cli("base-weights", "remove", "mine").returncode == 0
    assert list(station.client.base_weights.list()) == []
