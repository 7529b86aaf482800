"""Asynchronous device-to-host reads of metrics."""

from collections import deque
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

MAX_STEPS_IN_FLIGHT = 4
"""Steps that the host runs ahead of a GPU: enough that it never idles, few enough that a stop takes effect soon."""


class AsyncMetricReader(Generic[T]):
    """Reads tensors of one device without waiting for it. On the CPU a submitted read is complete at once."""

    def __init__(self, device: torch.device, is_blocking: bool = False) -> None:
        """`is_blocking`: wait at `submit`; ranks need it, since all must read the same values at the same step."""
        self._device = device
        self._is_async = device.type == "cuda" and not is_blocking
        self._pending: deque[tuple[T, Tensor, torch.cuda.Event | None]] = deque()
        self._steps: deque[torch.cuda.Event] = deque()

    def submit(self, tag: T, values: Tensor) -> None:
        """Start reading `values` (N,) as they are now; `tag` is returned with them."""
        if self._is_async:
            self._pending.append((tag, values.to("cpu", non_blocking=True), self._record_event()))
        else:
            self._pending.append((tag, values.detach().to("cpu", copy=True), None))

    def poll(self) -> list[tuple[T, list[float]]]:
        """Return the completed reads, in the order of their submission, each once."""
        completed = []
        while self._pending and _is_complete(self._pending[0][2]):
            tag, values, _ = self._pending.popleft()
            completed.append((tag, values.tolist()))
        return completed

    def flush(self) -> list[tuple[T, list[float]]]:
        """Wait for all submitted reads and return them."""
        for _, _, event in self._pending:
            if event is not None:
                event.synchronize()
        return self.poll()

    def discard(self) -> None:
        """Drop all submitted reads."""
        self._pending.clear()

    def throttle(self) -> None:
        """After the launch of a step, wait for the step MAX_STEPS_IN_FLIGHT before it. Returns at once on the CPU."""
        if self._device.type == "cuda":
            self._steps.append(self._record_event())
            if len(self._steps) > MAX_STEPS_IN_FLIGHT:
                self._steps.popleft().synchronize()

    def _record_event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # a waiting thread sleeps
        event.record(torch.cuda.current_stream(self._device))
        return event


def _is_complete(event: torch.cuda.Event | None) -> bool:
    return event is None or event.query()  # type: ignore[no-untyped-call]
