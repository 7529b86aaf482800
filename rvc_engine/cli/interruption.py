"""Answers to Ctrl-C: at once to the first one, and to the second, which ends the run, the work that is lost."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rvc_engine.checkpoints.manifest import read_entries
from rvc_engine.events import Event, Metric, Progress, Stage, StageChanged
from rvc_engine.workspace.layout import Workspace

EXIT_INTERRUPTED = 130
"""Exit code after the second Ctrl-C, as a shell gives to a program that SIGINT ended."""
SECONDS_TO_END = 1.0
"""Time for the main thread to end by itself after the second Ctrl-C."""
STOPPING = {
    signal.SIGINT: "stopping after this step; press Ctrl-C again to end now, without a checkpoint",
    signal.SIGTERM: "stopping after this step",
}
if sys.platform == "win32":
    STOPPING[signal.SIGBREAK] = STOPPING[signal.SIGTERM]


@contextmanager
def answered_at_once(say: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
    """Context in which a thread answers SIGINT and SIGTERM: the first with `say`, a second SIGINT with the end.

    Python runs signal handlers between two operations of the main thread, and one of them can take seconds: the
    interpreter's wake-up file descriptor is written to at once. Only the main thread can set that one. A second SIGINT
    within the same operation is not noticed there: then `end` is called, and the process ends with EXIT_INTERRUPTED.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()

    def answer() -> None:
        received: list[int] = []
        while number := receiver.recv(1):
            received += number
            if len(received) == 1 and (text := STOPPING.get(signal.Signals(received[0]))):
                say(text)
            if received.count(signal.SIGINT) == 2:
                if not is_over.wait(SECONDS_TO_END):
                    end()
                    os._exit(EXIT_INTERRUPTED)  # files survive it, as they survive a kill
                return

    thread = threading.Thread(target=answer, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(previous)
        sender.close()
        thread.join()
        receiver.close()


class LostWork:
    """Observer of a run's events, for the work since the last checkpoint."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._stage: Stage | None = None
        self._step = 0

    def __call__(self, event: Event) -> None:
        """Note the stage and the step."""
        if isinstance(event, StageChanged):
            self._stage = event.stage if event.state == "started" else None
        elif isinstance(event, Progress | Metric):
            self._step = max(self._step, event.step or 0)

    def describe(self) -> str:
        """Sentence about the work that is lost when the run ends now, and the way to go on."""
        if self._stage is None:
            return "ended at once; run the same command again to go on"
        if self._stage != "train":
            return f"ended at once: the work of stage {self._stage} is lost; run the same command again to repeat it"
        entries = read_entries(self._workspace.recovery)
        saved = entries[-1].step if entries else 0
        if self._step <= saved:
            return f"ended at once after the checkpoint of step {saved}; run the same command again to go on"
        lost = self._step - saved
        since = f"since the checkpoint of step {saved}" if entries else "so far, as no checkpoint was saved yet"
        steps = "1 step is lost, that" if lost == 1 else f"{lost} steps are lost, those"
        return f"ended at once: {steps} {since}; run the same command again to go on"
