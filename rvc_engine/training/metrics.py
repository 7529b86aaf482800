"""Asynchronous device-to-host reads of metrics."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MAX_STEPS_IN_FLIGHT = 4
"""How far the host runs ahead of a GPU: far enough that it never waits, near enough that a stop takes effect soon."""


class AsyncMetricReader:
    """Reads tensors of one device without waiting for it. On the CPU each value is there at once."""

    def __init__(self, device: torch.device, is_blocking: bool = False) -> None:
        """`is_blocking`: wait for each value at once, as ranks must, which need the same values at the same step."""
        self._device = device
        self._is_async = device.type == "cuda" and not is_blocking
        self._pending: deque[tuple[Tensor, torch.cuda.Event, Callable[[list[float]], None]]] = deque()
        self._steps: deque[torch.cuda.Event] = deque()

    def submit(self, values: Tensor, callback: Callable[[list[float]], None]) -> None:
        """Read `values` (N,) as they are now; `callback(values)` runs here, or at the next `poll` or `flush`."""
        if not self._is_async:
            callback(values.tolist())
            return
        self._pending.append((values.to("cpu", non_blocking=True), self._record_event(), callback))

    def poll(self) -> None:
        """Run the callbacks of values that have arrived."""
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            self._deliver_next()

    def flush(self) -> None:
        """Wait for all submitted values and run their callbacks."""
        while self._pending:
            self._pending[0][1].synchronize()
            self._deliver_next()

    def discard(self) -> None:
        """Drop all submitted reads."""
        self._pending.clear()

    def throttle(self) -> None:
        """Wait, after a step was launched, for the step MAX_STEPS_IN_FLIGHT before it."""
        if self._device.type == "cuda":
            self._steps.append(self._record_event())
            if len(self._steps) > MAX_STEPS_IN_FLIGHT:
                self._steps.popleft().synchronize()

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _deliver_next(self) -> None:
        values, _, callback = self._pending.popleft()
        callback(values.tolist())
