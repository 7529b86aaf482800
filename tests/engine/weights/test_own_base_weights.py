"""Base weights of one's own: checked when added, found by name, and nothing in a file is run."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rvc_engine.checkpoints.base_weights import examine
from rvc_engine.cli.weights import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import IncompatibleCheckpoint, InvalidConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.identity import ModelIdentity, discriminators_layout, generator_layout
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.pipeline.required_weights import missing_files
from rvc_engine.weights.own import OwnWeightsFolder, WeightsKind, misfit, own_base_paths

SMALL = TrainingConfig(width=24, pretrained="none")


def save(path: Path, role: str, change: Any = None, config: TrainingConfig = SMALL) -> Path:
    """A small G_ or D_ file in RVC's form, after `change` of its weights."""
    torch.manual_seed(0)
    generator = role == "generator"
    model = (
        Synthesizer(Hyperparameters.from_config(config), True)
        if generator
        else Discriminators(config.version, config.width / 192)
    )
    weights = dict(model.state_dict())
    if change is not None:
        change(weights)
    torch.save({"model": weights, "iteration": 1, "optimizer": {}, "learning_rate": 1e-4}, path)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return save(folder / "G_1.pth", "generator"), save(folder / "D_1.pth", "discriminator")


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_base_weights_are_added_listed_found_by_name_and_removed(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = tmp_path / "weights"
    added = invoke("add", "mine", "--generator", pair[0], "--discriminator", pair[1], "--weights", folder)
    assert added.exit_code == 0, added.output
    assert "v2 40k weights with pitch of width 24, v2 discriminators of width 24" in added.output
    config = SMALL.model_copy(update={"pretrained": "mine"})
    generator, discriminator = own_base_paths(config, Machine(weights_folder=folder))
    assert generator is not None
    assert generator.read_bytes() == pair[0].read_bytes()
    assert discriminator is not None
    assert discriminator.read_bytes() == pair[1].read_bytes()
    rows = [row for row in json.loads(invoke("list", "--json", "--weights", folder).stdout) if row["id"] == "mine"]
    assert [(row["role"], row["kind"]["sample_rate"]) for row in rows] == [
        ("generator", "40k"),
        ("discriminator", None),
    ]
    again = invoke("add", "mine", "--generator", pair[0], "--weights", folder)
    assert again.exit_code == 2
    assert "choose another name" in again.output
    assert invoke("remove", "mine", "--weights", folder).exit_code == 0
    assert own_base_paths(config, Machine(weights_folder=folder)) == (None, None)
    assert invoke("remove", "mine", "--weights", folder).exit_code == 2


@pytest.mark.parametrize("name", ["auto", "none", "", "../up", "Mine", "a" * 65, "a/b", ".hidden"])
def test_a_name_is_short_and_no_path(tmp_path: Path, pair: tuple[Path, Path], name: str) -> None:
    with pytest.raises(InvalidConfig, match="cannot be the name of base weights"):
        OwnWeightsFolder(tmp_path).add(name, {"generator": (pair[0], WeightsKind(version="v2", width=24))})
    assert not list(tmp_path.iterdir())


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
        archive.writestr("archive/version", b"3\n")
    return path


def text(path: Path) -> Path:
    path.write_text("these are no weights")
    return path


def code(path: Path) -> Path:
    torch.save({"model": Evil()}, path)
    return path


def half(path: Path) -> Path:
    whole = save(path, "generator").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def longer(weights: dict[str, torch.Tensor]) -> None:
    weights["enc_p.proj.bias"] = torch.zeros(7)


def without_one(weights: dict[str, torch.Tensor]) -> None:
    del weights["enc_q.proj.bias"]


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights["enc_p.proj.bias"] = torch.full_like(weights["enc_p.proj.bias"], torch.nan)


def for_conversion(weights: dict[str, torch.Tensor]) -> None:
    for name in [name for name in weights if name.startswith("enc_q.")]:
        del weights[name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, "not a file of tensors"),
        (code, "contains code, which is never run"),
        (half, "not a file of tensors"),
        (bomb, "is compressed"),
        (lambda path: save(path, "discriminator"), "v2 discriminators of width 24; give them as the other file"),
        (lambda path: save(path, "generator", longer), "enc_p.proj.bias is 7 and should be"),
        (lambda path: save(path, "generator", without_one), "enc_q.proj.bias is missing"),
        (lambda path: save(path, "generator", not_a_number), "1 tensors have NaN"),
        (lambda path: save(path, "generator", for_conversion), "a voice for conversion cannot be trained on"),
    ],
    ids=["text", "code", "half", "bomb", "other file", "shape", "missing", "NaN", "voice"],
)
def test_a_file_that_cannot_be_base_weights_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "file.pth")
    with pytest.raises(IncompatibleCheckpoint, match=message):
        examine({"generator": path})
    result = invoke("add", "mine", "--generator", path, "--weights", tmp_path / "weights")
    assert (result.exit_code, (tmp_path / "weights").exists(), Path("ran").exists()) == (1, False, False)


def test_two_files_of_different_versions_do_not_belong_together(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    config = TrainingConfig(width=24, pretrained="none", version="v1")
    files: Any = {"generator": pair[0], "discriminator": save(tmp_path / "D.pth", "discriminator", config=config)}
    with pytest.raises(IncompatibleCheckpoint, match=r"v2 40k .* and v1 discriminators of width 24"):
        examine(files)


@pytest.mark.parametrize(("version", "rate", "f0"), [("v2", "40k", True), ("v2", "48k", False), ("v1", "32k", True)])
def test_files_of_the_published_size_and_form_are_recognised(tmp_path: Path, version: Any, rate: Any, f0: bool) -> None:
    config = TrainingConfig(version=version, sample_rate=rate, f0=f0)
    layouts = {
        "generator": generator_layout(Hyperparameters.from_config(config), with_posterior=True),
        "discriminator": discriminators_layout(ModelIdentity("discriminators", version, 192)),
    }
    zero = torch.zeros(())  # one number in the file, whatever the shape
    files: Any = {}
    for role, letter in (("generator", "G"), ("discriminator", "D")):
        files[role] = tmp_path / f"f0{letter}{rate}.pth"
        torch.save({"model": {name: zero.expand(shape) for name, shape in layouts[role].items()}}, files[role])
    kinds = examine(files)
    assert kinds["generator"] == WeightsKind(version=version, sample_rate=rate, f0=f0)
    assert kinds["discriminator"] == WeightsKind(version=version)
    assert misfit("mine", kinds, config) is None
    other = config.model_copy(update={"f0": not f0})
    assert str(kinds["generator"]) in str(misfit("mine", kinds, other)), "it names both kinds"
    assert f"the job asks for {version} {rate} weights {'without' if f0 else 'with'} pitch" in str(
        misfit("mine", kinds, other)
    )


def test_a_half_of_the_published_size_is_completed_by_the_published_other_one(tmp_path: Path) -> None:
    config = TrainingConfig(pretrained="mine", content="whisper-tiny")
    names = [file.name for file in missing_files(config, tmp_path, own=(tmp_path / "G.pth", None))]
    assert names == ["f0D40k.pth"]
    assert missing_files(config, tmp_path, own=(tmp_path / "G.pth", tmp_path / "D.pth")) == []
    small = SMALL.model_copy(update={"pretrained": "mine", "content": "whisper-tiny"})
    assert missing_files(small, tmp_path, own=(tmp_path / "G.pth", None)) == [], "there are none of this width"
