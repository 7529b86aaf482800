"""Every kind of voice, with small nets: both versions, all rates, with and without pitch; and very small datasets."""

import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from rvc_engine.audio import slicing
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Event, Metric
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import make_voice
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]


def steps(events: list[Event]) -> int:
    return max(event.step for event in events if isinstance(event, Metric))


@pytest.mark.parametrize(
    ("rate", "f0", "bins"), [("32k", True, 513), pytest.param("48k", False, 1025, marks=pytest.mark.long)]
)
def test_a_v2_voice_of_another_rate_is_trained_and_exported(make: Make, rate: str, f0: bool, bins: int) -> None:
    workspace, events = make(sample_rate=rate, f0=f0, total_epochs=1, batch_size=4)
    voice = torch.load(workspace.voice_file, weights_only=True)
    assert steps(events) == 2
    assert (voice["sr"], voice["f0"], voice["config"][0]) == (rate, int(f0), bins)
    assert voice["config"][17] == int(rate[:2]) * 1000
    columns = {len(line.split("|")) for line in workspace.filelist.read_text().splitlines()}
    assert columns == {5 if f0 else 3}
    assert ("enc_p.emb_pitch.weight" in voice["weight"]) == f0
    assert workspace.coarse_f0.exists() == f0


@pytest.mark.parametrize(
    ("rate", "f0"), [("32k", False), *(pytest.param(rate, True, marks=pytest.mark.long) for rate in ("40k", "48k"))]
)
def test_a_v1_voice_is_made_of_a_workspace_that_was_prepared_elsewhere(
    finished: Workspace, tmp_path: Path, recordings: Path, rate: str, f0: bool
) -> None:
    """v1 takes 256 features a row, which only a downloaded encoder gives: these are the first of the 768."""
    config = TrainingConfig.model_validate(
        {"version": "v1", "sample_rate": rate, "f0": f0, "pretrained": "none", "width": 24, "total_epochs": 1}
    )
    workspace = Workspace(tmp_path / "v1", "anna", "v1")
    workspace.root.mkdir()
    slicing.run(recordings, workspace, config, StageReport("slice", lambda _: None))
    for source, target in ((finished.coarse_f0, workspace.coarse_f0), (finished.f0_hz, workspace.f0_hz)):
        shutil.copytree(source, target)
    workspace.features.mkdir()
    for path in finished.features.iterdir():
        np.save(workspace.features / path.name, np.load(path)[:, :256])

    events: list[Event] = []
    make_voice(None, workspace, config, Machine(device="cpu", num_threads=1), events.append)

    voice = torch.load(workspace.voice_file, weights_only=True)
    assert (voice["version"], voice["sr"], voice["f0"], voice["embedder_model"]) == ("v1", rate, int(f0), "contentvec")
    assert voice["weight"]["enc_p.emb_phone.weight"].shape[1] == 256
    assert faiss.read_index(str(workspace.index_file)).d == 256
    assert len(workspace.filelist.read_text().splitlines()) == len(list(workspace.slices.iterdir()))  # no silent clips


def test_one_clip_of_one_segment_makes_a_voice(tmp_path: Path, machine: Machine) -> None:
    """The shortest dataset: one slice of 0.4 s, 19 rows of features, fewer than FAISS needs for k-means."""
    import soundfile

    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 4 // 10 + 320).astype(np.float32)
    (tmp_path / "short").mkdir()
    soundfile.write(tmp_path / "short" / "a.wav", sound, 16_000)
    workspace = Workspace(tmp_path / "voice", "anna")
    config = TrainingConfig.model_validate(
        {"content": "whisper-tiny", "pretrained": "none", "pitch": "dio", "width": 24, "total_epochs": 1}
    )
    events: list[Event] = []
    make_voice(tmp_path / "short", workspace, config, machine, events.append)
    assert steps(events) == 1
    assert len(workspace.filelist.read_text().splitlines()) == 3
    index = faiss.read_index(str(workspace.index_file))
    assert index.nlist == 1
    assert index.search(index.reconstruct_n(0, 1), 8)[1][0, 0] == 0
