"""k-means over rows of a file."""

import tracemalloc
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from rvc_engine.clustering import BATCH_ROWS, centres_of
from rvc_engine.errors import StopRequested


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """12,000 rows around 50 points."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((50, 32))
    return (points[rng.integers(50, size=12_000)] + 0.1 * rng.standard_normal((12_000, 32))).astype(np.float32)


def quiet(_share: float) -> None:
    pass


def distance(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> float:
    return float(faiss.knn(rows, centres, 1)[0].mean())


def test_it_finds_centres_as_good_as_faiss_finds(rows: NDArray[np.float32]) -> None:
    theirs = faiss.Kmeans(32, 100, niter=20, seed=1)
    theirs.train(rows)
    ours = centres_of(rows, 100, 3, 1, quiet)
    assert ours.shape == (100, 32)
    assert distance(rows, ours) < 1.1 * distance(rows, theirs.centroids)


def test_the_same_seed_gives_the_same_centres_and_another_seed_others(rows: NDArray[np.float32]) -> None:
    one, same, other = (centres_of(rows, 60, 1, seed, quiet) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_it_hears_that_it_should_stop_at_every_batch(rows: NDArray[np.float32]) -> None:
    heard: list[float] = []

    def stop_at_second(share: float) -> None:
        heard.append(share)
        if len(heard) == 2:
            raise StopRequested

    with pytest.raises(StopRequested):
        centres_of(rows, 60, 2, 1, stop_at_second)
    assert heard == [0, pytest.approx(0.5 / -(-len(rows) // BATCH_ROWS))]


def test_memory_holds_a_batch_and_the_centres_and_never_all_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60_000, 128), dtype=np.float32))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    tracemalloc.start()
    centres_of(rows, 50, 1, 1, quiet)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows.nbytes / 2


def test_as_many_centres_as_rows_are_the_rows() -> None:
    rows = np.eye(5, dtype=np.float32)
    np.testing.assert_allclose(centres_of(rows, 5, 2, 1, quiet), rows, atol=1e-6)
