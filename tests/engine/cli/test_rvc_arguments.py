"""Arguments of RVC's own `train.py` and `train_index.py`, of 2023, 2024 and 2026."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner, Result

from rvc_engine.cli.pipeline_script import app
from rvc_engine.config import TrainingConfig
from rvc_engine.events import EXIT_SUCCEEDED, EXIT_USAGE
from rvc_engine.machine import Machine
from rvc_engine.pipeline.pipeline import StageSelection
from rvc_engine.workspace.layout import Workspace


class Started(NamedTuple):
    """Arguments of the run that a command would start."""

    workspace: Workspace
    config: TrainingConfig
    machine: Machine
    selection: StageSelection


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, Started | None]]:
    """Run the command up to its start, in a folder with base weights in `pretrained`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "pretrained").mkdir()
    for name in ("f0G48k.pth", "f0D48k.pth"):
        (tmp_path / "pretrained" / name).touch()

    def run(*words: str) -> tuple[Result, Started | None]:
        started = []

        def note(_dataset, workspace, config, machine, _report, _switch, selection, *_):
            started.append(Started(workspace, config, machine, selection))
            return EXIT_SUCCEEDED

        with monkeypatch.context() as patch:
            patch.setattr("rvc_engine.pipeline.process.run_engine", note)
            result = CliRunner().invoke(app, list(words))
        return result, started[0] if started else None

    return run


LONG_NAMES = (
    "--save_every_epoch 5 --total_epoch 20 --pretrainG pretrained/f0G48k.pth --pretrainD pretrained/f0D48k.pth "
    "--gpus 0 --batch_size 12 --experiment_dir mi-test --sample_rate 48k --save_every_weights 1 --version v1 --if_f0 0 "
    "--if_latest 1 --if_cache_data_in_gpu 1"
)
SHORT_NAMES = (
    "-se 5 -te 20 -pg pretrained/f0G48k.pth -pd pretrained/f0D48k.pth -g 0 -bs 12 -e mi-test -sr 48k -sw 1 -v v1 -f0 0 "
    "-l 1 -c 1"
)


@pytest.mark.parametrize("words", [LONG_NAMES, SHORT_NAMES, LONG_NAMES.replace("pretrainG ", "pretrainG=")])
def test_every_argument_of_rvcs_trainer_is_taken(script, words: str) -> None:
    result, started = script(*words.split())
    assert result.exit_code == EXIT_SUCCEEDED, result.stderr
    assert started.workspace.root == Path("logs/mi-test")
    assert started.config == TrainingConfig(
        version="v1",
        sample_rate="48k",
        f0=False,
        batch_size=12,
        total_epochs=20,
        save_every_epochs=5,
        save_only_latest=True,
        save_every_weights=True,
        cache_data_on_device=True,
    )
    assert started.machine.pretrained_g == Path("pretrained/f0G48k.pth")
    assert started.machine.pretrained_d == Path("pretrained/f0D48k.pth")


def test_their_other_names_are_not_in_the_help(script) -> None:
    text = script("--help")[0].stdout
    assert "--exp_dir" in text
    assert "experiment_dir" not in text
    assert "pretrainG" not in text


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["anna", "v2", "indices", "4"], "-e anna -v v2 --skip-training -o indices`"),
        (["a b", "v1", "", "4"], "-e 'a b' -v v1 --skip-training`"),
        (["anna"], "-e anna -v v2 --skip-training`"),
    ],
)
def test_the_arguments_of_the_index_script_get_the_command_to_use(script, words: list[str], command: str) -> None:
    result, started = script(*words)
    assert (result.exit_code, started) == (EXIT_USAGE, None)
    assert f"use `python rvc_training_pipeline.py {command}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("gpus", ["", "cpu", "CPU"])
def test_no_gpu_means_the_cpu(script, monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert script("-e", "anna", "-g", gpus)[1].machine.device == "cpu"


def test_gpus_may_be_separated_as_in_cuda_visible_devices(script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert script("-e", "anna", "-g", "0,1")[1].machine.device == "cuda:0,cuda:1"


def test_a_name_may_be_the_path_that_a_shell_completes(script, tmp_path: Path) -> None:
    for words in (["my_model/"], ["logs/my_model/"], ["./logs/my_model"], [str(tmp_path / "logs" / "my_model")]):
        assert script("-e", *words)[1].workspace == Workspace(Path("logs/my_model"), "my_model")
    assert script("-e", "runs/anna", "--logs", "runs")[1].workspace.root == Path("runs/anna")


def test_the_path_of_a_run_elsewhere_is_refused_with_the_options_for_it(script, tmp_path: Path) -> None:
    (tmp_path / "other" / "anna").mkdir(parents=True)
    result, started = script("-e", "other/anna")
    assert (result.exit_code, started) == (EXIT_USAGE, None)
    assert "use --logs other -e anna" in result.stderr


def test_an_empty_folder_for_the_index_is_none(script, tmp_path: Path) -> None:
    result, started = script("-e", "anna", "-o", "")
    assert result.exit_code == EXIT_SUCCEEDED
    assert started is not None
    assert {path.name for path in tmp_path.iterdir()} == {"pretrained", "logs"}


def test_a_usage_error_names_options_and_no_fields(script) -> None:
    result, _ = script("-e", "anna", "--content", "whisper-tiny", "-v", "v1")
    assert "use -v v2" in result.stderr
    assert "version=" not in result.stderr


def test_epochs_are_a_number_or_auto(script) -> None:
    assert script("-e", "anna", "-te", "auto")[1].config.total_epochs == "auto"
    result, _ = script("-e", "anna", "-te", "best")
    assert "-te/--total_epoch" in result.stderr
    assert "from 1 to 20000, or auto" in result.stderr


def test_options_that_are_not_given_stay_unset(script) -> None:
    assert script("-e", "anna", "-te", "300", "--set", "seed=3")[1].config.model_fields_set == {"total_epochs", "seed"}
