"""Converted speech is the reference's, sample by sample, on the same voice, features, pitch and index, without noise.

How the numbers were made: tests/golden/README.md. All inputs come from the recipe below.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rvc_engine.config import TrainingConfig
from rvc_engine.conversion import converter as conversion
from rvc_engine.conversion.converter import Analysis, ConversionOptions, Converter
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice

GOLDEN = Path(__file__).parents[2] / "golden" / "conversion.npz"
RATE = 16_000
STRIDE = 37
"""Every 37th sample is kept."""
TOLERANCE = 1e-3
"""Share of full scale."""


@dataclass(frozen=True)
class Case:
    """One conversion."""

    seconds: float
    version: str = "v2"
    sample_rate: str = "40k"
    f0: bool = True
    key: int = 0
    index_rate: float = 0.75
    rms_mix_rate: float = 0.25
    speaker: int = 0
    gain: float = 1.0
    """Gain of the input, which is scaled down if its peak is too high."""
    cut: bool = False
    """Whether input over 4 s is cut about every 3 s, shifted by at most 1 s, in place of every 38 s."""


CASES = {
    "plain": Case(1.5),
    "key_speaker_48k": Case(1.2, sample_rate="48k", key=-5, speaker=7, rms_mix_rate=1, index_rate=1),
    "without_pitch_v1_32k": Case(1.2, "v1", "32k", f0=False, gain=4),
    "cut": Case(7.0, key=3, cut=True, rms_mix_rate=0.5),
    "shorter_than_the_padding": Case(0.3, index_rate=0),
}


def random(name: str) -> np.random.RandomState:
    return np.random.RandomState(crc32(name.encode()))


def recipe_wave(case: Case) -> NDArray[np.float32]:
    """A voice-like glide with pauses at the cuts, an even number of frames apart, or the reference loses one."""
    n = int(case.seconds * RATE)
    times = np.arange(n) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * times)) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.2 * (1 + 0.5 * np.sin(2 * np.pi * 1.3 * times))
    wave += 0.005 * random("wave").standard_normal(n)
    for middle in (2.9, 6.305):
        wave[int(middle * RATE) : int(middle * RATE) + 1600] *= 0.001
    return (case.gain * wave).astype(np.float32)


def recipe_pitch(num_frames: int) -> NDArray[np.float64]:
    """Hz, a fifth of the frames unvoiced."""
    frame = np.arange(num_frames)
    return np.where(frame % 50 < 40, 140 + 30 * np.sin(frame / 23) + frame % 7, 0.0)


def recipe_features(wave: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Features in place of an encoder's: as many rows as HuBERT gives, each a function of its 400 samples."""
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(wave, np.float64), 400)[::320]
    mix = random("features").standard_normal((400, size)) / 20
    return np.tanh(20 * frames @ mix).astype(np.float32)


def recipe_index(size: int) -> Any:
    """Rows of the kind that `recipe_features` gives, in four lists of which one holds fewer than eight rows."""
    rows = np.tanh(random("rows").standard_normal((300, size))).astype(np.float32)
    centres = rows[[0, 1, 2]]
    quantizer = faiss.IndexFlatL2(size)
    far = np.full((1, size), 0.4, np.float32)
    quantizer.add(np.concatenate([centres, far]))
    index = faiss.IndexIVFFlat(quantizer, size, 4)
    index.is_trained = True
    index.add(rows)
    index.add(far + 0.01 * random("far").standard_normal((5, size)).astype(np.float32))
    return index


def recipe_voice(case: Case, path: Path) -> Path:
    """A voice file of a small synthesizer whose weights come from the tensors' names and shapes."""
    config = TrainingConfig.model_validate(
        {
            "version": case.version,
            "sample_rate": case.sample_rate,
            "f0": case.f0,
            "width": 24,
            "pretrained": "none",
        }
    )
    hparams = Hyperparameters.from_config(config)
    weights = Synthesizer(hparams).state_dict()
    for name, value in weights.items():
        a = random(name).standard_normal(tuple(value.shape))
        scale = 1 / np.sqrt(np.prod(value.shape[1:])) if value.ndim > 1 else 0.02
        a = 1 + 0.1 * a if name.endswith("gamma") else scale * a
        if name.endswith("weight_g"):
            a = np.full(value.shape, 1.5)
        weights[name] = torch.from_numpy(a.astype(np.float32))
    write_voice(path, weights, hparams, VoiceDetails("anna", 1, 1, "contentvec", 60.0))
    return path


class RecipeEncoder:
    """An encoder that returns `recipe_features`."""

    name = "contentvec"

    def __init__(self, size: int) -> None:
        self.feature_size = size

    def encode(self, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [recipe_features(wave, self.feature_size) for wave in waves]


class RecipePitch:
    """An estimator that returns `recipe_pitch`."""

    def estimate(self, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        return [recipe_pitch(len(wave) // 160) for wave in waves]


@pytest.fixture
def convert_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], NDArray[np.int16]]:
    """convert_case(case): the conversion by this engine, without noise."""

    def convert(case: Case) -> NDArray[np.int16]:
        size = 256 if case.version == "v1" else 768
        monkeypatch.setattr(conversion, "create_encoder", lambda *_: RecipeEncoder(size))
        monkeypatch.setattr(conversion, "create_estimator", lambda *_: RecipePitch())
        if case.cut:
            for name, seconds in (("LONGEST_WHOLE", 4), ("CUT_EVERY", 3), ("CUT_WITHIN", 1)):
                monkeypatch.setattr(conversion, name, seconds * RATE)
        faiss.write_index(recipe_index(size), str(tmp_path / "anna.index"))
        voice = recipe_voice(case, tmp_path / "anna.pth")
        converter = Converter(voice, tmp_path / "anna.index", Analysis(Machine(num_threads=1), torch.device("cpu")))
        monkeypatch.setattr(torch, "randn", lambda *shape, generator: torch.zeros(shape))
        options = ConversionOptions(case.key, case.index_rate, 0.5, case.rms_mix_rate, speaker=case.speaker)
        return converter.convert(recipe_wave(case), options).samples

    return convert


@pytest.mark.parametrize("name", CASES)
def test_the_wave_is_the_references(name: str, convert_case: Callable[[Case], NDArray[np.int16]]) -> None:
    golden = np.load(GOLDEN)
    facts = json.loads(str(golden[f"{name}_facts"]))
    ours = convert_case(CASES[name])
    compared = ours[: facts["length"]]  # the reference loses the last two frames
    assert len(ours) == CASES[name].seconds * facts["sample_rate"] == len(compared) + facts["sample_rate"] // 50
    difference = np.abs(compared[::STRIDE].astype(np.float64) - golden[f"{name}_samples"]) / 32768
    assert difference.max() < TOLERANCE
    assert np.abs(compared.astype(np.float64)).max() / 32768 == pytest.approx(facts["peak"], abs=TOLERANCE)
    assert facts["peak"] > 0.1  # there is something to compare
