"""Identification of a model from its tensors' names and shapes: generator or discriminators, version, rate, pitch.

G_ and D_ files hold no such description, and a message about a file that does not fit needs one. Two kinds have the
same shapes only without the posterior encoder and without pitch: v1 at 32k and at 48k.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rvc_engine.config import SampleRate, TrainingConfig, Version, Width
from rvc_engine.hyperparameters import PUBLISHED_WIDTH, Hyperparameters
from rvc_engine.models.discriminators import PERIODS, Discriminators
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.weights.own import discriminators_text, generator_text

SPEAKER_EMBEDDING = "emb_g.weight"
"""Key of the speaker embedding in a generator's state dict: its rows are the speakers."""

Shapes = Mapping[str, tuple[int, ...]]
Role = Literal["generator", "discriminators"]

_RATES: tuple[SampleRate, ...] = get_args(SampleRate)
_WIDTHS: tuple[Width, ...] = get_args(Width)


@dataclass(frozen=True)
class ModelIdentity:
    """Version, rate, pitch and size of a model, from the names and shapes of its weights."""

    role: Role
    version: Version
    width: int
    """Hidden channels; 192 is the published size."""
    rates: tuple[SampleRate, ...] = ()
    """Sample rates that the shapes allow. Empty for discriminators, which are the same for every rate, and for a
    generator of no published layout."""
    f0: bool | None = None
    """Whether the generator follows pitch; None for discriminators."""
    num_speakers: int = 0
    has_posterior: bool = False
    """Whether the posterior encoder, which only training needs, is there."""

    @property
    def rate(self) -> SampleRate | None:
        """The sample rate; None unless the shapes allow exactly one."""
        return self.rates[0] if len(self.rates) == 1 else None

    def __str__(self) -> str:
        if self.role == "discriminators":
            return discriminators_text(self.version, self.width)
        rates = " or ".join(self.rates) if self.rates else "of no published rate"
        return generator_text(self.version, rates, bool(self.f0), self.width)

    def hparams(self, rate: SampleRate | None = None) -> Hyperparameters | None:
        """Hyperparameters of this kind of generator; None where the layout or the rate is unknown."""
        rate = rate or self.rate
        if self.role != "generator" or rate is None or self.width not in _WIDTHS:
            return None
        return replace(_hparams(self.version, rate, bool(self.f0), self.width), num_speakers=self.num_speakers)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of tensors."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def identify(shapes: Shapes) -> ModelIdentity | None:
    """The model that has these names, in the published spelling, and shapes; None when it is not one of RVC's."""
    try:
        if "enc_p.emb_phone.weight" in shapes:
            return _identify_generator(shapes)
        if "discriminators.0.convs.0.weight_v" in shapes:
            return _identify_discriminators(shapes)
    except (KeyError, IndexError, ValueError):  # part of a model, or another model that begins alike
        return None
    return None


def _identify_generator(shapes: Shapes) -> ModelIdentity | None:
    width, feature_size = shapes["enc_p.emb_phone.weight"]
    version: Version | None = {256: "v1", 768: "v2"}.get(feature_size)  # type: ignore[assignment]
    if version is None:
        return None
    f0 = "enc_p.emb_pitch.weight" in shapes
    return ModelIdentity(
        "generator",
        version,
        width,
        tuple(rate for rate in _RATES if _fits(shapes, _hparams(version, rate, f0, PUBLISHED_WIDTH))),
        f0,
        shapes[SPEAKER_EMBEDDING][0],
        "enc_q.pre.weight" in shapes,
    )


def _hparams(version: Version, rate: SampleRate, f0: bool, width: int) -> Hyperparameters:
    assert width in _WIDTHS
    config = TrainingConfig(
        version=version, sample_rate=rate, f0=f0, width=width, content="contentvec", pretrained="none"
    )
    return Hyperparameters.from_config(config)


def _fits(shapes: Shapes, hparams: Hyperparameters) -> bool:
    """Whether the shapes that depend on the sample rate, and not on the width, are those of `hparams`."""
    kernels: list[int] = []
    while (name := f"dec.ups.{len(kernels)}.weight_v") in shapes:
        kernels.append(shapes[name][2])
    if tuple(kernels) != hparams.upsample_kernel_sizes:
        return False
    if hparams.f0 and shapes["dec.noise_convs.0.weight"][2] != 2 * hparams.hop_length // hparams.upsample_rates[0]:
        return False
    return "enc_q.pre.weight" not in shapes or shapes["enc_q.pre.weight"][1] == hparams.spec_channels


def _identify_discriminators(shapes: Shapes) -> ModelIdentity | None:
    count = len({name.split(".")[1] for name in shapes if name.startswith("discriminators.")})
    widest = shapes["discriminators.0.convs.0.weight_v"][0]  # 16 at the published width
    for version, periods in PERIODS.items():
        if count == len(periods) + 1:
            return ModelIdentity("discriminators", version, widest * PUBLISHED_WIDTH // 16)
    return None


class _ShapesAlone(TorchFunctionMode):
    """Modules whose weights get no values, so that their memory is never touched.

    On the meta device, for some of these values PyTorch would import its compiler, in over a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"]
        if func is torch.randn:
            return torch.empty(*args)
        if func is torch.linalg.vector_norm:
            return reduce(lambda tensor, dim: tensor.narrow(dim, 0, 1), given["dim"], *args)
        return func(*args, **given)


@lru_cache(maxsize=32)
def generator_layout(hparams: Hyperparameters, with_posterior: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a generator, in the published order. Uses no memory for weights."""
    with _ShapesAlone():
        return shapes_of(Synthesizer(hparams, with_posterior).state_dict())


@lru_cache(maxsize=32)
def discriminators_layout(kind: ModelIdentity) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the discriminators, in the published order. Uses no memory for weights."""
    with _ShapesAlone():
        return shapes_of(Discriminators(kind.version, kind.width / PUBLISHED_WIDTH).state_dict())


def differences(found: Shapes, expected: Shapes) -> list[str]:
    """Differences of a layout from the expected one: a phrase for each tensor that is missing, unknown or misshapen."""
    faults = [f"{name} is missing" for name in expected if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in expected]
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            faults.append(f"{name} is {_shape_text(found[name])} and should be {_shape_text(shape)}")
    return faults


def mismatch(found: Shapes, expected: Shapes) -> str | None:
    """Why weights do not fit a model: the kinds of both if they differ, else the first tensor. None when they fit."""
    faults = differences(found, expected)
    if not faults:
        return None
    found_identity, expected_identity = identify(found), identify(expected)
    if found_identity is None:
        return f"these are not the weights of an RVC model ({len(found)} tensors); the job asks for {expected_identity}"
    if expected_identity is not None and str(found_identity) != str(expected_identity):
        return f"these are {found_identity}; the job asks for {expected_identity}"
    return f"these are {found_identity} with another layout: {len(faults)} tensors differ, for example {faults[0]}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
