"""NumPy arrays written to a workspace. No torch."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a `.npy` file. Not by `np.save` on the file: on a full disk that raises an OSError without its errno."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(buffer.getvalue())
