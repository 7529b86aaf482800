"""The index stage on random features."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidDataset, StopRequested
from rvc_engine.events import Log, Progress, Warned
from rvc_engine.index import build, kmeans
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace

CONFIG = TrainingConfig()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "run", "anna")


def fill(workspace: Workspace, num_files: int, rows_each: int) -> None:
    rng = np.random.default_rng(0)
    workspace.features.mkdir(parents=True)
    for number in range(num_files):
        rows = rng.standard_normal((rows_each, 768), dtype=np.float32)
        np.save(workspace.features / f"{number}_0.npy", rows)


def run(workspace: Workspace, is_stopping: Callable[[], bool] = lambda: False) -> list[object]:
    events: list[object] = []
    build.run(workspace, CONFIG, StageReport("index", events.append, is_stopping))
    return events


def test_an_index_of_fewer_rows_than_recommended_for_a_list_can_be_searched(workspace: Workspace) -> None:
    fill(workspace, 1, 3)
    run(workspace)
    index = faiss.read_index(str(workspace.index_file))
    assert (index.ntotal, index.nlist) == (3, 1)
    row = index.reconstruct_n(2, 1)
    assert index.search(row, 8)[1][0].tolist()[0] == 2


def test_many_rows_are_reduced_to_centres_that_stand_for_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MAX_ROWS", 999)
    monkeypatch.setattr(build, "NUM_CENTRES", 100)
    fill(workspace, 10, 100)
    events = run(workspace)
    index = faiss.read_index(str(workspace.index_file))
    assert (index.ntotal, index.nlist) == (100, build.num_lists(100))
    assert len(np.load(workspace.total_features, mmap_mode="r")) == 1000
    assert any(isinstance(event, Log) and "reducing 1000 rows to 100 centres" in event.message for event in events)
    assert [event.stage_progress for event in events if isinstance(event, Progress)][-1] == 1


def test_rows_that_are_not_finite_are_left_out_with_a_warning(workspace: Workspace) -> None:
    fill(workspace, 2, 50)
    rows = np.load(workspace.features / "1_0.npy")
    rows[3, 5], rows[7, 0], rows[8, 1] = np.nan, np.inf, 3e38
    np.save(workspace.features / "1_0.npy", rows)
    events = run(workspace)
    assert faiss.read_index(str(workspace.index_file)).ntotal == 97
    kept = np.delete(rows, [3, 7, 8], axis=0)
    np.testing.assert_array_equal(np.load(workspace.total_features, mmap_mode="r")[50:], kept)
    assert any(isinstance(event, Warned) and event.message.startswith("3 of 100 rows") for event in events)


@pytest.mark.parametrize("rows", [np.full((10, 768), np.nan, np.float32), np.zeros((0, 768), np.float32)])
def test_features_without_one_finite_row_are_refused_and_the_index_stays(
    workspace: Workspace, rows: NDArray[np.float32]
) -> None:
    fill(workspace, 1, 10)
    run(workspace)
    np.save(workspace.features / "0_0.npy", rows)
    with pytest.raises(InvalidDataset, match="the features hold no row of usable numbers"):
        run(workspace)
    assert workspace.index_file.is_file()


def test_a_speaker_without_usable_rows_is_named_in_a_warning_and_has_no_index(workspace: Workspace) -> None:
    fill(workspace, 2, 50)
    for speaker in (0, 1):  # as Applio names them
        (workspace.features / f"{speaker}_0.npy").rename(workspace.features / f"{speaker}_0_0.npy")
    np.save(workspace.features / "1_0_0.npy", np.full((50, 768), np.nan, np.float32))
    warned = [event.message for event in run(workspace) if isinstance(event, Warned)]
    assert any(message.startswith("no row of features is left for the index anna-") for message in warned), warned
    assert faiss.read_index(str(workspace.index_file)).ntotal == 50
    assert len(workspace.speaker_index_files()) == 1


@pytest.mark.parametrize(
    ("numbers", "own"),
    [([3, 3, None], {}), ([3, 7, 3, None], {"anna-3.index": 100, "anna-7.index": 50})],
)
def test_a_users_list_gives_speakers_their_own_index_and_the_common_one_has_the_whole_folder(
    workspace: Workspace, numbers: list[int | None], own: dict[str, int]
) -> None:
    fill(workspace, len(numbers), 50)
    lines = []
    for number, speaker in enumerate(numbers):
        parts = [workspace.root / f"{number}_0.wav", workspace.features / f"{number}_0.npy"]
        parts += [workspace.root / f"{number}_0.coarse.npy", workspace.root / f"{number}_0.hz.npy"]
        for part in parts:
            part.touch()
        lines += [] if speaker is None else ["|".join([*map(str, parts), str(speaker)])]
    workspace.filelist.write_text("\n".join(lines))
    run(workspace)
    sizes = {path.name: faiss.read_index(str(path)).ntotal for path in workspace.weights.glob("*.index")}
    assert sizes == {"anna.index": 50 * len(numbers), **own}


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_every_row_lies_once_in_the_list_of_its_nearest_centre_under_its_number(device: torch.device | None) -> None:
    rows = np.random.default_rng(0).standard_normal((2 * build.ROWS_PER_ADD + 5, 16), dtype=np.float32)
    index = build.build_index(rows, 1, lambda _: None, device)
    index.make_direct_map()
    np.testing.assert_array_equal(index.reconstruct_n(0, len(rows)), rows)
    found = index.search(rows[::50], 1)[1][:, 0]
    np.testing.assert_array_equal(found, np.arange(0, len(rows), 50))


def test_equal_rows_give_an_index_that_finds_one_of_them(workspace: Workspace) -> None:
    workspace.features.mkdir(parents=True)
    np.save(workspace.features / "0_0.npy", np.ones((200, 768), np.float32))
    run(workspace)
    distances, _ = faiss.read_index(str(workspace.index_file)).search(np.ones((1, 768), np.float32), 1)
    assert distances.tolist() == [[0]]


def test_the_same_features_and_seed_give_the_same_bytes(workspace: Workspace, tmp_path: Path) -> None:
    fill(workspace, 4, 100)
    run(workspace)
    first = workspace.index_file.read_bytes()
    run(workspace)
    assert workspace.index_file.read_bytes() == first


def test_a_stop_takes_effect_while_centres_are_trained_and_while_rows_are_added(workspace: Workspace) -> None:
    rows = np.random.default_rng(0).standard_normal((2 * build.ROWS_PER_ADD, 8), dtype=np.float32)
    shares: list[float] = []
    build.build_index(rows, 1, shares.append)
    assert len([share for share in shares if share < 0.8]) == build.num_passes(len(rows)) * 4
    assert shares[-4:] == [0.8, pytest.approx(0.85), 0.9, pytest.approx(0.95)]
    fill(workspace, 2, 100)
    num_checks = 0

    def is_stopping() -> bool:
        nonlocal num_checks
        num_checks += 1
        return num_checks > 4

    with pytest.raises(StopRequested):
        run(workspace, is_stopping)
    assert not workspace.index_file.exists()


def test_all_features_go_through_a_file_and_never_lie_in_memory_together(workspace: Workspace) -> None:
    fill(workspace, 40, 400)
    run(workspace)  # what is loaded once does not count
    tracemalloc.start()
    build._concatenate_features(
        [sorted(workspace.features.glob("*.npy"))], workspace.total_features, StageReport("index", print)
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = workspace.total_features.stat().st_size
    assert size == 40 * 400 * 768 * 4 + 128
    assert peak < size / 8


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_the_recall_is_that_of_an_index_trained_by_faiss(device: torch.device | None) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((40, 64))[rng.integers(40, size=8000)] + rng.standard_normal((8000, 64))).astype("f4")
    theirs = faiss.IndexIVFFlat(faiss.IndexFlatL2(64), 64, build.num_lists(8000))
    theirs.train(rows)
    theirs.add(rows)
    ours = build.build_index(rows, 1, lambda _: None, device)
    wanted = rows[:300] + 0.5 * rng.standard_normal((300, 64)).astype("f4")
    true = faiss.knn(wanted, rows, 8)[1]

    def recall(index: faiss.IndexIVFFlat) -> float:
        found = index.search(wanted, 8)[1]
        return float(np.mean([len(set(one) & set(other)) / 8 for one, other in zip(found, true, strict=True)]))

    assert recall(ours) > 0.95 * recall(theirs)


def test_a_gpu_without_room_for_the_centres_leaves_the_index_to_the_cpu(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, *_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    fill(workspace, 4, 100)
    run(workspace)
    expected = workspace.index_file.read_bytes()
    events: list[object] = []
    monkeypatch.setattr(kmeans, "DeviceMeans", Full)
    build.run(workspace, CONFIG, StageReport("index", events.append), torch.device("cuda"))
    assert workspace.index_file.read_bytes() == expected
    assert any(isinstance(event, Log) and "built on the CPU" in event.message for event in events)


def test_more_rows_than_a_search_should_compare_become_centres_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MAX_ROWS", 3000)
    monkeypatch.setattr(build, "NUM_CENTRES", 500)
    rows = np.random.default_rng(0).standard_normal((4000, 16), dtype=np.float32)
    index = build._build_on(torch.device("cpu"), rows, 1, lambda _: None, StageReport("index", lambda _: None))
    assert index.ntotal == 500
