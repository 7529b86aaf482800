"""An edited `config.json` counts as in RVC, unless an option was given, or is refused in words; a copy is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.errors import InvalidConfig
from rvc_engine.events import Event, Log, Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[3] / "golden" / "hyperparameters.json").read_bytes())


def rvcs(rate: str, version: str = "v2", **train: Any) -> dict[str, Any]:
    """RVC's config.json for a voice; RVC takes v1's file for 40k."""
    tree = PUBLISHED["v1/40k" if rate == "40k" else f"{version}/{rate}"]
    return {**tree, "train": {**tree["train"], **train}}


def put(workspace: Workspace, tree: Any) -> bytes:
    content = json.dumps(tree, indent=4, sort_keys=True).encode() + b"\n"
    workspace.hyperparameters.write_bytes(content)
    return content


def taken(workspace: Workspace, config: TrainingConfig) -> tuple[TrainingConfig, Hyperparameters, list[str]]:
    events: list[Event] = []
    edited = config_file.with_edits(workspace, config, events.append)
    lines = [event.message for event in events if isinstance(event, Log)]
    return edited, config_file.hyperparameters(workspace, edited), lines


def write(workspace: Workspace, config: TrainingConfig, batch_size: int = 4) -> list[str]:
    events: list[Event] = []
    config_file.write(workspace, config, batch_size, StageReport("train", events.append))
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize("rate", ["32k", "40k", "48k"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("year", [{"fp16_run": True}, {}], ids=["2023 and 2024", "2026"])
def test_an_untouched_folder_of_rvc_trains_300_epochs_in_batches_of_4(
    workspace: Workspace, rate: str, version: str, year: dict[str, Any]
) -> None:
    before = put(workspace, rvcs(rate, version, **year))
    workspace = Workspace(workspace.root, "anna", version)  # type: ignore[arg-type]
    config = TrainingConfig.model_validate({"sample_rate": rate, "version": version, "f0": True})
    edited, hparams, lines = taken(workspace, config)
    assert (edited, hparams, lines) == (config, Hyperparameters.from_config(config), [])
    assert (edited.total_epochs, edited.batch_size) == (300, 4)
    assert write(workspace, edited) == []
    assert workspace.hyperparameters.read_bytes() == before


def test_edited_values_count_and_each_has_a_line(workspace: Workspace) -> None:
    changes = {"learning_rate": 3e-5, "lr_decay": 0.99, "seed": 7, "betas": [0.5, 0.9], "eps": 1e-8, "c_mel": 90}
    changes |= {"c_kl": 0.5, "segment_size": 16_000, "log_interval": 10, "epochs": 100, "batch_size": 32}
    before = put(workspace, rvcs("40k", **changes, fp16_run=False, warmup_epochs=3))
    edited, hparams, lines = taken(workspace, TrainingConfig())
    assert (edited.learning_rate, edited.lr_decay, edited.seed, edited.precision) == (3e-5, 0.99, 7, "fp32")
    assert (edited.total_epochs, edited.batch_size) == (100, 4)
    assert (hparams.betas, hparams.epsilon, hparams.mel_weight, hparams.kl_weight) == ((0.5, 0.9), 1e-8, 90, 0.5)
    assert (hparams.segment_samples, hparams.log_interval) == (16_000, 10)
    assert len(lines) == len(changes) + 2
    assert 'config.json: "learning_rate": 3e-05 instead of 0.0001' in lines
    assert 'config.json: "c_mel": 90 instead of 45' in lines
    assert 'config.json: "batch_size": 32 is not used, as in RVC' in lines
    assert write(workspace, edited) == []
    assert workspace.hyperparameters.read_bytes() == before


def test_a_value_of_the_other_version_is_an_edit_and_its_whole_file_is_not(workspace: Workspace) -> None:
    config = TrainingConfig(sample_rate="48k")
    put(workspace, rvcs("48k", "v2", segment_size=11_520))
    assert taken(workspace, config)[1].segment_samples == 11_520
    before = put(workspace, rvcs("48k", "v1"))  # of a folder that was v1 first
    assert taken(workspace, config)[1:] == (Hyperparameters.from_config(config), [])
    assert len(write(workspace, config)) == 1
    assert workspace.hyperparameters.with_name("config.json.bak").read_bytes() == before


def test_an_option_that_was_given_goes_before_the_file(workspace: Workspace) -> None:
    put(workspace, rvcs("40k", learning_rate=3e-5, seed=7, epochs=100))
    edited, _, lines = taken(workspace, TrainingConfig(learning_rate=1e-4, total_epochs=300))
    assert (edited.learning_rate, edited.seed, edited.total_epochs) == (1e-4, 7, 300)
    assert 'config.json: "learning_rate": 3e-05 is not used, because learning_rate=0.0001 decides' in lines
    assert 'config.json: "epochs": 100 is not used, because total_epochs=300 decides' in lines


def changed(section: str, **values: Any) -> dict[str, Any]:
    tree = rvcs("40k")
    return {**tree, section: {**tree[section], **values}}


REFUSED: dict[str, tuple[Any, str]] = {
    "a trailing comma": (b'{"train": {"seed": 1,}}', r"is no config.json of RVC \(.*line 1"),
    "no object": ([], "is no config.json of RVC"),
    "no section": ({"train": 3}, "is no config.json of RVC"),
    "another rate": (rvcs("48k"), r"sampling_rate is 48000, but the voice has 40000 Hz \(sample_rate=48k is for"),
    "a rate as text": (changed("data", sampling_rate="40k"), 'its sampling_rate is "40k"'),
    "a rate as text in the options": (changed("train", learning_rate="0.0001"), 'learning_rate="0.0001": .*number'),
    "negative": (changed("train", learning_rate=-1e-4), "learning_rate=-0.0001: .*greater than 0"),
    "infinite": (changed("train", c_mel=float("inf")), "c_mel=Infinity: .*finite"),
    "one beta": (changed("train", betas=[0.9]), r"betas=\[0.9\]: .*2 items"),
    "half a hop": (
        changed("train", segment_size=12_900),
        "segment_size=12900 must be a multiple of the hop length, 400",
    ),
    "too long": (changed("train", segment_size=400_000), "from 1600 to 360000"),
    "hop length": (changed("data", hop_length=512), "hop_length=512 is not supported"),
    "mel channels": (changed("data", n_mel_channels=80), "n_mel_channels=80 is not supported"),
    "sizes": (changed("model", hidden_channels=256), "hidden_channels=256 is not supported"),
    "speakers": (changed("model", spk_embed_dim=10), "spk_embed_dim=10 is not supported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_cannot_take_is_refused_in_words(workspace: Workspace, case: str) -> None:
    content, words = REFUSED[case]
    put(workspace, content) if not isinstance(content, bytes) else workspace.hyperparameters.write_bytes(content)
    with pytest.raises(InvalidConfig, match=words) as raised:
        config_file.check(workspace, TrainingConfig())
    assert "Correct it, or delete it" in str(raised.value) or "correct it, or delete it" in str(raised.value)


def test_notepad_and_applio_may_have_written_it(workspace: Workspace) -> None:
    tree = changed("model", text_enc_hidden_dim=768)
    tree["data"] = {**tree["data"], "sample_rate": tree["data"]["sampling_rate"]}
    del tree["data"]["sampling_rate"], tree["train"]["epochs"]
    workspace.hyperparameters.write_bytes(json.dumps(tree, indent=2).replace("\n", "\r\n").encode("utf-8-sig"))
    assert taken(workspace, TrainingConfig()) == (TrainingConfig(), Hyperparameters.from_config(TrainingConfig()), [])
    assert write(workspace, TrainingConfig()) == []
    tree["data"]["sample_rate"] = 32_000
    put(workspace, tree)
    with pytest.raises(InvalidConfig, match="sampling_rate is 32000"):
        config_file.check(workspace, TrainingConfig())


def test_a_file_of_another_model_is_replaced_with_a_copy_and_keeps_what_was_edited(workspace: Workspace) -> None:
    config = TrainingConfig(width=24, pretrained="none")
    before = put(workspace, rvcs("40k", c_mel=90, epochs=100))
    [line] = write(workspace, config)
    assert "replaced" in line
    assert "config.json.bak" in line
    assert workspace.hyperparameters.with_name("config.json.bak").read_bytes() == before
    assert json.loads(workspace.hyperparameters.read_bytes())["model"]["hidden_channels"] == 24
    for _ in range(2):  # the next runs go on with the edit
        edited, hparams, _ = taken(workspace, config)
        assert (edited.total_epochs, hparams.mel_weight) == (100, 90)
        assert write(workspace, config, batch_size=2) == []
    assert json.loads(workspace.hyperparameters.read_bytes())["train"]["batch_size"] == 2


def test_what_this_engine_wrote_is_no_edit_and_an_edit_of_it_is(workspace: Workspace) -> None:
    write(workspace, TrainingConfig(learning_rate=1e-3, seed=5))
    assert taken(workspace, TrainingConfig()) == (TrainingConfig(), Hyperparameters.from_config(TrainingConfig()), [])
    tree = json.loads(workspace.hyperparameters.read_bytes())
    tree["train"]["c_mel"] = 30
    put(workspace, tree)
    edited, hparams, lines = taken(workspace, TrainingConfig())
    assert (edited.learning_rate, edited.seed, hparams.mel_weight) == (1e-4, 1234, 30)
    assert lines == ['config.json: "c_mel": 30 instead of 45']


def test_the_file_of_a_run_from_before_records_is_this_engines(workspace: Workspace) -> None:
    config = TrainingConfig(width=24, pretrained="none", learning_rate=1e-3)
    workspace.hyperparameters.write_text(Hyperparameters.from_config(config).workspace_config(config, 2))
    workspace.recovery.mkdir()
    (workspace.recovery / "step_000000003.pt").touch()
    plain = TrainingConfig(width=24, pretrained="none")
    assert taken(workspace, plain)[0] == plain
    assert write(workspace, plain) == []
    assert not workspace.hyperparameters.with_name("config.json.bak").exists()
