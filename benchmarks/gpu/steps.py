"""Training steps on made-up clips: gradients, times, memory and losses, beside the plain way."""

import gc
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.plan import Plan, leave_out, say
from benchmarks.plain_step import PlainSteps
from rvc_engine.audio.mel import spectrogram
from rvc_engine.checkpoints.train_state import GanTrainState
from rvc_engine.compute.accelerators import has_graphs, set_current, synchronize
from rvc_engine.compute.compilation import Compiler
from rvc_engine.compute.precision import Precision, use_tf32
from rvc_engine.config import TrainingConfig
from rvc_engine.data.batch import Batch
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Noise
from rvc_engine.training.cuda_graphs import WARM_UP_STEPS, CudaGraphCapturer, GraphedSteps
from rvc_engine.training.step import StepInputs, StepResult, draw_starts, training_step
from rvc_engine.training.throughput import peak_matmul_flops

RATE = 1e-4
LOSS_STEPS, LOSS_WINDOW = 150, 50
LOSSES = StepResult.NAMES[:5]
NUM_BATCHES = 8
"""Different batches, taken in turns."""


class Bench:
    """The device, and batches of made-up clips on it: gliding harmonics, and noise as content."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.device = plan, torch.device(plan.device)
        set_current(self.device)
        if self.device.type == "cuda":
            use_tf32(True)
        self.hparams = Hyperparameters.from_config(TrainingConfig(width=plan.width, pretrained="none"))
        self.frames = 64 if plan.is_tiny else 376
        self.batch_sizes = (2,) if plan.is_tiny else (4, 16)
        self.precision = Precision.choose("auto", self.device)

    def inputs(self, batch_size: int, number: int = 0) -> StepInputs:
        """One of `NUM_BATCHES` batches of clips of the same length, with its random numbers."""
        rng = torch.Generator(self.device).manual_seed(number % NUM_BATCHES)
        hparams, frames = self.hparams, self.frames
        hz = 100 + 150 * torch.rand(batch_size, 1, generator=rng, device=self.device)
        f0 = hz * torch.linspace(1, 1.5, frames, device=self.device)
        phase = 2 * torch.pi * f0.repeat_interleave(hparams.hop_length, 1).cumsum(1) / hparams.sample_rate
        wave = torch.stack([0.1 / k * torch.sin(k * phase) for k in range(1, 8)]).sum(0)
        wave += 0.003 * torch.randn(wave.shape, generator=rng, device=self.device)
        batch = Batch(
            features=torch.randn(batch_size, frames, hparams.feature_size, generator=rng, device=self.device),
            coarse_f0=(f0 / 4).clamp(1, 255).long(),
            f0=f0,
            spec=spectrogram(wave, hparams.n_fft, hparams.hop_length),
            wave=wave,
            lengths=torch.full((batch_size,), frames, device=self.device),
            speakers=torch.zeros(batch_size, dtype=torch.long, device=self.device),
        )
        starts = draw_starts(batch.lengths, hparams.segment_frames, rng)
        return StepInputs(batch, starts, Noise.draw(hparams, batch_size, frames, rng))

    def state(self, precision: Precision | None = None, rate: float = RATE) -> GanTrainState:
        """Models with the same first weights each time."""
        torch.manual_seed(1)
        return GanTrainState.build(self.hparams, self.device, rate, precision or self.precision)

    def seconds(self, step: Callable[[int], object], least_steps: int, most_seconds: float) -> float:
        """Mean seconds of a step, over so many at least, for so long at most after them."""
        synchronize(self.device)
        began, taken = time.perf_counter(), 0
        while taken < least_steps or (time.perf_counter() - began < most_seconds and not self.plan.is_tiny):
            step(taken)
            taken += 1
            if taken % 4 == 0:
                synchronize(self.device)
        synchronize(self.device)
        return (time.perf_counter() - began) / taken


class OurSteps:
    """Steps as the train stage takes them, with graphs where the device has them."""

    def __init__(self, bench: Bench, batch_size: int, *, with_graphs: bool = True) -> None:
        self.bench, self.state = bench, bench.state()
        self.batches = [bench.inputs(batch_size, number) for number in range(NUM_BATCHES)]
        self.graphs = None
        if with_graphs and has_graphs(bench.device):
            self.graphs = GraphedSteps(self.state, CudaGraphCapturer(bench.device), bench.frames, {batch_size})

    def take(self, number: int) -> StepResult:
        """Take a step; the first few capture its graph."""
        inputs = self.batches[number % NUM_BATCHES]
        result = None if self.graphs is None else self.graphs.replay(inputs, inputs.num_clips)
        if result is None:
            with nullcontext() if self.graphs is None else self.graphs.warm_up():
                result = training_step(self.state, inputs.batch, inputs.starts, inputs.noise)
        return result

    def warm_up(self) -> None:
        """Take the steps that choose algorithms and capture the graph."""
        for number in range(2 if self.graphs is None else WARM_UP_STEPS + 2):
            self.take(number)
        synchronize(self.bench.device)


def gradients(plan: Plan) -> None:
    """Cosines of G's and D's gradients with those in float32, at the first step and after 24."""
    bench = Bench(plan)
    trained = OurSteps(bench, 2 if plan.is_tiny else 4, with_graphs=False)
    probe = bench.state(Precision("fp32", bench.device.type), 0.0)
    names = ("bf16",) if bench.device.type == "cpu" else ("fp16", "bf16")
    for after in (0, 2 if plan.is_tiny else 24):
        for number in range(after):
            trained.take(number)
        for name in ("synthesizer", "discriminators"):
            getattr(probe, name).load_state_dict(getattr(trained.state, name).state_dict())
        use_tf32(False)
        exact = _gradients(probe, Precision("fp32", bench.device.type), trained.batches[0])
        use_tf32(True)
        for name in names:
            found = _gradients(probe, Precision(name, bench.device.type), trained.batches[0])
            for model, ours, theirs in zip("GD", found, exact, strict=True):
                cosine = float(ours.double() @ theirs.double() / (ours.double().norm() * theirs.double().norm()))
                say(f"gradient of {model} in {name}, step {after}", cosine, "cosine", "should be above 0.999")


def _gradients(state: GanTrainState, precision: Precision, inputs: StepInputs) -> tuple[Tensor, Tensor]:
    """Gradients of G and of D. The learning rate is 0, so that weights stay."""
    state.set_precision(precision)
    for _ in range(20):  # a gradient scaler begins with a scale that is too large
        result = training_step(state, inputs.batch, inputs.starts, inputs.noise)
        if bool(result.stacked().isfinite().all()):
            break
    models = (state.synthesizer, state.discriminators)
    if state.device.type != "cpu":  # the generator's half has dropped D's gradients
        _discriminator_gradients(state, inputs)
    g, d = (torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in models)
    return g, d


def _discriminator_gradients(state: GanTrainState, inputs: StepInputs) -> None:
    from rvc_engine.training.step import BatchTotals, discriminator_backward

    discriminator_backward(state, [inputs], None, BatchTotals(inputs.num_clips, inputs.batch.lengths.sum()))


def steps(plan: Plan) -> None:
    """Seconds of a step: the plain way, ours kernel by kernel, and by graphs; and the share of the device's limit."""
    bench = Bench(plan)
    peak = peak_matmul_flops(bench.device, bench.precision)
    for place, batch_size in enumerate(bench.batch_sizes):
        ways_left = 3 * (len(bench.batch_sizes) - place)
        plain, batches = PlainSteps(bench.hparams, bench.device, RATE), [bench.inputs(batch_size, n) for n in range(8)]

        def plain_step(number: int, plain: PlainSteps = plain, batches: list[StepInputs] = batches) -> Tensor:
            each = batches[number % NUM_BATCHES]
            return plain.take(each.batch, each.starts, each.noise)

        for number in range(2):
            plain_step(number)
        reference = bench.seconds(plain_step, 1, min(5.0, plan.seconds_left / ways_left / 2))
        say(f"step the plain way, batch {batch_size}", reference, "s", plain.precision.name)
        del plain, plain_step
        for with_graphs in (False, True):
            ours = OurSteps(bench, batch_size, with_graphs=with_graphs)
            if with_graphs and ours.graphs is None:
                leave_out(f"step by graphs, batch {batch_size}", "the device has no CUDA graphs")
                continue
            ours.warm_up()
            ways_left -= 1
            taken = bench.seconds(ours.take, 2, min(5.0, plan.seconds_left / max(1, ways_left) / 2))
            name = f"step {'by graphs' if with_graphs else 'kernel by kernel'}, batch {batch_size}"
            say(name, taken, "s", ours.state.precision.name, reference)
            if peak is not None:
                flops = _step_flops(ours)
                say(f"{name}: share of the limit", flops / taken / peak, "1", f"limit: {peak / 1e12:.3g} TFLOP/s")
            del ours
            _free()


def _step_flops(ours: OurSteps) -> float:
    inputs = ours.batches[0]
    with FlopCounterMode(display=False) as counter:
        training_step(ours.state, inputs.batch, inputs.starts, inputs.noise)
    return float(counter.get_total_flops())


def _free() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def compiled(plan: Plan) -> None:
    """Seconds of a step with compile=true, by graphs where there are such, and of compiling."""
    bench = Bench(plan)
    if bench.device.type != "cuda":
        leave_out("step with compile=true", "the device is not CUDA")
        return
    for batch_size in bench.batch_sizes:
        ours = OurSteps(bench, batch_size)
        ours.warm_up()
        before = bench.seconds(ours.take, 2, 2)
        del ours
        _free()
        ours, warned = OurSteps(bench, batch_size), list[str]()
        compiler = Compiler(lambda _: None, warned.append)
        ours.state.compile(compiler)
        ours.warm_up()
        say(f"compiling, batch {batch_size}", compiler.seconds, "s", "; ".join(warned))
        taken = bench.seconds(ours.take, 2, 2)
        say(f"step with compile=true, batch {batch_size}", taken, "s", "reference: not compiled", before)
        del ours
        _free()


def memory(plan: Plan) -> None:
    """Peak memory of some steps, ours by graphs where there are such, and the plain way."""
    bench = Bench(plan)
    for batch_size in bench.batch_sizes:
        inputs = bench.inputs(batch_size)
        plain = PlainSteps(bench.hparams, bench.device, RATE)
        reference = _peak(bench, lambda _, plain=plain, i=inputs: plain.take(i.batch, i.starts, i.noise))  # type: ignore[misc]
        del plain
        _free()
        ours = OurSteps(bench, batch_size)
        found = _peak(bench, ours.take)
        say(f"peak memory, batch {batch_size}", found, "GB", "reserved by PyTorch, weights included", reference)
        del ours
        _free()


def _peak(bench: Bench, step: Callable[[int], object]) -> float:
    is_cuda = bench.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    for number in range(2 if bench.plan.is_tiny else WARM_UP_STEPS + 3):
        step(number)
    synchronize(bench.device)
    if is_cuda:
        return torch.cuda.max_memory_reserved(bench.device) / 1e9
    if sys.platform == "win32":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def losses(plan: Plan) -> None:
    """Mean losses of the last of 150 steps, ours and the plain way's, from the same weights on the same batches."""
    bench = Bench(plan)
    count, window = (2, 1) if plan.is_tiny else (LOSS_STEPS, LOSS_WINDOW)
    ours = OurSteps(bench, bench.batch_sizes[0])
    torch.manual_seed(1)
    plain = PlainSteps(bench.hparams, bench.device, RATE)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for number in range(count):
        each = ours.batches[number % NUM_BATCHES]
        found.append(ours.take(number).stacked()[: len(LOSSES)].clone())
        expected.append(plain.take(each.batch, each.starts, each.noise))
        if number % 10 == 9 and plan.seconds_left < 2:
            break
    window = min(window, len(found))
    means = [torch.stack(values[-window:]).mean(0).tolist() for values in (found, expected)]
    for name, ours_mean, plain_mean in zip(LOSSES, *means, strict=True):
        say(name, ours_mean, "loss", f"mean of the last {window} of {len(found)} steps", plain_mean)
