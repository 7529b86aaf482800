"""Messages of the engine, which name fields of the configuration, in the options of the pipeline command."""

import pytest
import typer

from rvc_engine.cli.option_words import OptionWords
from rvc_engine.cli.pipeline_script import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import MissingWeights
from rvc_engine.events import Log, Warned
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights


@pytest.fixture
def words() -> OptionWords:
    return OptionWords({param.name or "": param.opts for param in typer.main.get_command(app).params})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "train from scratch with pretrained=none, which needs",
            "train from scratch with --pretrained none, which needs",
        ),
        ("those are for v2; set version=v2, or extract", "those are for v2; use -v v2, or extract"),
        ("set sample_rate=48k, or slice again", "use -sr 48k, or slice again"),
        ("train a voice without pitch: f0=false", "train a voice without pitch: -f0 0"),
        (
            "a larger save_every_epochs, save_only_latest, or keep_saves=latest",
            "a larger -se/--save_every_epoch, -l/--if_latest, or --set keep_saves=latest",
        ),
        ("set speakers=one, or speakers=anna=0,bob=1.", "use --speakers one, or --speakers anna=0,bob=1."),
        ("use a lower learning_rate, or look", "use a lower --set learning_rate, or look"),
        ("-sr/--sample_rate: give 40k", "-sr/--sample_rate: give 40k"),
        ("the version, the pitch, logs/pitch=x", "the version, the pitch, logs/pitch=x"),
        ('config.json: "learning_rate": 3e-05 instead', 'config.json: "learning_rate": 3e-05 instead'),
        ("设置 pretrained=none，或用speakers=one", "设置 --pretrained none，或用--speakers one"),
    ],
)
def test_fields_become_options(words: OptionWords, message: str, expected: str) -> None:
    assert words.translate(message) == expected
    assert words.translate(expected) == expected  # words that are options already stay


def test_missing_weights_name_the_options_of_the_command(words: OptionWords, tmp_path) -> None:
    with pytest.raises(MissingWeights) as caught:
        check_weights(TrainingConfig(), Machine(weights_folder=tmp_path))
    shown = words.translate(str(caught.value))
    assert "--content whisper-tiny" in shown
    assert "--pretrained none" in shown
    assert not [name for name in TrainingConfig.model_fields if f" {name}=" in shown]


def test_lines_for_the_log_alone_keep_their_words(words: OptionWords) -> None:
    assert words(Log(level="debug", message="width=24")).message == "width=24"
    assert words(Warned(message="width=24")).message == "--set width=24"
