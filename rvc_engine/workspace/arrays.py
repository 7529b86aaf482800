"""NumPy arrays written to a workspace. No torch."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a `.npy` file. `np.save` to a path would raise an OSError without an errno on a full disk."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(buffer.getvalue())
