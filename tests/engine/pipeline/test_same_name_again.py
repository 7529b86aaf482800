"""A name that is used again with other inputs is refused before anything in its folder is made anew."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.audio import slicing
from rvc_engine.checkpoints.io import save_atomically
from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.machine import Machine
from rvc_engine.pipeline import pipeline
from rvc_engine.pipeline.pipeline import find_recordings, make_voice
from rvc_engine.training.trainer import BaseWeights, run_identity
from rvc_engine.workspace.layout import Workspace, fingerprint_of
from tests.engine.pipeline.conftest import SAMPLES, tiny_config

MACHINE = Machine(device="cpu", num_threads=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    shutil.copy(SAMPLES[0], folder)
    return folder


def run_in(workspace: Workspace) -> Any:
    return pipeline._Run(workspace, tiny_config(), MACHINE, lambda _: None, lambda: False)


@pytest.fixture
def begun(workspace: Workspace, dataset: Path) -> Workspace:
    """A folder with a checkpoint of a run on the dataset, without tensors, and a clip of it."""
    results = run_in(workspace).preprocessing_results(dataset)
    features = pipeline._features_identity(results["content"].fingerprint, results["pitch"].fingerprint, ())
    checkpoint = workspace.recovery / "step_000000010.pt"
    checkpoint.parent.mkdir()
    digest = save_atomically({"identity": run_identity(tiny_config(), BaseWeights(), features)}, checkpoint)
    write_entries(workspace.recovery, [CheckpointEntry(checkpoint.name, 10, 2, checkpoint.stat().st_size, digest)])
    for folder in (workspace.slices, workspace.slices_16k):
        folder.mkdir()
        (folder / "0_0.wav").write_bytes(b"made by the run")
    workspace.speakers.write_text('{"folders": [""]}')
    return workspace


def contents(workspace: Workspace) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_mtime_ns) for path in sorted(workspace.root.rglob("*"))]


@pytest.mark.parametrize("other", ["recordings", "rate", "pitch"])
def test_other_inputs_under_the_name_of_a_begun_run_are_refused_before_anything_is_overwritten(
    begun: Workspace, dataset: Path, other: str
) -> None:
    if other == "recordings":
        shutil.copy(SAMPLES[1], dataset)
    changes: dict[str, dict[str, object]] = {"rate": {"sample_rate": "48k"}, "pitch": {"pitch": "harvest"}}
    before = contents(begun)
    with pytest.raises(IncompatibleCheckpoint) as raised:
        make_voice(dataset, begun, tiny_config(**changes.get(other, {})), MACHINE, lambda _: None)
    assert contents(begun) == before
    message = str(raised.value)
    wanted = "sample_rate=40k, but this run asks for sample_rate=48k" if other == "rate" else "other recordings"
    assert f"the folder {begun.root} holds a run that was trained with {wanted}" in message
    assert "with a larger number of epochs" in message
    assert ("-pg" in message) == (other != "rate")  # weights of another rate do not fit


def test_the_last_pair_is_named_to_go_on_from(begun: Workspace, dataset: Path) -> None:
    for number in (5, 10):
        for kind in "GD":
            (begun.root / f"{kind}_{number}.pth").write_bytes(b"")
    shutil.copy(SAMPLES[1], dataset)
    with pytest.raises(IncompatibleCheckpoint, match=rf"-pg {begun.root}/G_10\.pth -pd {begun.root}/D_10\.pth"):
        make_voice(dataset, begun, tiny_config(), MACHINE, lambda _: None)


def test_the_same_inputs_are_accepted(begun: Workspace, dataset: Path) -> None:
    run = run_in(begun)
    run.check_begun_run(dataset, run.preprocessing_results(dataset))


def test_a_run_that_began_with_slices_of_an_earlier_version_goes_on_with_them(begun: Workspace, dataset: Path) -> None:
    earlier, newest = (
        fingerprint_of(version, find_recordings(dataset).sha256, "40k")
        for version in (slicing.EARLIER_VERSIONS[0], slicing.VERSION)
    )
    begun.mark_done("slice", earlier)
    assert run_in(begun).preprocessing_results(dataset)["slice"].fingerprint == earlier
    shutil.rmtree(begun.recovery)
    assert run_in(begun).preprocessing_results(dataset)["slice"].fingerprint == newest
