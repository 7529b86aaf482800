"""The engine process that converts: started for a device, kept while it is in use, ended to give its memory back."""

import contextlib
import queue
import time
from collections import deque
from collections.abc import Mapping, Sequence

import structlog

from rvc_engine.conversion.messages import Cancel, Convert, Converted, Reply, format_message, parse_reply
from rvc_engine.environment.processes import PIPE, ProcessGroup, describe_exit
from rvc_engine.environment.windows_jobs import Limits
from worker.conversions.placement import Placement
from worker.engine.process import LAST_LINES, PIPE_DRAIN_SECONDS, read_lines

logger = structlog.get_logger(__name__)


class EngineEnded(Exception):
    """The engine has ended before its answer; the message describes its end."""


class ConversionEngine:
    """A running `rvc-engine serve-conversions`."""

    def __init__(self, placement: Placement, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Raises OSError when the command cannot be run."""
        self.placement = placement
        self.held_bytes = 0
        """Memory of the GPU that it has; 0 before its first conversion."""
        self.was_ended_for_room = False
        """Whether it was ended because something else needs the GPU's memory."""
        self.last_used = time.monotonic()
        self._replies: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        limits = Limits(is_low_priority=True)  # on Windows; elsewhere the engine lowers its own priority
        self._child = ProcessGroup(command, environment, stdin=PIPE, stdout=PIPE, stderr=PIPE, limits=limits)
        self._readers = [
            read_lines(self._child.stdout, self._on_stdout, lambda: self._replies.put(None)),
            read_lines(self._child.stderr, self._on_stderr),
        ]

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._child.poll() is None

    def send(self, message: Convert | Cancel) -> None:
        """Send a request. Raises EngineEnded."""
        self.last_used = time.monotonic()
        try:
            assert self._child.stdin is not None  # noqa: S101 - the child is started with pipes
            self._child.stdin.write(format_message(message).encode() + b"\n")
            self._child.stdin.flush()
        except (OSError, ValueError) as error:
            raise EngineEnded(self._describe_end()) from error

    def reply(self, timeout: float) -> Reply | None:
        """The next event; None after `timeout` seconds without one. Raises EngineEnded."""
        try:
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            return None
        if reply is None:
            raise EngineEnded(self._describe_end())
        self.last_used = time.monotonic()
        if isinstance(reply, Converted):
            self.held_bytes = reply.held_bytes
        return reply

    def close(self, grace_seconds: float = 0) -> None:
        """End the process: asked first when there is a grace. May be called from any thread, and more than once."""
        with contextlib.suppress(OSError, ValueError):
            self._child.ask_to_stop()
        deadline = time.monotonic() + grace_seconds
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.05)
        self._child.end_group()
        self._child.wait()
        for reader, pipe in zip(self._readers, (self._child.stdout, self._child.stderr), strict=True):
            reader.join(PIPE_DRAIN_SECONDS)
            if pipe is not None and not reader.is_alive():
                pipe.close()

    def _describe_end(self) -> str:
        with contextlib.suppress(Exception):
            self._child.wait(PIPE_DRAIN_SECONDS)
        code = self._child.poll()
        end = "closed its output" if code is None else describe_exit(code)
        output = "\n".join(self._last_lines) or "(none)"
        return f"the engine {end}. Its last output:\n{output}"

    def _on_stdout(self, line: str) -> None:
        reply = parse_reply(line)
        if reply is None:
            self._on_stderr(line)
        else:
            self._replies.put(reply)

    def _on_stderr(self, line: str) -> None:
        self._last_lines.append(line)
        logger.debug("conversion engine", line=line)
