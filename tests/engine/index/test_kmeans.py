"""k-means over rows of a file."""

import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rvc_engine.errors import StopRequested
from rvc_engine.index import kmeans
from rvc_engine.index.build import REDUCING_PASSES
from rvc_engine.index.kmeans import BATCH_ROWS, ProgressCallback, minibatch_kmeans, two_level_kmeans

DEVICES = [None, torch.device("cpu")]
"""The CPU's way, and a GPU's, taken on the CPU."""


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """12,000 rows around 50 points."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((50, 32))
    return (points[rng.integers(50, size=12_000)] + 0.1 * rng.standard_normal((12_000, 32))).astype(np.float32)


@pytest.fixture(scope="module")
def sounds() -> NDArray[np.float32]:
    """12,000 rows on the lines between 60 points, with noise."""
    rng = np.random.default_rng(1)
    points = rng.standard_normal((60, 32))
    ends, share = points[rng.integers(60, size=(2, 12_000))], rng.random((12_000, 1))
    return (ends[0] * share + ends[1] * (1 - share) + 0.1 * rng.standard_normal((12_000, 32))).astype(np.float32)


def quiet(_share: float) -> None:
    pass


def distance(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    return float(faiss.knn(rows, centres, 1)[0].mean())


@pytest.mark.parametrize("device", DEVICES)
def test_it_finds_centres_as_good_as_faiss_finds(rows: NDArray[np.float32], device: torch.device | None) -> None:
    theirs = faiss.Kmeans(32, 100, niter=20, seed=1)
    theirs.train(rows)
    ours = minibatch_kmeans(rows, 100, 3, 1, quiet, device)
    assert ours.shape == (100, 32)
    assert distance(rows, ours) < 1.1 * distance(rows, theirs.centroids)


def test_a_gpus_way_finds_centres_as_near_as_the_cpus(rows: NDArray[np.float32]) -> None:
    on_the_cpu, on_a_gpu = (distance(rows, minibatch_kmeans(rows, 50, 2, 1, quiet, device)) for device in DEVICES)
    assert on_a_gpu == pytest.approx(on_the_cpu, rel=0.02)  # not the same ones: a CPU may compare in bf16


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_seed_gives_the_same_centres_and_another_seed_others(
    rows: NDArray[np.float32], device: torch.device | None
) -> None:
    one, same, other = (minibatch_kmeans(rows, 60, 1, seed, quiet, device) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_it_can_be_stopped_at_every_batch(rows: NDArray[np.float32]) -> None:
    shares: list[float] = []

    def stop_at_second(share: float) -> None:
        shares.append(share)
        if len(shares) == 2:
            raise StopRequested

    with pytest.raises(StopRequested):
        minibatch_kmeans(rows, 60, 2, 1, stop_at_second)
    assert shares == [0, pytest.approx(0.5 / -(-len(rows) // BATCH_ROWS))]


def test_memory_holds_a_batch_and_the_centres_and_never_all_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60_000, 128), dtype=np.float32))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    for find in (lambda: minibatch_kmeans(rows, 50, 1, 1, quiet), lambda: two_level_kmeans(rows, 400, 1, quiet)):
        tracemalloc.reset_peak()
        find()
        _, peak = tracemalloc.get_traced_memory()
        assert peak < rows.nbytes / 2
    tracemalloc.stop()


class Watched:
    """A map of a file that counts how often its pages are released."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped, self.times = mapped, 0

    def madvise(self, advice: int) -> None:
        assert advice == mmap.MADV_DONTNEED
        self.times += 1
        self.mapped.madvise(advice)


def test_pages_of_the_file_are_released_after_every_few_rows(tmp_path: Path, sounds: NDArray[np.float32]) -> None:
    np.save(tmp_path / "rows.npy", sounds)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    watched = rows._mmap = Watched(rows._mmap)
    centres = many(rows, 400)
    np.testing.assert_array_equal(centres, many(sounds, 400))
    # All rows are taken once for their cells' centres, and once in each pass.
    assert watched.times > (1 + kmeans.REFINING_PASSES) * len(rows) / kmeans.ROWS_READ


@pytest.mark.parametrize("find", [lambda rows: minibatch_kmeans(rows, 9, 2, 1, quiet), lambda rows: many(rows, 9)])
def test_as_many_centres_as_rows_are_the_rows(find: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    rows = np.eye(9, dtype=np.float32)
    np.testing.assert_allclose(sorted(find(rows).tolist()), sorted(rows.tolist()), atol=1e-6)


def many(
    rows: NDArray[np.float32], count: int, seed: int = 1, progress: ProgressCallback = quiet
) -> NDArray[np.float32]:
    return two_level_kmeans(rows, count, seed, progress)


def test_many_centres_found_cell_by_cell_are_as_good_as_those_of_comparing_all_with_all(
    sounds: NDArray[np.float32],
) -> None:
    theirs = faiss.Kmeans(32, 400, niter=10, seed=1, max_points_per_centroid=100)
    theirs.train(sounds)
    ours = many(sounds, 400)
    assert ours.shape == (400, 32)
    assert distance(sounds, ours) < 1.03 * distance(sounds, theirs.centroids)
    on_a_gpu = minibatch_kmeans(sounds, 400, REDUCING_PASSES, 1, quiet, torch.device("cpu"))
    assert distance(sounds, on_a_gpu) < 1.03 * distance(sounds, theirs.centroids)


def test_refining_brings_centres_nearer_than_cells_alone_leave_them(
    sounds: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    refined = distance(sounds, many(sounds, 400))
    monkeypatch.setattr(kmeans, "REFINING_PASSES", 0)
    assert refined < 0.99 * distance(sounds, many(sounds, 400))


def test_a_cell_too_large_is_taken_in_parts_at_little_loss(
    sounds: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distance(sounds, many(sounds, 400))
    monkeypatch.setattr(kmeans, "MAX_PART_ROWS", 200)
    assert distance(sounds, many(sounds, 400)) < 1.05 * whole


def test_many_centres_are_the_same_for_a_seed_and_others_for_another(sounds: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(many(sounds, 300), many(sounds, 300))
    assert not np.array_equal(many(sounds, 300), many(sounds, 300, seed=2))


def test_equal_rows_give_centres_that_equal_them() -> None:
    rows = np.full((5000, 8), 3, np.float32)
    np.testing.assert_allclose(many(rows, 100), rows[:100])


def test_progress_of_many_centres_grows_to_its_end_and_each_part_can_be_stopped(sounds: NDArray[np.float32]) -> None:
    shares: list[float] = []
    many(sounds, 400, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1
    assert (np.histogram(shares, [0, 0.1, 0.5, 1])[0] > 1).all()

    def stop(share: float) -> None:
        if share >= 0.6:
            raise StopRequested

    with pytest.raises(StopRequested):
        many(sounds, 400, progress=stop)
