"""The options of the RVC training pipeline script, by their old names, over the same engine.

Exit codes: 0 done, 1 failed, 2 a wrong option, 3 stopped on request (run again to go on).
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from rvc_engine.cli.main import config_from, execute, settings_from, usage_error
from rvc_engine.config import ContentEncoder, PitchEstimator, TrainingConfig, check_voice_name
from rvc_engine.errors import InvalidDataset
from rvc_engine.events import EXIT_FAILED, EXIT_SUCCEEDED
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.workspace import external
from rvc_engine.workspace.layout import Workspace

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


_FLAGS = {
    "version": "-v/--version",
    "sample_rate": "-sr/--sample_rate",
    "batch_size": "-bs/--batch_size",
    "total_epochs": "-te/--total_epoch",
    "save_every_epochs": "-se/--save_every_epoch",
    "pitch": "--pitch",
    "content": "--content",
    "speakers": "--speakers",
    "pretrained": "--pretrained",
    "max_train_seconds": "--max-train-seconds",
}
"""By which flag a person gives a field of the configuration."""


class LogLevel(StrEnum):
    """What the console shows; `train.log` holds everything."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _switch(*names: str, text: str) -> Any:
    return typer.Option(*names, min=0, max=1, help=text)


# Long because it is a list: one line or two an option, which is how Typer reads them.
@app.command()
def pipeline(
    exp_dir: Annotated[str, typer.Option("-e", "--exp_dir", help="Name of the voice; the run lies in logs/<name>.")],
    sample_rate: Annotated[str, typer.Option("-sr", "--sample_rate", help="32k, 40k or 48k.")] = "40k",
    if_f0: Annotated[int, _switch("-f0", "--if_f0", text="1: the voice follows a pitch curve. 0: it does not.")] = 1,
    batch_size: Annotated[
        str, typer.Option("-bs", "--batch_size", help="Clips per GPU and step, or auto: as many as fit well.")
    ] = "4",
    total_epoch: Annotated[int, typer.Option("-te", "--total_epoch", help="Passes over the dataset.")] = 300,
    save_every_epoch: Annotated[int, typer.Option("-se", "--save_every_epoch", help="Epochs between saves.")] = 50,
    gpus: Annotated[
        str, typer.Option("-g", "--gpus", help="GPUs to train on, such as 0, or 0-1-2; without any the CPU trains.")
    ] = "0",
    version: Annotated[str, typer.Option("-v", "--version", help="v1 or v2.")] = "v2",
    pretrain_g: Annotated[str, typer.Option("-pg", "--pretrain_g", help="Base weights of the generator.")] = "",
    pretrain_d: Annotated[str, typer.Option("-pd", "--pretrain_d", help="Base weights of the discriminator.")] = "",
    if_latest: Annotated[int, _switch("-l", "--if_latest", text="1: keep one G_/D_ pair, named 2333333.")] = 0,
    if_cache_data_in_gpu: Annotated[
        int, _switch("-c", "--if_cache_data_in_gpu", text="1: keep all clips in the device's memory.")
    ] = 0,
    save_every_weights: Annotated[
        int, _switch("-sw", "--save_every_weights", text="1: also write weights/<name>_e<e>_s<s>.pth at every save.")
    ] = 0,
    outside_index_root: Annotated[
        Path | None, typer.Option("-o", "--outside_index_root", help="Folder in which to link the finished index.")
    ] = None,
    skip_training: Annotated[bool, typer.Option("--skip-training", help="Only make the index.")] = False,
    skip_index: Annotated[bool, typer.Option("--skip-index", help="Only train and export.")] = False,
    continue_on_error: Annotated[
        bool, typer.Option("--continue-on-error", help="Make the index also when training failed; the exit code tells.")
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", case_sensitive=False, help="For the console.")
    ] = LogLevel.INFO,
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", help="Folder of recordings. Without it logs/<name> must hold slices and features."),
    ] = None,
    pitch: Annotated[
        str, typer.Option("--pitch", help=f"Pitch estimator: {', '.join(get_args(PitchEstimator))}.")
    ] = "swift",
    content: Annotated[
        str,
        typer.Option(
            "--content", help=f"Content encoder: {', '.join(get_args(ContentEncoder))}; whisper-tiny needs no download."
        ),
    ] = "contentvec",
    content_folder: Annotated[
        Path | None, typer.Option("--content-folder", help="Folder of a HuBERT of your own, for --content local.")
    ] = None,
    speakers: Annotated[
        str, typer.Option("--speakers", help="one; folders: each folder of the dataset is a speaker; or anna=0,bob=1.")
    ] = "one",
    pretrained: Annotated[
        str, typer.Option("--pretrained", help="auto: published base weights. none: train from scratch.")
    ] = "auto",
    max_train_seconds: Annotated[
        float | None, typer.Option("--max-train-seconds", help="End training after so many seconds.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A further field of the configuration, as name=value; repeatable.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Folder of published weights.")] = None,
    logs: Annotated[Path, typer.Option("--logs", help="Folder of all runs.")] = Path("logs"),
) -> None:
    """Train an RVC voice and make its index; started again, it goes on where it was."""
    if skip_training and skip_index:
        raise usage_error("--skip-training and --skip-index together leave nothing to do; drop one of them")
    try:
        name = check_voice_name(exp_dir)
    except ValueError as error:
        raise usage_error(f"-e/--exp_dir: {error}") from error
    fields = {
        "version": version,
        "sample_rate": sample_rate,
        "f0": bool(if_f0),
        "batch_size": int(batch_size) if re.fullmatch("-?[0-9]+", batch_size) else batch_size,
        "total_epochs": total_epoch,
        "save_every_epochs": save_every_epoch,
        "save_only_latest": bool(if_latest),
        "cache_data_on_device": bool(if_cache_data_in_gpu),
        "save_every_weights": bool(save_every_weights),
        "pitch": pitch,
        "content": content,
        "speakers": speakers,
        "pretrained": pretrained,
        "max_train_seconds": max_train_seconds,
    }
    further = settings_from(settings or [])
    flags = {name: flag for name, flag in _FLAGS.items() if name not in further}
    config = config_from({**fields, **further}, flags | {name: f"--set {name}" for name in further})
    workspace = Workspace(logs / name, name, config.version)
    base = {"-pg/--pretrain_g": _path(pretrain_g), "-pd/--pretrain_d": _path(pretrain_d)}
    faults = [*_file_faults(base), *_folder_faults(dataset, outside_index_root)]
    if faults:
        if dataset is None:  # all that is wrong at once, and not one thing after another
            faults += external.check_workspace(workspace, config, trains=not skip_training).faults
        raise usage_error("; ".join(faults))
    machine = Machine(
        device=_device_names(gpus),
        weights_folder=weights or default_weights_folder(),
        content_folder=content_folder,
        pretrained_g=base["-pg/--pretrain_g"],
        pretrained_d=base["-pd/--pretrain_d"],
    )
    raise typer.Exit(
        _execute(
            dataset,
            workspace,
            config,
            machine,
            log_level,
            outside_index_root,
            skip_training,
            skip_index,
            continue_on_error,
        )
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _file_faults(files: Mapping[str, Path | None]) -> list[str]:
    """Of those given by these options."""
    return [
        f"{option}: there is no file {path}; give the path of a G_ or D_ file, or leave the option out"
        for option, path in files.items()
        if path is not None and not path.is_file()
    ]


def _folder_faults(dataset: Path | None, outside_index_root: Path | None) -> list[str]:
    """Before any work: hours later is late to hear that a folder cannot be."""
    faults = []
    if dataset is not None and not dataset.is_dir():
        faults.append(f"--dataset: there is no folder {dataset}; give the folder that holds the recordings")
    if outside_index_root is not None:
        try:
            outside_index_root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            faults.append(
                f"-o/--outside_index_root: {outside_index_root} cannot be made a folder ({error.strerror}); choose "
                "another"
            )
    return faults


def _device_names(gpus: str) -> str:
    import torch

    numbers = gpus.split("-")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise usage_error(f"-g/--gpus: {gpus!r} is no list of GPU numbers; use 0, or 0-1-2")
    if len(set(map(int, numbers))) < len(numbers):
        raise usage_error(f"-g/--gpus: {gpus} names a GPU twice; name each once, such as 0-1")
    if not torch.cuda.is_available():
        if len(numbers) > 1:
            typer.echo(f"-g/--gpus: this machine shows none of the {len(numbers)} GPUs; its CPU trains", err=True)
        return "cpu"
    if missing := [number for number in numbers if int(number) >= torch.cuda.device_count()]:
        raise usage_error(
            f"-g/--gpus: there is no GPU {missing[0]}; this machine shows {torch.cuda.device_count()}, numbered from 0"
        )
    return ",".join(f"cuda:{number}" for number in numbers)


def _execute(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    level: LogLevel,
    outside_index_root: Path | None,
    skip_training: bool,
    skip_index: bool,
    continue_on_error: bool,
) -> int:
    from rvc_engine.index.build import link_outside
    from rvc_engine.pipeline.pipeline import StageSelection
    from rvc_engine.pipeline.process import StopSwitch

    switch = StopSwitch()
    switch.on_signals()
    selection = StageSelection(not skip_training, not skip_index, continue_on_error)
    code = execute(dataset, workspace, config, machine, switch, selection=selection, level=level.value)
    has_index = code == EXIT_SUCCEEDED or (code == EXIT_FAILED and continue_on_error)
    if outside_index_root is None or not has_index:
        return code
    try:
        typer.echo(f"index linked as {link_outside(workspace, outside_index_root)}")
    except InvalidDataset:  # it failed before there was an index, and that was said, or none was ever made
        if skip_index:
            typer.echo(f"warning: there is no index yet to link into {outside_index_root}: drop --skip-index", err=True)
        return code
    except OSError as error:
        typer.echo(f"error: the index could not be linked into {outside_index_root}: {error}", err=True)
        return EXIT_FAILED
    return code


def main() -> None:
    """Entry point."""
    app(prog_name="rvc_training_pipeline.py")
