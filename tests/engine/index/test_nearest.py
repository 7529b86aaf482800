"""The nearest of many centres."""

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rvc_engine.index import nearest
from rvc_engine.index.nearest import Nearest


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """Rows far from the origin, like features with a common offset."""
    return 5 + np.random.default_rng(0).standard_normal((3000, 48), dtype=np.float32)


def test_in_float32_it_finds_what_faiss_finds(rows: NDArray[np.float32]) -> None:
    truth = faiss.knn(rows, rows[:700], 1)[1][:, 0]
    assert (Nearest(rows[:700], dtype=torch.float32)(rows) == truth).mean() > 0.999


def test_in_bf16_it_finds_for_nearly_all_rows_the_same_and_for_the_rest_one_as_near(rows: NDArray[np.float32]) -> None:
    centres = rows[:700]
    squares, truth = faiss.knn(rows[700:], centres, 1)
    found = Nearest(centres, dtype=torch.bfloat16)(rows[700:])
    assert (found == truth[:, 0]).mean() > 0.95
    assert np.square(rows[700:] - centres[found]).sum(axis=1).mean() < 1.001 * squares.mean()


def test_with_another_origin_and_piece_by_piece_it_finds_the_same(
    rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Nearest(rows[:700], dtype=torch.float32)(rows)
    assert (Nearest(rows[:700], rows[0], torch.float32)(rows) == found).mean() > 0.999
    monkeypatch.setattr(nearest, "SCORES_AT_ONCE", 1)
    assert (Nearest(rows[:700], dtype=torch.float32)(rows) == found).mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_centre_is_nearest_to_all_however_far(rows: NDArray[np.float32], dtype: torch.dtype) -> None:
    assert not Nearest(rows[:1], 1e6 * rows[1], dtype)(rows).any()


def test_where_the_cpu_has_no_bf16_products_are_of_float32(
    rows: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "cpu_supports_bf16", lambda: False)
    full = Nearest(rows[:700], dtype=torch.float32)(rows)
    np.testing.assert_array_equal(Nearest(rows[:700])(rows), full)
