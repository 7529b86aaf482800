"""Options of the pipeline script: their effects, and errors that name the option, before any work."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

from rvc_engine import events
from rvc_engine.cli.console import LogFile
from rvc_engine.cli.main import app as engine_app
from rvc_engine.cli.option_words import OptionWords
from rvc_engine.cli.pipeline_script import _read_config, app
from rvc_engine.config import TrainingConfig
from tests.systems import full_device

OPTIONS = ["--content", "whisper-tiny", "--pretrained", "none", "--pitch", "dio", "--set", "width=24", "-bs", "3"]


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Restore signal handlers, which the commands set in the tests' process."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runner of the script in an empty folder, without a GPU."""
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(app, [*map(str, words)])

    return run


@pytest.mark.parametrize(
    ("words", "flag", "hint"),
    [
        (["-sr", "44k"], "-sr/--sample_rate", "'48k'"),
        (["-te", "0"], "-te/--total_epoch", "1"),
        (["-se", "0"], "-se/--save_every_epoch", "1"),
        (["-bs", "0"], "-bs/--batch_size", "1"),
        (["-bs", "many"], "-bs/--batch_size", "auto"),
        (["-bs=--5"], "-bs/--batch_size", "auto"),
        (["-bs", "²"], "-bs/--batch_size", "auto"),
        (["-v", "v3"], "-v/--version", "'v2'"),
        (["-f0", "2"], "--if_f0", "1"),
        (["-l", "yes"], "--if_latest", "integer"),
        (["--pitch", "yin"], "--pitch", "'swift'"),
        (["--content", "hubert"], "--content", "'contentvec'"),
        (["--pretrained", "Yes!"], "--pretrained", "none"),
        (["--max-train-seconds", "-1"], "--max-train-seconds", "0"),
        (["--set", "learning_rate=9"], "--set learning_rate", "0.1"),
        (["--set", "learning_rat=1e-4"], "--set", "learning_rate"),
        (["--set", "width"], "--set", "name=value"),
        (["-g", "one"], "-g/--gpus", "0-1-2"),
        (["-g", "²"], "-g/--gpus", "0-1-2"),
        (["-g", "0-00"], "-g/--gpus", "twice"),
        (["-pg", "none.pth"], "-pg/--pretrain_g", "none.pth"),
        (["-pd", "none.pth"], "-pd/--pretrain_d", "none.pth"),
        (["--log-level", "loud"], "--log-level", "'warning'"),
        (["--dataset", "nowhere"], "--dataset", "nowhere"),
        (["-o", "a-file/x"], "-o/--outside_index_root", "another"),
        (["--skip-training", "--skip-index"], "--skip-training", "nothing to do"),
        (["-e", "a/b"], "-e/--exp_dir", "'/'"),
        (["--content", "whisper-tiny", "-v", "v1"], "-v v1", "-v v2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_told_by_its_flag_before_any_work(
    script: Callable[..., Result], words: list[str], flag: str, hint: str
) -> None:
    result = script("-e", "anna", *words)
    assert result.exit_code == events.EXIT_USAGE
    assert flag in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["-e", "anna", "-sr", "40k", "-f0", "1"], {"sample_rate", "f0"}),
        (["-e", "anna", "-te", "300", "-bs", "4", "--set", "seed=7"], {"total_epochs", "batch_size", "seed"}),
    ],
)
def test_only_options_that_are_typed_count_as_given_so_that_an_edited_config_json_goes_before_defaults(
    words: list[str], given: set[str]
) -> None:
    command = get_command(app)
    context = command.make_context("script", list(words))
    config = _read_config(context, context.params["settings"] or [], OptionWords({}))
    assert config.model_fields_set == given
    assert (config.total_epochs, config.batch_size, config.save_every_epochs) == (300, 4, 50)
    options = {name: value for name, value in context.params.items() if name in TrainingConfig.model_fields}
    assert TrainingConfig.model_validate(options | {"seed": config.seed}) == config  # the same defaults


def test_every_switch_does_what_it_says(script: Callable[..., Result], recordings: Path) -> None:
    words = ["-e", "anna", *OPTIONS, "-se", "1", "-l", "1", "-sw", "1", "-c", "1", "--log-level", "warning"]
    first = script(*words, "-te", "2", "--dataset", recordings, "-o", "outside")

    assert first.exit_code == events.EXIT_SUCCEEDED, first.stderr
    assert first.stderr == ""  # nothing below a warning on the console, and no warning either
    assert "stage train finished" in Path("logs/anna/train.log").read_text()
    assert {path.name for path in Path("logs/anna").glob("[GD]_*")} == {"G_2333333.pth", "D_2333333.pth"}
    saves = {path.name for path in Path("logs/anna/weights").glob("anna_e*")}
    assert saves == {"anna_e1_s2.pth", "anna_e2_s4.pth"}
    assert torch.load("logs/anna/G_2333333.pth", weights_only=True)["iteration"] == 2
    [link] = Path("outside").iterdir()
    [added] = Path("logs/anna").glob("added_*.index")
    assert link.name == f"anna_{added.name}"
    assert link.readlink() == added.absolute()

    added.rename(added.with_name("kept"))
    second = script(*words, "-te", "3", "--skip-index")  # goes on without naming the recordings
    assert second.exit_code == events.EXIT_SUCCEEDED, second.stderr
    assert not list(Path("logs/anna").glob("added_*.index"))
    assert torch.load("logs/anna/weights/anna.pth", weights_only=True)["epoch"] == 3

    third = script(*words, "--skip-training", "-o", "outside")
    assert third.exit_code == events.EXIT_SUCCEEDED, third.stderr
    assert link.resolve() == added.absolute()


def test_the_index_is_made_though_training_fails_when_asked_to_go_on(
    script: Callable[..., Result], recordings: Path, tmp_path: Path
) -> None:
    torch.save({"model": {"emb_g.weight": torch.zeros(1)}}, tmp_path / "G.pth")
    words = ["-e", "anna", *OPTIONS, "-te", "1", "--dataset", recordings, "-pg", "G.pth"]
    assert script(*words).exit_code == events.EXIT_FAILED
    assert not list(Path("logs/anna").glob("added_*.index"))
    result = script(*words, "--continue-on-error")
    assert result.exit_code == events.EXIT_FAILED
    assert "these are not the weights of an RVC model" in result.stderr
    assert list(Path("logs/anna").glob("added_*.index"))


@full_device
def test_a_log_that_cannot_be_written_ends_no_run_and_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(tmp_path / "train.log")
    log._file.close()
    log._file = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
    log(events.Log(message="one"))
    log(events.Log(message="two"))
    log.close()
    assert "can no longer be written" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_as_an_event_and_not_by_a_traceback(
    tmp_path: Path, recordings: Path
) -> None:
    (tmp_path / "file").touch()
    words = ["run", "--voice=anna", f"--workspace={tmp_path / 'file' / 'run'}", f"--dataset={recordings}", "--events"]
    result = CliRunner().invoke(engine_app, words, input="")
    assert result.exit_code == events.EXIT_FAILED
    [event] = map(events.parse_event, result.stdout.splitlines())
    assert isinstance(event, events.Failed)
    assert event.code == "invalid_config"
    assert "choose another folder" in event.message


@pytest.mark.long  # a network of the published size: base weights exist for no other
def test_where_no_base_weights_can_be_had_the_first_command_makes_a_voice_from_scratch(
    script: Callable[..., Result], recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    words = ["-e", "my_model", "-sr", "40k", "-f0", "1", "-bs", "32", "-te", "1", "--dataset", recordings]
    done = script(*words, "--content", "whisper-tiny", "--pitch", "dio", "--weights", tmp_path / "none")
    assert done.exit_code == events.EXIT_SUCCEEDED, done.stderr
    assert "training from scratch" in done.stderr
    assert done.stdout.splitlines()[-1].endswith("logs/my_model/weights; trained from scratch, without base weights")
    assert "loss/mel=" in done.stdout
    voice = Path("logs/my_model/weights/my_model.pth")
    assert torch.load(voice, weights_only=True)["base_weights"] == "none"
    assert "from scratch" in CliRunner().invoke(engine_app, ["inspect", str(voice)]).stdout
