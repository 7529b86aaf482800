"""Voices per hour with several trainings at once on the GPU, each a process with its share of the memory."""

import subprocess
import sys
import time
from dataclasses import replace

from benchmarks.gpu.plan import Plan, say
from benchmarks.gpu.steps import Bench, OurSteps
from rvc_engine.compute.accelerators import share_memory, synchronize

AT_ONCE = (1, 2, 4, 8)
STEADY_SECONDS = 60.0
SPEECH_SECONDS, CLIP_SECONDS, EPOCHS, BATCH_SIZE = 600, 3.7, 300, 4
STEPS_A_VOICE = -(-SPEECH_SECONDS // (CLIP_SECONDS * BATCH_SIZE)) * EPOCHS
"""Steps of a voice of ten minutes of speech with the default settings."""
READY, GO = "ready", "go"


def voices(plan: Plan) -> None:
    """Measure each number at once; the first is what the others are compared with."""
    numbers = AT_ONCE[:2] if plan.is_tiny else AT_ONCE
    alone: float | None = None
    for place, number in enumerate(numbers):
        rate, notes = _steps_per_second(plan, number, plan.seconds_left / (len(numbers) - place))
        per_hour = 3600 * rate / STEPS_A_VOICE
        alone = per_hour if alone is None else alone
        notes += f"; {per_hour / alone:.3g} times one at once; a voice: {STEPS_A_VOICE:.0f} steps of batch {BATCH_SIZE}"
        say(f"voices per GPU-hour, {number} at once", per_hour, "voices/h", notes)


def _steps_per_second(plan: Plan, number: int, seconds: float) -> tuple[float, str]:
    """Steps a second of all together, and how they were measured."""
    ends_at = time.time() + seconds
    each = replace(plan, ends_at=ends_at)
    command = [sys.executable, "-m", "benchmarks.gpu.part", "voice", each.dump()]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    try:
        for process in running:
            assert process.stdin is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        for process in running:
            _expect(process, READY)
        steady = 0.3 if plan.is_tiny else max(1.0, min(STEADY_SECONDS, ends_at - time.time() - 2))
        for process in running:
            assert process.stdin is not None
            process.stdin.write(f"{GO} {steady}\n")
            process.stdin.flush()
        found = [float(_expect(process, "")) for process in running]
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return sum(found), f"{steady:.0f} s of steady steps, slowest {min(found):.3g} steps/s, fastest {max(found):.3g}"


def _expect(process: "subprocess.Popen[str]", word: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line.startswith(word) or not line:
        raise RuntimeError(f"one of the trainings ended with the code {process.wait()}; its error stands above")
    return line


def voice(plan: Plan) -> None:
    """One of the trainings: warm up, wait for the others, and take steps for the given time."""
    number = int(sys.stdin.readline())
    bench = Bench(plan)
    if number > 1:
        share_memory(bench.device, number)
    ours = OurSteps(bench, 2 if plan.is_tiny else BATCH_SIZE)
    ours.warm_up()
    print(READY, flush=True)
    seconds = float(sys.stdin.readline().split()[1])
    began, taken = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        ours.take(taken)
        taken += 1
        if taken % 4 == 0:
            synchronize(bench.device)
    synchronize(bench.device)
    print(taken / (time.perf_counter() - began), flush=True)
