"""Numbers on their way from the device to whoever wants to know them, while it works on."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

STEPS_UNDER_WAY = 4
"""How far the host runs ahead of a GPU: far enough that it never waits, near enough that a stop is heard at once."""


class Readings:
    """Of one device. On the CPU each number is there as soon as it is asked for."""

    def __init__(self, device: torch.device, waits: bool = False) -> None:
        """`waits`: for each number at once, as processes must which should all see the same at the same step."""
        self._device = device
        self._is_ahead = device.type == "cuda" and not waits
        self._coming: deque[tuple[Tensor, torch.cuda.Event, Callable[[list[float]], None]]] = deque()
        self._steps: deque[torch.cuda.Event] = deque()

    def begin(self, values: Tensor, tell: Callable[[list[float]], None]) -> None:
        """Read `values` (N,) as they are now; `tell` hears them, at `look` or `wait` at the latest."""
        if not self._is_ahead:
            tell(values.tolist())
            return
        self._coming.append((values.to("cpu", non_blocking=True), self._mark(), tell))

    def look(self) -> None:
        """Tell what has come meanwhile."""
        while self._coming and self._coming[0][1].query():  # type: ignore[no-untyped-call]
            self._tell_next()

    def wait(self) -> None:
        """Tell all that was begun."""
        while self._coming:
            self._coming[0][1].synchronize()
            self._tell_next()

    def forget(self) -> None:
        """Tell nothing of what was begun."""
        self._coming.clear()

    def end_step(self) -> None:
        """A step has been set going: wait for the one that was a few before it."""
        if self._device.type == "cuda":
            self._steps.append(self._mark())
            if len(self._steps) > STEPS_UNDER_WAY:
                self._steps.popleft().synchronize()

    def _mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
        mark.record(torch.cuda.current_stream(self._device))
        return mark

    def _tell_next(self) -> None:
        values, _, tell = self._coming.popleft()
        tell(values.tolist())
