"""The options of the RVC training pipeline script, under their old names, for the same engine.

Exit codes: 0 done, 1 failed, 2 invalid option, 3 stopped on request (run the same command again to resume).
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from rvc_engine.cli.console import open_report
from rvc_engine.cli.main import config_from, settings_from, usage_error
from rvc_engine.config import ContentEncoder, PitchEstimator, TrainingConfig, check_voice_name
from rvc_engine.errors import InvalidDataset
from rvc_engine.events import EXIT_FAILED, EXIT_SUCCEEDED
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.translation.programs import LanguageOption, run_program
from rvc_engine.workspace import external
from rvc_engine.workspace.layout import Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class LogLevel(StrEnum):
    """Least level of the lines on the console; `train.log` contains all levels."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _to_bool(value: int) -> bool:
    return bool(value)


def _to_number(value: str) -> int | str:
    """A whole number as one; other text stays, for TrainingConfig to check."""
    return int(value) if re.fullmatch("-?[0-9]+", value) else value


def _to_path(value: str) -> Path | None:
    """A path; the script's default, an empty text, is none."""
    return Path(value) if value else None


def _switch(*names: str, text: str) -> Any:
    return typer.Option(*names, min=0, max=1, callback=_to_bool, help=text)


def _file(*names: str, text: str) -> Any:
    return typer.Option(*names, parser=_to_path, metavar="<file>", help=text)


# Options of the original script.
ExpDir = Annotated[str, typer.Option("-e", "--exp_dir", help="Name of the voice; the run is kept in logs/<name>.")]
SampleRate = Annotated[str, typer.Option("-sr", "--sample_rate", help="32k, 40k or 48k.")]
IfF0 = Annotated[int, _switch("-f0", "--if_f0", text="1: the voice follows a pitch curve. 0: it does not.")]
BatchSize = Annotated[
    str,
    typer.Option(
        "-bs", "--batch_size", callback=_to_number, help="Clips per GPU and step, or auto: as many as fit well."
    ),
]
TotalEpoch = Annotated[int, typer.Option("-te", "--total_epoch", help="Passes over the dataset.")]
SaveEveryEpoch = Annotated[int, typer.Option("-se", "--save_every_epoch", help="Epochs between saves.")]
Gpus = Annotated[
    str, typer.Option("-g", "--gpus", help="GPUs to train on, such as 0, or 0-1-2; without a GPU the CPU is used.")
]
Version = Annotated[str, typer.Option("-v", "--version", help="v1 or v2.")]
PretrainG = Annotated[Path | None, _file("-pg", "--pretrain_g", text="Base weights of the generator.")]
PretrainD = Annotated[Path | None, _file("-pd", "--pretrain_d", text="Base weights of the discriminator.")]
IfLatest = Annotated[int, _switch("-l", "--if_latest", text="1: keep one G_/D_ pair, named 2333333.")]
IfCache = Annotated[int, _switch("-c", "--if_cache_data_in_gpu", text="1: keep all clips in the device's memory.")]
SaveEveryWeights = Annotated[
    int, _switch("-sw", "--save_every_weights", text="1: also write weights/<name>_e<e>_s<s>.pth at every save.")
]
OutsideIndexRoot = Annotated[
    Path | None, typer.Option("-o", "--outside_index_root", help="Folder in which to link the finished index.")
]
SkipTraining = Annotated[bool, typer.Option("--skip-training", help="Only build the index.")]
SkipIndex = Annotated[bool, typer.Option("--skip-index", help="Only train and export.")]
ContinueOnError = Annotated[
    bool,
    typer.Option("--continue-on-error", help="Build the index even if training fails; the exit code is then still 1."),
]
Level = Annotated[LogLevel, typer.Option("--log-level", case_sensitive=False, help="For the console.")]

# Options that it does not have.
Dataset = Annotated[
    Path | None,
    typer.Option("--dataset", help="Folder of recordings. Without it logs/<name> must hold slices and features."),
]
Pitch = Annotated[str, typer.Option("--pitch", help=f"Pitch estimator: {', '.join(get_args(PitchEstimator))}.")]
Content = Annotated[
    str,
    typer.Option(
        "--content", help=f"Content encoder: {', '.join(get_args(ContentEncoder))}; whisper-tiny needs no download."
    ),
]
ContentFolder = Annotated[
    Path | None, typer.Option("--content-folder", help="Folder of a HuBERT of your own, for --content local.")
]
Speakers = Annotated[
    str,
    typer.Option("--speakers", help="one; folders: each folder of the dataset is a speaker; or anna=0,bob=1."),
]
Pretrained = Annotated[
    str, typer.Option("--pretrained", help="auto: published base weights. none: train from scratch.")
]
MaxTrainSeconds = Annotated[float | None, typer.Option("--max-train-seconds", help="End training after this time.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other field of the configuration, as name=value; repeatable.")
]
WeightsFolder = Annotated[Path | None, typer.Option("--weights", help="Folder of published weights.")]
Logs = Annotated[Path, typer.Option("--logs", help="Folder of all runs.")]


# Long because of its list of options. Parameters named as fields of TrainingConfig are read from `context`.
@app.command()
def pipeline(
    context: typer.Context,
    exp_dir: ExpDir,
    sample_rate: SampleRate = "40k",
    f0: IfF0 = 1,
    batch_size: BatchSize = "4",
    total_epochs: TotalEpoch = 300,
    save_every_epochs: SaveEveryEpoch = 50,
    gpus: Gpus = "0",
    version: Version = "v2",
    pretrain_g: PretrainG = None,
    pretrain_d: PretrainD = None,
    save_only_latest: IfLatest = 0,
    cache_data_on_device: IfCache = 0,
    save_every_weights: SaveEveryWeights = 0,
    outside_index_root: OutsideIndexRoot = None,
    skip_training: SkipTraining = False,
    skip_index: SkipIndex = False,
    continue_on_error: ContinueOnError = False,
    log_level: Level = LogLevel.INFO,
    dataset: Dataset = None,
    pitch: Pitch = "swift",
    content: Content = "contentvec",
    content_folder: ContentFolder = None,
    speakers: Speakers = "one",
    pretrained: Pretrained = "auto",
    max_train_seconds: MaxTrainSeconds = None,
    settings: Settings = None,
    weights: WeightsFolder = None,
    logs: Logs = Path("logs"),
    lang: LanguageOption = "",
) -> None:
    """Train an RVC voice and build its index; run the same command again to resume."""
    from rvc_engine.pipeline.pipeline import StageSelection
    from rvc_engine.pipeline.process import StopSwitch, run_engine

    if skip_training and skip_index:
        raise usage_error("--skip-training and --skip-index together leave nothing to do; drop one of them")
    try:
        name = check_voice_name(exp_dir)
    except ValueError as error:
        raise usage_error(f"-e/--exp_dir: {error}") from error
    config = _read_config(context, settings or [])
    workspace = Workspace(logs / name, name, config.version)
    faults = [*_file_faults(pretrain_g, pretrain_d), *_folder_faults(dataset, outside_index_root)]
    if faults:
        if dataset is None:  # all faults in one message
            faults += external.check_workspace(workspace, config, trains=not skip_training).faults
        raise usage_error("; ".join(faults))
    machine = Machine(
        device=_device_names(gpus),
        weights_folder=weights or default_weights_folder(),
        content_folder=content_folder,
        pretrained_g=pretrain_g,
        pretrained_d=pretrain_d,
    )
    switch = StopSwitch()
    switch.on_signals()
    selection = StageSelection(not skip_training, not skip_index, continue_on_error)
    with open_report(workspace, level=log_level.value) as report:
        code = run_engine(dataset, workspace, config, machine, report, switch, selection, lock_wait_seconds=0)
    if outside_index_root is not None and (code == EXIT_SUCCEEDED or (code == EXIT_FAILED and continue_on_error)):
        code = _link_index(workspace, outside_index_root, code, skip_index=skip_index)
    raise typer.Exit(code)


def _read_config(context: typer.Context, settings: list[str]) -> TrainingConfig:
    """The options named as fields of TrainingConfig, then the fields that `--set` gives. Exits when one is invalid."""
    further = settings_from(settings)
    options = {param.name: "/".join(param.opts) for param in context.command.params if param.name is not None}
    names = TrainingConfig.model_fields.keys() & options.keys()
    flags = {name: options[name] for name in names} | {name: f"--set {name}" for name in further}
    return config_from({name: context.params[name] for name in names} | further, flags)


def _file_faults(pretrain_g: Path | None, pretrain_d: Path | None) -> list[str]:
    return [
        f"{option}: there is no file {path}; give the path of a G_ or D_ file, or leave the option out"
        for option, path in (("-pg/--pretrain_g", pretrain_g), ("-pd/--pretrain_d", pretrain_d))
        if path is not None and not path.is_file()
    ]


def _folder_faults(dataset: Path | None, outside_index_root: Path | None) -> list[str]:
    """Faults of the folders, found before hours of work; makes the folder for the index."""
    faults = []
    if dataset is not None and not dataset.is_dir():
        faults.append(f"--dataset: there is no folder {dataset}; give the folder that holds the recordings")
    if outside_index_root is not None:
        try:
            outside_index_root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            faults.append(
                f"-o/--outside_index_root: the folder {outside_index_root} cannot be made ({error.strerror}); choose "
                "another"
            )
    return faults


def _device_names(gpus: str) -> str:
    """`0-1` as `cuda:0,cuda:1`; `cpu` where PyTorch finds no GPU."""
    import torch

    numbers = gpus.split("-")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise usage_error(f"-g/--gpus: {gpus!r} is not a list of GPU numbers; use 0, or 0-1-2")
    if len(set(map(int, numbers))) < len(numbers):
        raise usage_error(f"-g/--gpus: {gpus} names a GPU twice; name each once, such as 0-1")
    if not torch.cuda.is_available():
        if len(numbers) > 1:
            typer.echo(f"-g/--gpus: none of the {len(numbers)} GPUs was found; training on the CPU", err=True)
        return "cpu"
    if missing := [number for number in numbers if int(number) >= torch.cuda.device_count()]:
        raise usage_error(
            f"-g/--gpus: there is no GPU {missing[0]}; this machine has {torch.cuda.device_count()}, numbered from 0"
        )
    return ",".join(f"cuda:{number}" for number in numbers)


def _link_index(workspace: Workspace, root: Path, code: int, *, skip_index: bool) -> int:
    """Link the index into `root`; returns the exit code, which is `code` unless linking fails."""
    from rvc_engine.index.build import link_outside

    try:
        typer.echo(f"index linked as {link_outside(workspace, root)}")
    except InvalidDataset:  # there is no index: the run failed before it, as reported, or none was ever built
        if skip_index:
            typer.echo(f"warning: there is no index yet to link into {root}: drop --skip-index", err=True)
    except OSError as error:
        typer.echo(f"error: the index could not be linked into {root}: {error}", err=True)
        return EXIT_FAILED
    return code


def main() -> None:
    """Entry point."""
    run_program(app, "rvc_training_pipeline.py")
