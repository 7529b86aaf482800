"""A model is identified by the names and shapes of its tensors alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rvc_engine.models.identity import differences, discriminators_layout, generator_layout, identify, mismatch

LAYOUTS = {
    key: {name: tuple(shape) for name, shape in dict(layout).items()}
    for key, layout in json.loads((Path(__file__).parents[2] / "golden" / "state_dicts.json").read_text()).items()
}
GENERATORS = [key for key in LAYOUTS if key.startswith("G/")]


@pytest.mark.parametrize("key", GENERATORS)
def test_every_published_generator_is_known_with_and_without_its_posterior_encoder(key: str) -> None:
    _, version, rate, f0 = key.split("/")
    kind = identify(LAYOUTS[key])
    assert kind is not None
    assert (kind.version, kind.rate, kind.f0, kind.width, kind.num_speakers) == (version, rate, f0 == "f0=1", 192, 109)
    hparams = kind.hparams()
    assert hparams is not None
    assert list(generator_layout(hparams, with_posterior=True).items()) == list(LAYOUTS[key].items())
    small = identify({name: shape for name, shape in LAYOUTS[key].items() if not name.startswith("enc_q.")})
    assert small is not None
    looks_alike = key in {"G/v1/32k/f0=0", "G/v1/48k/f0=0"}  # they differ only in the posterior encoder's input
    assert small.rates == (("32k", "48k") if looks_alike else (rate,))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_discriminators_are_known_by_their_number(version: str) -> None:
    kind = identify(LAYOUTS[f"D/{version}"])
    assert kind is not None
    assert str(kind) == f"{version} discriminators"
    assert discriminators_layout(kind) == LAYOUTS[f"D/{version}"]


def test_a_mismatch_explains_itself() -> None:
    found, asked = LAYOUTS["G/v1/48k/f0=1"], LAYOUTS["G/v2/40k/f0=0"]
    assert (
        mismatch(found, asked) == "these are v1 48k weights with pitch; the job asks for v2 40k weights without pitch"
    )
    assert (
        mismatch(LAYOUTS["D/v2"], asked) == "these are v2 discriminators; the job asks for v2 40k weights without pitch"
    )
    assert "these are not the weights of an RVC model" in str(mismatch({"a": (1,)}, asked))
    odd = {**asked, "dec.cond.bias": (7,)}
    assert mismatch(odd, asked) == (
        "these are v2 40k weights without pitch with another layout: 1 tensors differ, for example dec.cond.bias is 7 "
        "and should be 512"
    )
    assert mismatch(asked, asked) is None


def test_pieces_of_a_net_are_no_net_and_odd_upsampling_is_of_no_rate() -> None:
    layout = LAYOUTS["G/v2/40k/f0=1"]
    assert identify({"enc_p.emb_phone.weight": (192, 768)}) is None
    assert identify({**layout, "enc_p.emb_phone.weight": (192, 1024)}) is None
    odd = identify({**layout, "dec.ups.0.weight_v": (512, 256, 99)})
    assert odd is not None
    assert (odd.rates, odd.hparams()) == ((), None)
    assert differences({"x": (1,)}, {"y": (1,)}) == ["y is missing", "x is unknown"]


def test_a_layout_does_without_pytorchs_compiler() -> None:
    """Its import takes over a second of each program that reads weights."""
    program = (
        "import sys; from rvc_engine.config import TrainingConfig\n"
        "from rvc_engine.hyperparameters import Hyperparameters\n"
        "from rvc_engine.models import identity\n"
        "identity.generator_layout(Hyperparameters.from_config(TrainingConfig()), with_posterior=True)\n"
        "identity.discriminators_layout(identity.ModelIdentity('discriminators', 'v2', 192))\n"
        "print(*sorted({'sympy', 'torch._dynamo'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
