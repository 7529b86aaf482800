"""Base weights of one's own and going on from a voice, with the client, a server, a worker and the real engine."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rvc_train.schemas.jobs import StartFrom

SMALL = {"width": 24, "content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "batch_size": 4}


def voice(station: Any, job: Any, folder: Path) -> dict[str, Any]:
    """The content of a job's voice file, as RVC and Applio read it."""
    file = next(each for each in station.client.artifacts(job.id) if each.name.endswith(".pth"))
    tree: dict[str, Any] = torch.load(station.client.download_artifact(file, folder), weights_only=True)
    return tree


def trained(station: Any, dataset: Any, name: str, epochs: int = 1, **fields: Any) -> Any:
    config = SMALL | {"total_epochs": epochs} | fields.pop("config", {})
    job = station.submit(dataset, name=name, config=config, **fields)
    return station.wait_for(job, "succeeded", "failed", seconds=600)


@pytest.mark.timeout(800)  # three trainings
def test_a_voice_begins_with_the_save_of_another_and_with_base_weights_of_ones_own(station, tmp_path):
    samples = [station.samples / name for name in ("confbridge-pin-bad.flac", "ss-noservice.flac")]
    station.start_server()
    station.start_worker()
    first_recordings, other_recordings = station.upload(samples[0], name="one"), station.upload(samples[1], name="two")
    first = trained(station, first_recordings, "first")
    assert first.status == "succeeded", first.error
    workspace = station.folder / "data" / "jobs" / first.id / "workspace"
    generator = next(workspace.glob("G_*.pth"))
    discriminator = workspace / f"D_{generator.stem[2:]}.pth"

    on = trained(station, other_recordings, "second", start_from=StartFrom(voice="first"))
    assert on.status == "succeeded", on.error
    assert on.start_from is not None
    assert (on.start_from.job_id, on.start_from.save) == (first.id, int(generator.stem[2:]))
    origin = f"the save of the job {first.id} (first), number {on.start_from.save}"
    assert voice(station, on, tmp_path)["base_weights"] == origin
    log = station.client.logs(on.id)
    assert f"training starts from {origin}" in log
    assert "base weights: generator.pth " in log

    added = station.cli(
        "base-weights", "add", "mine", "--generator", str(generator), "--discriminator", str(discriminator)
    )
    assert added.returncode == 0, added.stderr
    assert "v2 40k weights with pitch of width 24" in added.stdout
    assert "mine" in station.cli("base-weights", "list").stdout
    job = trained(station, other_recordings, "third", config={"pretrained": "mine"})
    assert job.status == "succeeded", job.error
    assert voice(station, job, tmp_path)["base_weights"] == "the base weights mine"
    shown = station.cli("show", on.id)
    assert f"save {on.start_from.save} of {first.id} (first)" in shown.stdout
    unfit = station.cli(
        "submit",
        other_recordings.id,
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
    words = ["--width", "24", "--pretrained", "none", "--content", "whisper-tiny", "--start-from", f"{first.id}:7777"]
    absent = station.cli("submit", other_recordings.id, "--name", "x", *words)
    assert "has no save 7777" in " ".join(absent.stderr.split())
    assert station.cli("base-weights", "remove", "mine").returncode == 0
    assert list(station.client.base_weights.list()) == []
