"""Index, content and pitch of a voice of ten minutes, with weights of noise: the time is that of published ones."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.plan import Plan, is_missing, leave_out, say
from rvc_engine.compute.accelerators import set_current, synchronize
from rvc_engine.index.device_kmeans import DeviceMeans, nearest

SAMPLE_RATE = 16_000
SAMPLES = Path(__file__).parents[2] / "samples"


def _device(plan: Plan) -> torch.device:
    device = torch.device(plan.device)
    set_current(device)
    return device


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of work that has run once before."""
    for _ in range(2):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
    return time.perf_counter() - began


def _needs(package: str, name: str) -> bool:
    """Whether a package is there; prints a line where it is missing."""
    if is_missing(package):
        leave_out(name, f"needs the package {package}")
        return False
    return True


def index(plan: Plan) -> None:
    """Centres of the rows of ten minutes, and the nearest centre of each row."""
    device = _device(plan)
    rows, size = (500, 32) if plan.is_tiny else (30_000, 768)
    centres = 16 if plan.is_tiny else 770
    features = torch.randn(rows, size, generator=torch.Generator(device).manual_seed(0), device=device)
    means = DeviceMeans(features[:centres].cpu().numpy(), device)

    def passes() -> None:
        for _ in range(8):
            means.begin_pass()
            for batch in features.split(max(4096, centres)):
                means.move(batch)

    say("index: eight passes of k-means", _seconds(device, passes), "s", f"{rows} rows, {centres} centres")
    say("index: nearest centres", _seconds(device, lambda: nearest(features, means.centres)), "s", f"{rows} rows")
    if _needs("faiss", "index: search in FAISS's lists"):
        import faiss

        found: Any = faiss.IndexFlatL2(size)
        data = features.cpu().numpy()
        found.add(data)
        say("index: FAISS, exact search of 100 rows", _seconds(device, lambda: found.search(data[:100], 8)), "s")


def content(plan: Plan) -> None:
    """Content features by a HuBERT of the published size, and the decoding of a recording."""
    from rvc_engine.content.hubert_model import Hubert, HubertSizes, weight_shapes

    device = _device(plan)
    sizes = HubertSizes(num_hidden_layers=1 if plan.is_tiny else 12)
    rng = torch.Generator(device).manual_seed(0)
    weights = {
        name: 0.02 * torch.randn(shape, generator=rng, device=device) for name, shape in weight_shapes(sizes).items()
    }
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = Hubert(sizes, weights, dtype)
    seconds, clips = (2, 1) if plan.is_tiny else (600, 32)
    waves = [torch.randn(int(3.7 * SAMPLE_RATE), generator=rng, device=device) for _ in range(clips)]
    calls = max(1, round(seconds / 3.7 / clips))

    @torch.inference_mode()
    def work() -> None:
        for _ in range(calls):
            model(waves)

    taken = _seconds(device, work)
    say("content: HuBERT base", taken, "s", f"{calls * clips * 3.7:.0f} s of speech, {clips} clips at once, {dtype}")
    if _needs("av", "content: decoding"):
        import av

        paths = sorted(SAMPLES.glob("*.flac"))[:1]

        def decode() -> None:
            for path in paths:
                with av.open(str(path)) as container:
                    for _ in container.decode(audio=0):
                        pass

        say("content: decoding one recording", _seconds(device, decode), "s", f"{[path.name for path in paths]}")


def pitch(plan: Plan) -> None:
    """F0 by RMVPE's and FCPE's models on the device, by SwiftF0 and WORLD's harvest on the CPU."""
    from rvc_engine.pitch.neural import fcpe_model, rmvpe_model

    device = _device(plan)
    seconds, batch = (2, 1) if plan.is_tiny else (600, 20)
    rng = torch.Generator(device).manual_seed(0)
    waves = torch.randn(batch, 3 * SAMPLE_RATE if not plan.is_tiny else SAMPLE_RATE, generator=rng, device=device)
    per_call = waves.numel() / SAMPLE_RATE
    calls = max(1, round(seconds / per_call))
    models: tuple[tuple[str, Any, torch.nn.Module], ...] = (
        ("RMVPE", rmvpe_model.log_mel, rmvpe_model.Rmvpe(8) if plan.is_tiny else rmvpe_model.Rmvpe()),
        ("FCPE", fcpe_model.log_mel, fcpe_model.Fcpe()),
    )
    for name, log_mel, model in models:
        model.to(device).eval()

        @torch.inference_mode()
        def work(log_mel: Any = log_mel, model: torch.nn.Module = model) -> None:
            for _ in range(calls):
                mel = log_mel(waves)
                model(mel[..., : mel.shape[-1] // 32 * 32])

        say(f"pitch: {name}", _seconds(device, work), "s", f"{calls * per_call:.0f} s of speech, float32")
    if _needs("pyworld", "pitch: harvest"):
        import pyworld

        wave = waves[0].double().cpu().numpy()
        taken = _seconds(device, lambda: pyworld.harvest(wave, SAMPLE_RATE))
        say("pitch: harvest", taken, "s", f"{len(wave) / SAMPLE_RATE:.0f} s of speech, one thread")
