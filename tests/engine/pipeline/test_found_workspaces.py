"""Runs without recordings, on what an earlier run or another program left in the workspace; damage and full disks."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import DiskFull, InvalidConfig, InvalidDataset
from rvc_engine.events import Event, Metric, StageChanged, Warned
from rvc_engine.index import build
from rvc_engine.index.own_indexes import OwnIndexes
from rvc_engine.pipeline.pipeline import StageSelection
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace

Make = Callable[..., tuple[Workspace, list[Event]]]
ONLY_INDEX = StageSelection(training=False)


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metric)]


def test_a_run_is_gone_on_with_without_naming_its_recordings_again(make: Make, finished: Workspace) -> None:
    _, events = make(dataset=None, total_epochs=2, pitch="swift")
    assert steps(events) == [4, 5, 6]


def test_features_of_one_encoder_are_not_taken_for_anothers(make: Make, finished: Workspace) -> None:
    with pytest.raises(InvalidConfig, match="content=whisper-tiny"):
        make(dataset=None, content="contentvec")


def test_features_of_which_nobody_knows_the_local_encoder_make_no_voice(make: Make, finished: Workspace) -> None:
    with pytest.raises(InvalidConfig, match="content=whisper-tiny, but this run has content=local"):
        make(dataset=None, content="local")
    finished.mark_done("content", "x", made_with="")
    with pytest.raises(InvalidConfig, match="it is not recorded which local encoder"):
        make(dataset=None, content="local")


def test_a_workspace_without_slices_is_said_to_be_empty(make: Make) -> None:
    with pytest.raises(InvalidDataset, match=r"holds no slices.*--dataset"):
        make(dataset=None)


def test_slices_that_someone_deleted_are_made_again(make: Make, finished: Workspace) -> None:
    shutil.rmtree(finished.slices)
    _, events = make(wanted=ONLY_INDEX)
    assert next(event.state for event in events if isinstance(event, StageChanged)) == "skipped"  # from the cache
    assert list(finished.slices.glob("*.wav"))


def test_a_trained_run_whose_last_checkpoint_was_damaged_goes_on_from_the_one_before(make: Make) -> None:
    workspace, _ = make(total_epochs=1, checkpoint_every_steps=2)
    newest = max(workspace.recovery.glob("step_*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    _, events = make(total_epochs=1, checkpoint_every_steps=2)
    assert steps(events) == [3]
    assert RecoveryStore(workspace, {}).is_newest_whole()


@pytest.mark.parametrize("part", ["slices", "features", "f0_hz"])
def test_an_unreadable_file_of_a_slice_is_named(make: Make, finished: Workspace, part: str) -> None:
    victim = sorted(getattr(finished, part).iterdir())[0]
    victim.unlink()  # it is a link into the cache
    victim.write_bytes(b"not what it should be")
    with pytest.raises(InvalidDataset, match=r"the slice .*0_0\.wav"):
        make(dataset=None, total_epochs=2)


class _FullFile:
    """A file on a full disk."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: PTH123, SIM115

    def __enter__(self) -> "_FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, _: bytes) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture
def no_room_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    real = Path.open

    def fill(ending: str) -> None:
        def open_full(path: Path, mode: str = "r", *more: object, **named: object) -> object:
            is_victim = "w" in mode and path.name.endswith(ending)
            return _FullFile(path) if is_victim else real(path, mode, *more, **named)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", open_full)

    yield fill
    monkeypatch.setattr(Path, "open", real)


@pytest.mark.parametrize("ending", ["total_fea.npy.tmp", ".index.tmp"])
def test_a_disk_that_fills_up_under_the_index_is_told_as_such(
    finished: Workspace, no_room_for: Callable[[str], None], ending: str
) -> None:
    no_room_for(ending)
    with pytest.raises(DiskFull, match="free some space"):
        build.run(finished, TrainingConfig(), StageReport("index", lambda _: None))


def test_all_features_are_gathered_in_the_order_of_their_names(finished: Workspace) -> None:
    files = sorted(finished.features.glob("*.npy"))
    expected = np.concatenate([np.load(path) for path in files])
    build.run(finished, TrainingConfig(), StageReport("index", lambda _: None))
    gathered = np.load(finished.total_features, mmap_mode="r")
    assert gathered.dtype == np.float32
    assert np.array_equal(gathered, expected)


def test_a_new_index_takes_the_place_of_this_engines_older_ones_of_its_version_and_leaves_all_others(
    finished: Workspace,
) -> None:
    names = ("IVF7_Flat_nprobe_1_anna_v2", "IVF7_Flat_nprobe_1_anna_v1", "IVF9_Flat_nprobe_1_anna_v2", "IVF9_other_v2")
    own, of_v1, *foreign = (finished.root / f"added_{name}.index" for name in names)
    for path in (own, of_v1, *foreign):
        path.write_bytes(path.name.encode())
    for path in (own, of_v1):
        OwnIndexes(finished.root).add(path, [path])
    made = build.run(finished, TrainingConfig(), StageReport("index", lambda _: None))
    assert set(finished.root.glob("added_*.index")) == {made, of_v1, *foreign}


def test_an_index_of_another_program_under_the_same_name_is_kept_beside_the_new_one(finished: Workspace) -> None:
    [added] = finished.root.glob("added_IVF*_v2.index")
    for path in (added, finished.index_file):
        path.unlink()
        path.write_bytes(b"of RVC WebUI")
    events: list[Event] = []
    assert build.run(finished, TrainingConfig(), StageReport("index", events.append)) == added
    for path in (added, finished.index_file):
        assert path.read_bytes() != b"of RVC WebUI"
        assert path.with_name(f"{path.name}.bak").read_bytes() == b"of RVC WebUI"
    assert [event.message.count(".index.bak") for event in events if isinstance(event, Warned)] == [1, 1]
    assert build.run(finished, TrainingConfig(), StageReport("index", events.append)) == added
    assert len(list(finished.root.glob("*.bak*"))) == 1  # the second index replaced this engine's own first one
