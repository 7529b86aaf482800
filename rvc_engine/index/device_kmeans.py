"""Mini-batch k-means and the nearest centres on a GPU, as matrix products; rows are brought there batch by batch.

Each row is compared with every centre, which a GPU does in seconds for rows and centres as many as voices have. Sums of
rows are products too, with a matrix of zeros and ones: unlike additions by index they have one order, so that a seed
gives one index. No value is read back by the host but the numbers of the nearest centres.
"""

import torch
from torch import Tensor

from rvc_engine.index.nearest import Numbers, Rows

SCORES_AT_ONCE = 2**25
"""Scores of one product: 128 MiB in float32."""


class DeviceMeans:
    """Centres on a device, moved by mini-batches."""

    def __init__(self, centres: Rows, device: torch.device) -> None:
        """`centres`: (count, size)."""
        self.centres = torch.from_numpy(centres).to(device)
        self._weights = torch.zeros(len(centres), device=device)
        self._numbers = torch.arange(len(centres), device=device)

    def begin_pass(self) -> None:
        """Forget how many rows each centre has been moved by."""
        self._weights.zero_()

    def add(self, batch: Rows) -> None:
        """Move each centre towards the mean of the rows of a batch, (N, size), that are nearest to it."""
        self.move(torch.from_numpy(batch).to(self.centres.device))

    def move(self, batch: Tensor) -> None:
        """As `add`, for rows on the device."""
        members = (self._numbers[:, None] == nearest(batch, self.centres)).to(batch.dtype)
        counts = members.sum(dim=1)
        self._weights += counts
        means = members @ batch / counts.clamp_min(1)[:, None]
        self.centres += (counts / self._weights.clamp_min(1))[:, None] * (means - self.centres)

    def result(self) -> Rows:
        """The centres, (count, size)."""
        return self.centres.cpu().numpy()


class DeviceNearest:
    """Search on a device for the nearest of some centres, in float32."""

    def __init__(self, centres: Rows, device: torch.device) -> None:
        """`centres`: (count, size)."""
        self._centres = torch.from_numpy(centres).to(device)

    def __call__(self, rows: Rows) -> Numbers:
        """The number of the centre nearest to each row, (N,), for rows (N, size)."""
        return nearest(torch.from_numpy(rows).to(self._centres.device), self._centres).cpu().numpy()


def nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """The number of the centre nearest to each row, (N,), for rows (N, size) and centres (count, size).

    By the largest x·c - |c|²/2; both are moved by the mean of the centres first, since features lie far from zero and
    near each other.
    """
    origin = centres.mean(dim=0)
    centres = centres - origin
    halves = centres.square().sum(dim=1) / 2
    size = max(1, SCORES_AT_ONCE // len(centres))
    parts = (rows[start : start + size] for start in range(0, len(rows), size))
    return torch.cat([torch.addmm(-halves, part - origin, centres.T).argmax(dim=1) for part in parts])
