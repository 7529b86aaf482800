"""A simulated engine that trains nothing and writes events like a busy real one, for `benchmarks.service_load`.

It takes the real engine's options, and writes progress and metrics at every step, twice a second, as
`rvc_engine.reporting` does, and a log line every 20 steps. `writes.json` in its workspace lists the time of each write
to its pipe (Unix time) and its duration, in seconds.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from rvc_engine.events import EXIT_STOPPED, Event, Log, Metric, Progress, StageChanged, Stopped, format_event
from rvc_engine.workspace.atomic_files import write_atomically

STEP_SECONDS = 0.5
KEYS = ("loss/mel", "loss/kl", "loss/gen", "loss/fm", "loss/disc", "lr", "grad/generator", "grad/discriminator")


def main() -> None:
    """Write events until SIGTERM."""
    workspace = Path(next(word for word in sys.argv if word.startswith("--workspace=")).partition("=")[2])
    workspace.mkdir(parents=True, exist_ok=True)
    is_over = False
    writes: list[tuple[float, float]] = []

    def stop(*_: object) -> None:
        nonlocal is_over
        is_over = True

    def emit(event: Event) -> None:
        line = (format_event(event) + "\n").encode()
        begin = time.perf_counter()
        os.write(1, line)
        writes.append((time.time(), time.perf_counter() - begin))

    signal.signal(signal.SIGTERM, stop)
    emit(StageChanged(stage="train", state="started"))
    step = 0
    while not is_over:
        step += 1
        emit(Metric(step=step, epoch=1, values=dict.fromkeys(KEYS, 1.0 + step / 1000)))
        numbers = {"stage_progress": 0.5, "progress": 0.5, "eta_seconds": 100.0, "step_seconds": STEP_SECONDS}
        emit(Progress(stage="train", epoch=1, total_epochs=10, step=step, total_steps=10_000, **numbers))
        if step % 20 == 0:
            emit(Log(message=f"step {step}"))
        write_atomically(workspace / "writes.json", json.dumps(writes).encode())
        time.sleep(STEP_SECONDS)
    emit(Stopped(message="stopped as requested"))
    sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
