"""Full disks: a disk too small is reported before any work; one that fills up ends the run as `disk_full`, and earlier
saves stay valid."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rvc_engine.checkpoints.pair_files import pair_trees, write_pair
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.checkpoints.train_state import GanTrainState, TrainProgress
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.errors import DiskFull
from rvc_engine.events import Event, Metric, StageChanged
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.index import build
from rvc_engine.machine import Machine
from rvc_engine.pipeline.disk_estimate import RESERVE_BYTES, check_space, estimate
from rvc_engine.reporting import StageReport
from rvc_engine.voices import export
from rvc_engine.workspace import disk
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
HPARAMS = Hyperparameters.from_config(TrainingConfig(width=24, pretrained="none", content="whisper-tiny"))
DETAILS = export.VoiceDetails("anna", 1, 1, "whisper-tiny", 60.0)
NO_SPACE = OSError(28, "No space left on device")


class _FullFile:
    """File on a disk that has room for its first kilobytes only."""

    def __init__(self, path: Path, room: int = 5000) -> None:
        self._file = open(path, "wb")  # noqa: PTH123, SIM115
        self._room = room

    def __enter__(self) -> "_FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise NO_SPACE
        return self._file.write(data)


@dataclass
class FullDisk:
    """Disk that is full at one call on files whose name contains a word."""

    patch: pytest.MonkeyPatch

    def at(self, call: str, word: str) -> None:
        real_open, real_fsync, real_replace = Path.open, os.fsync, Path.replace

        def open_full(path: Path, mode: str = "r", *more: object, **named: object) -> object:
            is_victim = "w" in mode and word in path.name
            return _FullFile(path) if is_victim else real_open(path, mode, *more, **named)  # type: ignore[call-overload]

        def fsync_full(descriptor: int) -> None:
            if word in Path(f"/proc/self/fd/{descriptor}").readlink().name:
                raise NO_SPACE
            real_fsync(descriptor)

        def replace_full(path: Path, target: Path) -> Path:
            if word in target.name:
                raise NO_SPACE
            return real_replace(path, target)

        match call:
            case "write":
                self.patch.setattr(Path, "open", open_full)
            case "fsync" if sys.platform != "linux":
                pytest.skip("reads /proc")
            case "fsync":
                self.patch.setattr(os, "fsync", fsync_full)
            case "rename":
                self.patch.setattr(Path, "replace", replace_full)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(monkeypatch)


@pytest.fixture(scope="module")
def state() -> GanTrainState:
    torch.manual_seed(0)
    return GanTrainState.build(HPARAMS, torch.device("cpu"), 1e-4)


def progress(step: int) -> TrainProgress:
    return TrainProgress(step, 1, step, 1.0, 2, 10)


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


CALLS = ("write", "fsync", "rename")
at_each_call = pytest.mark.parametrize("call", CALLS)


@at_each_call
def test_a_checkpoint_without_room_leaves_the_one_before_good(
    tmp_path: Path, state: GanTrainState, full_disk: FullDisk, call: str
) -> None:
    store = RecoveryStore(Workspace(tmp_path, "anna"), {})
    store.write(store.tree(state, progress(1)))
    full_disk.at(call, "step_000000002")
    with pytest.raises(DiskFull, match="it goes on from its last checkpoint"):
        store.write(store.tree(state, progress(2)))
    assert store.is_newest_whole()
    restored = store.load(state, pytest.fail)
    assert restored == progress(1)
    assert not left_behind(tmp_path)


def test_a_manifest_without_room_leaves_the_checkpoint_before_good(
    tmp_path: Path, state: GanTrainState, full_disk: FullDisk
) -> None:
    store = RecoveryStore(Workspace(tmp_path, "anna"), {})
    store.write(store.tree(state, progress(1)))
    full_disk.at("fsync", "manifest.json")
    with pytest.raises(OSError, match="No space"):  # the outermost guard reports it as disk_full too
        store.write(store.tree(state, progress(2)))
    assert store.load(state, pytest.fail) == progress(1)


@pytest.mark.parametrize(
    ("call", "word"), [*[(call, "G_2333333") for call in CALLS], ("write", "D_2333333"), ("fsync", "D_2333333")]
)
def test_a_pair_without_room_leaves_both_files_of_the_one_before(
    tmp_path: Path, state: GanTrainState, full_disk: FullDisk, call: str, word: str
) -> None:
    workspace = Workspace(tmp_path, "anna")
    before = {
        path: path.read_bytes() for path in write_pair(workspace.root, pair_trees(state, progress(1), 1e-4, 2333333))
    }
    full_disk.at(call, word)
    with pytest.raises(DiskFull, match=r"G_2333333\.pth and D_2333333\.pth"):
        write_pair(workspace.root, pair_trees(state, progress(100), 1e-4, 2333333))
    assert {path: path.read_bytes() for path in before} == before
    assert not left_behind(tmp_path)


@at_each_call
def test_an_export_without_room_leaves_the_voice_before(
    tmp_path: Path, state: GanTrainState, full_disk: FullDisk, call: str
) -> None:
    voice = tmp_path / "anna.pth"
    weights = state.synthesizer.state_dict()
    export.write_voice(voice, weights, HPARAMS, DETAILS)
    before = voice.read_bytes()
    full_disk.at(call, "anna.pth")
    with pytest.raises(DiskFull):
        export.write_voice(voice, weights, HPARAMS, DETAILS)
    assert voice.read_bytes() == before
    assert not left_behind(tmp_path)


@at_each_call
def test_an_index_without_room_leaves_the_one_before(finished: Workspace, full_disk: FullDisk, call: str) -> None:
    [added] = finished.root.glob("added_*.index")
    before = added.read_bytes()
    full_disk.at(call, added.name)
    with pytest.raises(DiskFull, match="free some space"):
        build.run(finished, TrainingConfig(seed=99), StageReport("index", lambda _: None))
    assert added.read_bytes() == before
    assert finished.index_file.read_bytes() == before


def test_features_without_room_are_told_as_a_full_disk(finished: Workspace, full_disk: FullDisk) -> None:
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24)
    full_disk.at("write", ".npy")
    machine, device = Machine(device="cpu", num_threads=1), torch.device("cpu")
    with pytest.raises(DiskFull, match="free some space"):
        content_stage.run(finished, config, machine, device, StageReport("content", lambda _: None))


def test_a_run_whose_checkpoint_found_no_room_goes_on_from_the_one_before(make: Make, full_disk: FullDisk) -> None:
    with full_disk.patch.context() as patch:
        FullDisk(patch).at("fsync", "step_000000002")
        with pytest.raises(DiskFull):
            make(total_epochs=1, checkpoint_every_steps=1)
    _, events = make(total_epochs=1, checkpoint_every_steps=1)
    assert [event.step for event in events if isinstance(event, Metric)] == [2, 3]


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: free)


def test_a_disk_too_small_for_the_run_is_told_with_both_numbers_before_any_work(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 300_000_000)
    events: list[Event] = []
    with pytest.raises(DiskFull, match=r"needs 3\d\d MB, but the disk .* has 300 MB left; free some space") as raised:
        _, events = make(total_epochs=4)
    assert "recovery checkpoints" in str(raised.value)
    assert not any(isinstance(event, StageChanged) for event in events)


def test_a_run_that_would_save_too_much_is_told_how_to_save_less(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 10**9)
    with pytest.raises(DiskFull, match="larger save_every_epochs, save_only_latest, or keep_saves=latest"):
        make(total_epochs=1000, save_every_epochs=1)


def test_the_estimate_is_near_what_a_run_writes_and_nothing_is_needed_once_it_is_there(
    recordings: Path, finished: Workspace, state: GanTrainState
) -> None:
    config = TrainingConfig(
        content="whisper-tiny", pretrained="none", width=24, total_epochs=1, pitch="dio", save_every_weights=True
    )
    fresh = estimate(recordings, Workspace(finished.root / "other", "anna"), config)
    written = sum(
        path.stat().st_size
        for folder in (finished.slices, finished.slices_16k, finished.features, finished.coarse_f0, finished.f0_hz)
        for path in folder.iterdir()
    )
    assert written < fresh.prepared < 2 * written  # silence, which is cut out, is not known from a header
    [pair] = {
        sum(path.stat().st_size for path in finished.root.glob(f"[GD]_{step}.pth"))
        for step in {path.stem.split("_")[1] for path in finished.root.glob("G_*.pth")}
    }
    voice = finished.voice_file.stat().st_size
    assert fresh.saves == pytest.approx(pair + 2 * voice, rel=0.1)
    assert fresh.checkpoints == pytest.approx(3 * pair, rel=0.1)
    again = estimate(recordings, finished, config)
    assert again.saves <= 2 * voice
    assert again.checkpoints < fresh.checkpoints
    assert estimate(recordings, finished, config, trains=False).checkpoints == 0


def test_saves_are_counted_as_they_are_kept(tmp_path: Path, recordings: Path) -> None:
    def saves(**changes: object) -> int:
        options = {"content": "whisper-tiny", "pretrained": "none", "width": 24, "evaluate": "never", **changes}
        return estimate(recordings, Workspace(tmp_path, "anna"), TrainingConfig.model_validate(options)).saves

    one = saves(total_epochs=50)
    assert saves(total_epochs=300) == 6 * one
    assert saves(total_epochs=300, keep_saves="latest") == 2 * one
    assert saves(total_epochs=300, save_every_epochs=10, max_train_seconds=60.0) == 2 * one
    assert one < saves(total_epochs=300, save_only_latest=True) < 2 * one + 1


def test_a_checkpoint_that_will_not_fit_is_not_begun(
    tmp_path: Path, state: GanTrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RecoveryStore(Workspace(tmp_path, "anna"), {})
    store.write(store.tree(state, progress(1)))
    before = {path: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    with_free(monkeypatch, 1_000_000)
    with pytest.raises(DiskFull, match=r"step_000000002.pt needs \d+(\.\d)? MB, but the disk .* has 1.0 MB left"):
        store.write(store.tree(state, progress(2)))
    assert {path: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before


def test_the_reserve_is_left_alone(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(content="whisper-tiny", pretrained="none", width=24)
    workspace = Workspace(tmp_path, "anna")
    needed = estimate(recordings, workspace, config).total
    with_free(monkeypatch, needed + RESERVE_BYTES)
    check_space(recordings, workspace, config)
    with_free(monkeypatch, needed + RESERVE_BYTES - 1)
    with pytest.raises(DiskFull):
        check_space(recordings, workspace, config)
