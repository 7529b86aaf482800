"""The pitch models compute the reference's numbers, on weights and a sound made from a recipe.

The recipe: see tests/golden/README.md.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import nn

from rvc_engine.pitch.neural import crepe_model, fcpe_model, rmvpe_model
from rvc_engine.pitch.neural.crepe import CrepeEstimator, activation_to_hz, likelihood
from rvc_engine.pitch.neural.crepe_model import Crepe
from rvc_engine.pitch.neural.fcpe import THRESHOLD as FCPE_THRESHOLD
from rvc_engine.pitch.neural.fcpe_model import Fcpe
from rvc_engine.pitch.neural.rmvpe import THRESHOLD as RMVPE_THRESHOLD
from rvc_engine.pitch.neural.rmvpe_model import Rmvpe
from rvc_engine.pitch.neural.salience import CENTS, salience_from_mels, salience_to_hz
from rvc_engine.pitch.neural.viterbi import viterbi_path

FOLDER = Path(__file__).parents[2] / "golden"
LAYOUTS = json.loads((FOLDER / "pitch_nets.json").read_text())
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(FOLDER / "pitch_nets.npz") as file:
        return dict(file)


def recipe(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Reproducible weights from the names and shapes alone."""
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros((), dtype=torch.long)
            continue
        a = np.asarray(np.random.RandomState(crc32(name.encode())).standard_normal(tuple(shape)), np.float32)
        if name.endswith(("running_var", "weight_g")):
            a = 1 + 0.1 * np.abs(a)
        else:
            a = a / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.02 * a
        if name.endswith("weight") and len(shape) == 1:
            a = 1 + a
        weights[name] = torch.from_numpy(np.asarray(a, np.float32))
    return weights


def published_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes as the published file has them, in its order."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if isinstance(model, Crepe):  # kernels of (size, 1)
        return {name: torch.Size([*shape, 1]) if len(shape) == 3 else shape for name, shape in shapes.items()}
    return shapes


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    noise = np.random.RandomState(crc32(b"sound"))
    times = np.arange(int(16_000 * 0.7)) / 16_000
    phase = 2 * np.pi * np.cumsum(140 * 2 ** (0.5 * times)) / 16_000
    voice = 0.1 * sum(np.sin(n * phase) / n for n in range(1, 12))
    return (voice + 0.01 * noise.standard_normal(len(times))).astype(np.float32)


@pytest.mark.parametrize("name", ["rmvpe", "fcpe", "crepe", "crepe-tiny"])
def test_every_tensor_has_the_name_shape_and_place_of_the_published_file(name: str) -> None:
    with torch.device("meta"):
        model = {"rmvpe": Rmvpe, "fcpe": Fcpe}.get(name, lambda: Crepe(name))()
    shapes = published_shapes(model)
    lines = "".join(f"{key} {list(shape)}\n" for key, shape in shapes.items())
    values = sum(shape.numel() for shape in shapes.values())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert {"tensors": len(shapes), "values": values, "sha256": digest} == LAYOUTS[name]


def test_rmvpe_computes_the_references_salience(golden: Mapping[str, np.ndarray], sound: np.ndarray) -> None:
    model = Rmvpe(width=2).eval()
    model.load_state_dict(recipe(published_shapes(model)))
    mel = rmvpe_model.log_mel(torch.from_numpy(sound)[None])
    assert np.abs(mel[0].numpy()[::4] - golden["rmvpe_mel"]).max() < 1e-4
    with torch.inference_mode():
        [salience] = salience_from_mels(list(mel), model, multiple=32, window_frames=6144, batch_frames=6144)
    assert salience.shape == (71, 360)
    assert np.abs(salience[::3] - golden["rmvpe_salience"]).max() < 1e-4


def test_rmvpes_salience_is_decoded_as_the_reference_does(golden: Mapping[str, np.ndarray]) -> None:
    salience = golden["rmvpe_salience"]
    curve = salience_to_hz(salience, CENTS, RMVPE_THRESHOLD)
    assert np.abs(1200 * np.log2(curve / golden["rmvpe_f0"])).max() < 0.01
    faint = salience * np.linspace(0.02, 1, 71, dtype=np.float32)[::3, None]
    quiet, expected = salience_to_hz(faint, CENTS, RMVPE_THRESHOLD), golden["rmvpe_quiet_f0"]
    assert 0 < np.count_nonzero(expected == 0) < len(expected)
    assert np.allclose(quiet, expected, rtol=1e-6)


def test_fcpe_computes_torchfcpes_salience(golden: Mapping[str, np.ndarray], sound: np.ndarray) -> None:
    model = Fcpe().eval()
    weights = recipe(published_shapes(model))
    model.load_state_dict(weights | {"cent_table": torch.from_numpy(golden["fcpe_cent_table"])})
    mel = fcpe_model.log_mel(torch.from_numpy(sound)[None])
    assert np.abs(mel[0].numpy()[::4] - golden["fcpe_mel"]).max() < 1e-4
    with torch.inference_mode():
        [salience] = salience_from_mels(list(mel), model, multiple=1, window_frames=6144, batch_frames=6144)
    assert salience.shape == (71, 360)
    assert np.abs(salience[::3] - golden["fcpe_salience"]).max() < 1e-4
    curve = salience_to_hz(golden["fcpe_salience"], golden["fcpe_cent_table"].astype(np.float64), FCPE_THRESHOLD)
    in_range = (golden["fcpe_f0"] > 50) & (golden["fcpe_f0"] < 1100)
    assert in_range.sum() > 10
    assert np.abs(1200 * np.log2(curve[in_range] / golden["fcpe_f0"][in_range])).max() < 0.01


@pytest.mark.parametrize("kind", ["crepe", "crepe-tiny"])
def test_crepe_computes_torchcrepes_activation(
    kind: crepe_model.Kind, golden: Mapping[str, np.ndarray], sound: np.ndarray
) -> None:
    model = Crepe(kind)
    model.load_state_dict(model.convert_published_weights(recipe(published_shapes(model))))
    expected = golden[f"{kind.replace('-', '_')}_activation"]
    if kind == "crepe-tiny":
        activation = CrepeEstimator(model, CPU).activation(sound)
        assert activation.shape == (71, 360)
        assert np.abs(activation[::3] - expected).max() < 1e-5
    else:  # four frames: it is slow
        padded = np.pad(sound, 512)
        windows = np.stack([padded[frame * 160 :][:1024] for frame in range(30, 34)])
        with torch.inference_mode():
            activation = model.eval()(crepe_model.normalize(torch.from_numpy(windows))).numpy()
        assert np.abs(activation - expected).max() < 1e-5


def test_crepes_path_and_periodicity_are_torchcrepes(golden: Mapping[str, np.ndarray]) -> None:
    activation = np.random.RandomState(crc32(b"activation")).random_sample((80, 360)).astype(np.float32) ** 4
    for frame in range(80):
        centre = int(120 + 60 * np.sin(frame / 9))
        activation[frame, centre - 2 : centre + 3] = 0.9 if frame % 11 else 0.05
    path = golden["crepe_tiny_path"]
    assert np.array_equal(viterbi_path(likelihood(activation)), path)
    curve = activation_to_hz(activation)
    own = np.rint((1200 * np.log2(np.where(curve > 0, curve, 10) / 10) - CENTS[0]) / 20)
    voiced = golden["crepe_tiny_periodicity"] >= 0.1
    assert np.array_equal(curve > 0, voiced)
    assert np.abs(own[voiced] - path[voiced]).max() <= 4
