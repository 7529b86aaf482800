"""Measurements of a calibration: the stages on made-up sound, then training steps, within a limit of time."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch

from rvc_engine.audio import slicing
from rvc_engine.audio.mel import spectrogram
from rvc_engine.calibration.results import Calibration, StepTime
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.accelerators import has_graphs, synchronize
from rvc_engine.compute.device import open_devices
from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.compute.precision import Precision, use_tf32
from rvc_engine.config import TrainingConfig, Width
from rvc_engine.content import stage as content_stage
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Noise
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.reporting import StageReport
from rvc_engine.training.cuda_graphs import WARM_UP_STEPS, CudaGraphCapturer, GraphedSteps
from rvc_engine.training.step import StepInputs, training_step
from rvc_engine.workspace.layout import Workspace

LIMIT_SECONDS = 20.0
"""Time of a calibration. A step that would probably end later is not begun."""
SOUND_SECONDS = 30
CLIP_FRAMES = 350
"""Padded length of a usual batch: clips have at most 400 frames of 10 ms."""
NUM_TIMED = 3
"""Steps of which the fastest counts; one where it takes longer than SLOW_SECONDS."""
SLOW_SECONDS = 1.0
_CPU_BATCHES = (1, 3)
_GPU_BATCHES = (4, 16)
_WIDTHS: tuple[Width, ...] = (24, 192)
_NEXT_BATCH, _NEXT_WIDTH = 3.0, 9.0
"""Largest duration of a step at the next size, relative to one at this size."""

Clock = Callable[[], float]


def calibrate(machine: Machine, clock: Clock = time.perf_counter, limit_seconds: float = LIMIT_SECONDS) -> Calibration:
    """Measure the speed of the machine's first device. `clock` counts seconds, those of the CPU too.

    Raises InvalidConfig when the device is not available.
    """
    began, process_start = clock(), psutil.Process().create_time()
    start_seconds = max(0.0, time.time() - process_start)
    device = open_devices(machine)[0]
    if device.type == "cuda":
        use_tf32(True)
    config = TrainingConfig(content="whisper-tiny", pretrained="none")
    with tempfile.TemporaryDirectory(prefix="rvc-calibration-") as folder:
        slice_seconds, pitch_seconds, content_seconds, load_seconds = _time_stages(
            Path(folder), config, machine, device, clock
        )
    precision = Precision.choose("auto", device)
    steps = list(_time_steps(device, precision, clock, began + limit_seconds))
    return Calibration(
        version=version("rvc-train"),
        torch=torch.__version__,
        device=device.type,
        num_threads=torch.get_num_threads(),
        jobs_per_device=machine.jobs_per_device,
        precision=precision.name,
        measured_at=datetime.now(UTC),
        took_seconds=clock() - began,
        start_seconds=start_seconds,
        slice_seconds=slice_seconds,
        pitch_seconds=pitch_seconds,
        content_seconds=content_seconds,
        load_seconds=load_seconds,
        steps=steps,
    )


def _time_stages(
    folder: Path, config: TrainingConfig, machine: Machine, device: torch.device, clock: Clock
) -> tuple[float, float, float, float]:
    """Seconds of slicing, pitch and content for a second of sound, and those of loading the latter two."""
    dataset, workspace = folder / "recordings", Workspace(folder / "run", "calibration")
    dataset.mkdir()
    _write_sound(dataset / "made-up.wav", config.sample_rate_hz)

    def timed(work: Callable[[StageReport], object]) -> float:
        started = clock()
        work(StageReport("slice", lambda _: None))
        return clock() - started

    sliced = timed(lambda report: slicing.run(dataset, workspace, config, report))
    pitch = [timed(lambda report: pitch_stage.run(workspace, config, machine, report)) for _ in range(2)]
    content = [timed(lambda report: content_stage.run(workspace, config, machine, device, report)) for _ in range(2)]
    load_seconds = sum(max(0.0, first - second) for first, second in (pitch, content))
    return sliced / SOUND_SECONDS, pitch[1] / SOUND_SECONDS, content[1] / SOUND_SECONDS, load_seconds


def _write_sound(path: Path, sample_rate: int) -> None:
    """Write a voice-like sound: gliding harmonics in phrases of 2.5 s with short pauses, over faint noise."""
    seconds = np.arange(SOUND_SECONDS * sample_rate) / sample_rate
    phase = 2 * np.pi * np.cumsum(150 + 50 * np.sin(seconds)) / sample_rate
    voice = sum(0.1 / k * np.sin(k * phase) for k in range(1, 12)) * (seconds % 3 < 2.5)
    soundfile.write(path, voice + 0.0003 * np.random.default_rng(0).standard_normal(len(seconds)), sample_rate)


def _time_steps(device: torch.device, precision: Precision, clock: Clock, deadline: float) -> Iterator[StepTime]:
    """Durations of training steps: of each width the smaller batch first; at least one."""
    last = 0.0
    for width in _WIDTHS:
        hparams = Hyperparameters.from_config(TrainingConfig(width=width, pretrained="none"))
        state: GanTrainState | None = None
        for batch_size in _CPU_BATCHES if device.type == "cpu" else _GPU_BATCHES:
            growth = _NEXT_BATCH if state is not None else _NEXT_WIDTH
            if last and clock() + growth * last > deadline:
                return
            try:
                state = state or GanTrainState.build(hparams, device, 1e-4, precision)
                last = _step_seconds(state, batch_size, clock, deadline)
            except RuntimeError as error:
                if last == 0 or not is_out_of_memory(error):
                    raise
                return
            yield StepTime(width=width, batch_size=batch_size, seconds=last)


def _step_seconds(state: GanTrainState, batch_size: int, clock: Clock, deadline: float) -> float:
    """The fastest of a few steps, after those that only warm up unless there is no time for more."""
    device, inputs = state.device, _inputs(state, batch_size)
    graphs = None
    if has_graphs(device):
        graphs = GraphedSteps(state, CudaGraphCapturer(device), CLIP_FRAMES, {batch_size})
    num_warm_ups = 1 if graphs is None else WARM_UP_STEPS + 1  # the last captures the graph
    best = float("inf")
    for number in range(num_warm_ups + NUM_TIMED):
        started = clock()
        if graphs is None or graphs.replay(inputs, batch_size) is None:
            with nullcontext() if graphs is None else graphs.warm_up():
                training_step(state, inputs.batch, inputs.starts, inputs.noise)
        synchronize(device)
        taken = clock() - started
        if number == 0 or number >= num_warm_ups:
            best = taken if number == num_warm_ups else min(best, taken)
        if clock() + taken > deadline or (number >= num_warm_ups and taken > SLOW_SECONDS):
            break
    return best


def _inputs(state: GanTrainState, batch_size: int) -> StepInputs:
    """A batch of noise."""
    hparams, device = state.hparams, state.device
    rng = torch.Generator(device).manual_seed(0)
    wave = 0.1 * torch.randn(batch_size, CLIP_FRAMES * hparams.hop_length, generator=rng, device=device)
    shape = (batch_size, CLIP_FRAMES)
    batch = Batch(
        features=torch.randn(*shape, hparams.feature_size, generator=rng, device=device),
        coarse_f0=torch.ones(shape, dtype=torch.long, device=device),
        f0=torch.full(shape, 200.0, device=device),
        spec=spectrogram(wave, hparams.n_fft, hparams.hop_length),
        wave=wave,
        lengths=torch.full((batch_size,), CLIP_FRAMES, device=device),
        speakers=torch.zeros(batch_size, dtype=torch.long, device=device),
    )
    starts = torch.zeros(batch_size, dtype=torch.long, device=device)
    return StepInputs(batch, starts, Noise.draw(hparams, batch_size, CLIP_FRAMES, rng))
