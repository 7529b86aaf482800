"""Every training option is a command line option, a text where the config takes texts and numbers."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from rvc_train.cli.training_options import training_config, with_training_options
from rvc_train.errors import UsageError


def chosen(*words: str) -> dict[str, Any]:
    """Choices passed to a command with training options only."""
    got: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @with_training_options
    def submit(name: Annotated[str, typer.Option()] = "", choices: dict[str, Any] | None = None) -> None:
        got.update(choices or {})

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return got


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--batch-size", "auto"], "batch_size", "auto"),
        (["--batch-size", "8"], "batch_size", 8),
        (["--total-epochs", "auto"], "total_epochs", "auto"),
        (["--total-epochs", "8"], "total_epochs", 8),
        (["--accumulate-steps", "2"], "accumulate_steps", 2),
        (["--precision", "bf16"], "precision", "bf16"),
        (["--no-tf32"], "tf32", False),
        (["--graphs", "off"], "graphs", "off"),
        (["--compile"], "compile", True),
        (["--speakers", "folders"], "speakers", "folders"),
        (["--speakers", "anna=0,bob=1"], "speakers", {"anna": 0, "bob": 1}),
        (["--gradient-checkpointing"], "gradient_checkpointing", True),
        (["--width", "48", "--pretrained", "none"], "width", 48),
    ],
)
def test_an_option_reaches_the_config_as_its_own_kind(words: list[str], field: str, value: object) -> None:
    assert getattr(training_config(None, chosen(*words)), field) == value


@pytest.mark.parametrize("word", ["many", "0", "-1", "257"])
def test_a_wrong_batch_size_is_refused_with_the_name_of_its_option(word: str) -> None:
    with pytest.raises(UsageError, match=r"--batch-size: .*from 1 to 256, or auto"):
        training_config(None, chosen(f"--batch-size={word}"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_of_windows_is_read(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes('{"total_epochs": 7}\r\n'.encode(encoding))
    assert training_config(file, {}).total_epochs == 7
