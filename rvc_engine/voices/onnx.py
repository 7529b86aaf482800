"""Export of a voice as an ONNX graph for other programs, compared with the PyTorch model.

Inputs and output have the names, order and shapes of RVC's own ONNX files; T is the number of 10 ms frames:

| name | shape | type | meaning |
| --- | --- | --- | --- |
| `phone` | (1, T, 256 or 768) | float32 | content features, 100 rows a second |
| `phone_lengths` | (1,) | int64 | T |
| `pitch` | (1, T) | int64 | pitch bins 1..255; not for a voice without pitch |
| `pitchf` | (1, T) | float32 | pitch in Hz, 0 where unvoiced; not for a voice without pitch |
| `ds` | (1,) | int64 | speaker |
| `rnd` | (1, 192, T) | float32 | normal noise of unit variance; zeros give the mean |
| `audio` | (1, 1, T * hop) | float32 | the wave, -1..1 |

The graph draws no random numbers, so equal inputs give equal sound everywhere. The prior's noise is `rnd` times
0.66666. The noise of the sine source is `rnd` times a fixed matrix with rows of unit length: of unit variance too, and
different in each frame.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rvc_engine.environment.files import replace
from rvc_engine.errors import ArtifactInvalid, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.installation import install_command
from rvc_engine.models.backend import PYTORCH, use_backend
from rvc_engine.models.synthesizer import PRIOR_NOISE_SCALE
from rvc_engine.pitch.curve import coarse_pitch
from rvc_engine.voices.voice import Voice, load_voice
from rvc_engine.workspace.disk import translating_disk_full

OPSET = 18
MAX_DIFFERENCE = 1e-4
"""Largest allowed difference of any sample between graph and model."""
CHECK_FRAMES = (57, 210)
"""Lengths of the compared clips; neither is TRACED_FRAMES."""
TRACED_FRAMES = 100


@dataclass(frozen=True)
class Check:
    """Comparison of graph and model on one clip."""

    frames: int
    difference: float
    """Largest difference of any sample."""


class _Graph(nn.Module):
    """The inference of a voice with the inputs of an ONNX file."""

    source_mix: Tensor

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self.net, self.hparams = voice.model, voice.hparams
        mix = torch.randn(
            self.hparams.hop_length, self.hparams.hidden_channels, generator=torch.Generator().manual_seed(0)
        )
        self.register_buffer("source_mix", mix / mix.norm(dim=1, keepdim=True))

    def infer(
        self,
        phone: Tensor,
        phone_lengths: Tensor,
        pitch: Tensor | None,
        pitchf: Tensor | None,
        ds: Tensor,
        rnd: Tensor,
    ) -> Tensor:
        source = (self.source_mix @ rnd).transpose(1, 2).flatten(1) if pitchf is not None else None
        audio: Tensor = self.net.infer(phone, pitch, pitchf, phone_lengths, ds, rnd * PRIOR_NOISE_SCALE, source)
        return audio


class _WithPitch(_Graph):
    def forward(
        self, phone: Tensor, phone_lengths: Tensor, pitch: Tensor, pitchf: Tensor, ds: Tensor, rnd: Tensor
    ) -> Tensor:
        return self.infer(phone, phone_lengths, pitch, pitchf, ds, rnd)


class _WithoutPitch(_Graph):
    def forward(self, phone: Tensor, phone_lengths: Tensor, ds: Tensor, rnd: Tensor) -> Tensor:
        return self.infer(phone, phone_lengths, None, None, ds, rnd)


def export_onnx(voice_file: Path, target: Path) -> list[Check]:
    """Write the ONNX graph of a voice and compare it with the model on clips of two lengths; returns the comparisons.

    Raises IncompatibleCheckpoint when the file is not a voice, InvalidConfig when the packages for ONNX are not
    installed, ArtifactInvalid, and leaves no file, when graph and model differ by MAX_DIFFERENCE or more, DiskFull.
    """
    _require_packages()
    voice = load_voice(voice_file, torch.device("cpu"))
    use_backend(voice.model, PYTORCH)  # without layouts that suit only this machine's CPU
    graph = (_WithPitch if voice.hparams.f0 else _WithoutPitch)(voice).eval()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with translating_disk_full(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(graph, voice, temporary)
            checks = [_check(graph, temporary, frames) for frames in CHECK_FRAMES]
            worst = max(check.difference for check in checks)
            if not worst < MAX_DIFFERENCE:  # also true for NaN
                raise ArtifactInvalid(
                    f"the ONNX graph of {voice_file.name} does not sound like the voice (samples differ by up to "
                    f"{worst:.2g}, allowed {MAX_DIFFERENCE:g}); it was not written"
                )
            replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return checks


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InvalidConfig(
            f"ONNX export needs a package that is not installed ({error.name}); {install_command('onnx')}"
        ) from error


def example_inputs(hparams: Hyperparameters, frames: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random inputs by name for a clip of `frames` frames, with voiced and unvoiced stretches; shapes as above."""
    random = np.random.default_rng(seed)
    hz = np.where(np.arange(frames) % 50 < 40, 120 + 80 * random.random(frames), 0.0)
    inputs: dict[str, NDArray[np.generic]] = {
        "phone": random.standard_normal((1, frames, hparams.feature_size)).astype(np.float32),
        "phone_lengths": np.array([frames], np.int64),
    }
    if hparams.f0:
        inputs |= {"pitch": coarse_pitch(hz)[None].astype(np.int64), "pitchf": hz[None].astype(np.float32)}
    noise = random.standard_normal((1, hparams.hidden_channels, frames)).astype(np.float32)
    return {**inputs, "ds": np.array([0], np.int64), "rnd": noise}


def _write(graph: _Graph, voice: Voice, path: Path) -> None:
    import onnx

    inputs = example_inputs(graph.hparams, TRACED_FRAMES)
    time = torch.export.Dim("frames", min=2)
    axes = {
        "phone": {1: time},
        "phone_lengths": {},
        "pitch": {1: time},
        "pitchf": {1: time},
        "ds": {},
        "rnd": {2: time},
    }
    with _exporter_silenced(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["audio"],
            dynamic_shapes={name: axes[name] for name in inputs},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    facts = {
        "sample_rate": str(graph.hparams.sample_rate),
        "version": graph.hparams.version,
        "f0": str(int(graph.hparams.f0)),
        "hop_length": str(graph.hparams.hop_length),
        "speakers": str(graph.hparams.num_speakers),
        "embedder_model": voice.embedder,
    }
    onnx.helper.set_model_props(proto, facts)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


@contextmanager
def _exporter_silenced() -> Iterator[None]:
    """Suppress the exporter's warnings and log lines, which mean nothing to users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(graph: _Graph, path: Path, frames: int) -> Check:
    import onnxruntime

    inputs = example_inputs(graph.hparams, frames, seed=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [rendered] = session.run(["audio"], inputs)
    with torch.no_grad():
        expected = graph(*(torch.from_numpy(value) for value in inputs.values())).numpy()
    if rendered.shape != expected.shape:
        raise ArtifactInvalid(f"the ONNX graph gives audio of shape {rendered.shape} instead of {expected.shape}")
    return Check(frames, float(np.abs(rendered - expected).max()))
