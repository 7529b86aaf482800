"""Feature retrieval: each row of features is blended with its nearest neighbours in the voice's index."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import NUM_NEIGHBOURS
from rvc_engine.workspace.index_files import read_index

SMALLEST_DISTANCE = 1e-9
"""Lower bound of squared distances, so that a row that is in the index itself gets no infinite weight."""


class Retrieval:
    """The index of a voice, for searches."""

    def __init__(self, path: Path, feature_size: int) -> None:
        """Read an index. Raises IncompatibleCheckpoint for another file, or another size of features."""
        try:
            self._index = read_index(path)
        except (RuntimeError, OSError) as error:
            raise IncompatibleCheckpoint(f"{path} is not a FAISS index; give the .index file of the voice") from error
        if self._index.d != feature_size or self._index.ntotal == 0:
            raise IncompatibleCheckpoint(
                f"{path} holds {self._index.ntotal} rows of {self._index.d} features, but the voice needs rows of "
                f"{feature_size}; give the index that belongs to the voice"
            )

    def blend(self, features: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
        """Compute rate * retrieved + (1 - rate) * features, for features (rows, feature_size).

        Retrieved is the mean of the 8 nearest rows with weights 1 / d^2, d being FAISS's squared L2 distance. A row
        whose probed list is empty stays unchanged.
        """
        if rate == 0 or not len(features):
            return features
        distances, ids, rows = self._index.search_and_reconstruct(np.ascontiguousarray(features), NUM_NEIGHBOURS)
        is_found = ids >= 0
        weights = np.where(is_found, 1 / np.square(np.maximum(distances, SMALLEST_DISTANCE), dtype=np.float64), 0.0)
        totals = weights.sum(axis=1, keepdims=True)
        weights /= np.where(totals > 0, totals, 1.0)
        # The row of a neighbour that was not found is arbitrary, NaN included.
        retrieved = np.einsum("tk,tkc->tc", weights, np.where(is_found[..., None], rows, 0))
        blended = rate * retrieved + (1 - rate) * features
        result: NDArray[np.float32] = np.where(totals > 0, blended, features).astype(np.float32)
        return result
