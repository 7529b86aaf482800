"""The options of the RVC training pipeline script, under their old names, for the same engine.

Exit codes: 0 done, 1 failed, 2 invalid option, 3 stopped on request (run the same command again to resume), 130 ended
by a second Ctrl-C.
"""

import re
from contextlib import ExitStack, closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from rvc_engine.cli.console import Terminal, open_report
from rvc_engine.cli.interruption import EXIT_INTERRUPTED, LostWork, answered_at_once
from rvc_engine.cli.main import config_from, settings_from, usage_error
from rvc_engine.cli.missing_weights import SCRATCH, MissingWeightsRemedy
from rvc_engine.cli.option_words import OptionWords
from rvc_engine.config import ContentEncoder, PitchEstimator, TrainingConfig
from rvc_engine.environment.shells import shell_words
from rvc_engine.errors import EngineError, InvalidDataset
from rvc_engine.events import EXIT_FAILED, EXIT_RESTART, EXIT_SUCCEEDED, Event, Log, Succeeded, Warned
from rvc_engine.machine import Machine, default_weights_folder
from rvc_engine.names.voices import check_run_name
from rvc_engine.reporting import Report
from rvc_engine.translation.programs import LanguageOption, echo, localized
from rvc_engine.workspace import external
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file
from rvc_engine.workspace.rvc_files.templates import copy_template

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ALIASES = {"experiment_dir": "exp_dir", "pretrainG": "pretrain_g", "pretrainD": "pretrain_d"}
"""Names of options in RVC's own `train.py` that differ from this script's."""
NO_FILE = Path("none")
"""Value of -pg and -pd for a model without base weights."""


class PipelineCommand(TyperCommand):
    """The command; keeps its words for the log, and names the options for the arguments of `train_index.py`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words. Exits for `NAME VERSION FOLDER CPUS`, which have no options before them.

        `ctx`: the context of typer's own copy of click, or of click, by typer's version.
        """
        ctx.meta[__name__] = list(args)
        if args and not any(word.startswith("-") for word in args):
            name, version, root = [*args, *("", "v2", "")[len(args) :]][:3]
            words = ["-e", name, "-v", version, "--skip-training", *(["-o", root] if root else [])]
            raise usage_error(
                "the arguments of train_index.py are options here: use "
                f"`python rvc_training_pipeline.py {shell_words(*words)}`"
            )
        return super().parse_args(ctx, args)


class LogFormat(StrEnum):
    """Form of the output."""

    TEXT = "text"
    JSON = "json"


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
TotalEpoch = Annotated[
    str,
    typer.Option(
        "-te",
        "--total_epoch",
        callback=_to_number,
        help="Passes over the dataset; auto: until saves no longer improve; the voice is then the best one.",
    ),
]
SaveEveryEpoch = Annotated[int, typer.Option("-se", "--save_every_epoch", help="Epochs between saves.")]
Gpus = Annotated[
    str, typer.Option("-g", "--gpus", help="GPUs to train on, such as 0, or 0-1-2; cpu, or without a GPU: the CPU.")
]
Version = Annotated[str, typer.Option("-v", "--version", help="v1 or v2.")]
PretrainG = Annotated[Path | None, _file("-pg", "--pretrain_g", text="Base weights of the generator, or none.")]
PretrainD = Annotated[Path | None, _file("-pd", "--pretrain_d", text="Base weights of the discriminator, or none.")]
IfLatest = Annotated[int, _switch("-l", "--if_latest", text="1: keep one G_/D_ pair, named 2333333.")]
IfCache = Annotated[int, _switch("-c", "--if_cache_data_in_gpu", text="1: keep all clips in the device's memory.")]
SaveEveryWeights = Annotated[
    int, _switch("-sw", "--save_every_weights", text="1: also write weights/<name>_e<e>_s<s>.pth at every save.")
]
OutsideIndexRoot = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--outside_index_root",
        parser=_to_path,
        metavar="<folder>",
        help="Folder in which to link the finished index.",
    ),
]
SkipTraining = Annotated[bool, typer.Option("--skip-training", help="Only build the index.")]
SkipIndex = Annotated[bool, typer.Option("--skip-index", help="Only train and export.")]
ContinueOnError = Annotated[
    bool,
    typer.Option("--continue-on-error", help="Build the index even if training fails; the exit code is then still 1."),
]
Level = Annotated[LogLevel, typer.Option("--log-level", case_sensitive=False, help="For the console.")]
Format = Annotated[
    LogFormat, typer.Option("--log-format", case_sensitive=False, help="json: one event a line, on standard output.")
]

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
    str,
    typer.Option(
        "--pretrained",
        help="auto: published base weights; if they are missing, and by default, they are fetched, or the run trains "
        "from scratch where that is not possible. none: train from scratch.",
    ),
]
MaxTrainSeconds = Annotated[float | None, typer.Option("--max-train-seconds", help="End training after this time.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any other field of the configuration, as name=value; repeatable.")
]
WeightsFolder = Annotated[Path | None, typer.Option("--weights", help="Folder of published weights.")]
Logs = Annotated[Path, typer.Option("--logs", help="Folder of all runs.")]


# Long because of its list of options. Parameters named as fields of TrainingConfig are read from `context`.
@app.command(cls=PipelineCommand, context_settings={"token_normalize_func": lambda name: ALIASES.get(name, name)})
def pipeline(
    context: typer.Context,
    exp_dir: ExpDir,
    sample_rate: SampleRate = "40k",
    f0: IfF0 = 1,
    batch_size: BatchSize = "4",
    total_epochs: TotalEpoch = "300",
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
    log_format: Format = LogFormat.TEXT,
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
    from rvc_engine.pipeline.process import EventLines, StopSwitch, restart, run_engine

    if skip_training and skip_index:
        raise usage_error("--skip-training and --skip-index together leave nothing to do; drop one of them")
    name = _voice_name(exp_dir, logs)
    words = OptionWords({param.name or "": param.opts for param in context.command.params})
    config = _read_config(context, settings or [], words)
    workspace = Workspace(logs / name, name, config.version)
    machine = Machine(
        device=_device_names(gpus),
        weights_folder=weights or default_weights_folder(),
        content_folder=content_folder,
        pretrained_g=None if pretrain_g == NO_FILE else pretrain_g,
        pretrained_d=None if pretrain_d == NO_FILE else pretrain_d,
    )
    faults = _folder_faults(dataset, outside_index_root)
    if not skip_training:
        faults += _file_faults(machine, workspace)
    if faults:
        if dataset is None:  # all faults in one message
            faults += external.check_workspace(workspace, config, trains=not skip_training).faults
        raise usage_error("; ".join(faults), words.translate)
    switch = StopSwitch()
    switch.on_signals()
    selection = StageSelection(not skip_training, not skip_index, continue_on_error)
    with ExitStack() as stack:
        terminal = (
            None
            if log_format is LogFormat.JSON
            else stack.enter_context(closing(Terminal(log_level.value, words.translate)))
        )
        sink = stack.enter_context(open_report(workspace, terminal or EventLines(switch), words=words))
        report = RunReport(sink, workspace)
        report(Log(level="debug", message=f"options: {shell_words(*context.meta[__name__])}"))
        show = (lambda _share, _text: None) if terminal is None else terminal.show
        may_choose = not (pretrain_g or pretrain_d) and "pretrained" not in config.model_fields_set
        remedy = MissingWeightsRemedy(dataset, workspace, machine, report, show, switch, may_choose, not skip_training)

        def prepare(config: TrainingConfig) -> TrainingConfig:
            if not skip_training and (template := copy_template(Path("configs"), workspace, config)):
                report(Log(message=f"{workspace.hyperparameters} is a copy of {template}"))
            prepared = remedy(config)
            report.is_from_scratch = prepared.pretrained != config.pretrained
            report(Log(level="debug", message=f"configuration: {prepared.model_dump_json()}"))
            if terminal is not None:
                with suppress(EngineError):  # a broken config.json is an error of the run's own checks
                    terminal.log_interval = config_file.hyperparameters(workspace, prepared).log_interval
            return prepared

        def end() -> None:
            report(Log(level="error", message=report.lost_work.describe()))
            if terminal is not None:
                terminal.close()

        try:
            with answered_at_once(lambda text: report(Warned(message=text)), end):
                code = run_engine(dataset, workspace, config, machine, report, switch, selection, 0, prepare)
        except KeyboardInterrupt as error:
            end()
            raise typer.Exit(EXIT_INTERRUPTED) from error
        if outside_index_root is not None and (code == EXIT_SUCCEEDED or (code == EXIT_FAILED and continue_on_error)):
            code = _link_index(workspace, outside_index_root, code, report, skip_index=skip_index)
    raise typer.Exit(restart() if code == EXIT_RESTART else code)


class RunReport:
    """Report of a run that also notes what an interruption would lose, and how the voice was trained."""

    def __init__(self, report: Report, workspace: Workspace) -> None:
        self._report = report
        self.lost_work = LostWork(workspace)
        self.is_from_scratch = False
        """Whether the run trains without base weights because they are missing; added to its last message."""

    def __call__(self, event: Event) -> None:
        self.lost_work(event)
        if isinstance(event, Succeeded) and self.is_from_scratch:
            event = event.model_copy(update={"message": f"{event.message}; {SCRATCH}"})
        self._report(event)


def _is_default(context: typer.Context, name: str) -> bool:
    """Whether the option of a parameter is not given."""
    source = context.get_parameter_source(name)  # of typer's own copy of click, or of click, by typer's version
    return source is None or source.name == "DEFAULT"


def _voice_name(text: str, logs: Path) -> str:
    """The name in -e: as it is, as a shell completes a folder (`anna/`), or the path of a run in the folder of all."""
    name = text.rstrip("/\\") or text
    folder = Path(name).parent
    if folder != Path() and folder.resolve() == logs.resolve():
        name = Path(name).name
    try:
        return check_run_name(name)
    except ValueError as error:
        path = Path(name)
        advice = ""
        if path.name != name and path.is_dir():
            advice = f"; for the run in {path} use {shell_words('--logs', str(folder), '-e', path.name)}"
        raise usage_error(f"-e/--exp_dir: {error}{advice}") from error


def _read_config(context: typer.Context, settings: list[str], words: OptionWords) -> TrainingConfig:
    """The given options named as fields of TrainingConfig, then the fields of `--set`. Exits when one is invalid.

    Options that are not given stay unset, as a value of the run's `config.json` goes before their defaults.
    """
    further = settings_from(settings)
    options = {param.name: "/".join(param.opts) for param in context.command.params if param.name is not None}
    fields = TrainingConfig.model_fields.keys() & options.keys()
    names = [name for name in fields if not _is_default(context, name)]
    flags = {name: options[name] for name in names} | {name: f"--set {name}" for name in further}
    if NO_FILE in {context.params["pretrain_g"], context.params["pretrain_d"]}:
        further["pretrained"] = "none"
    return config_from({name: context.params[name] for name in names} | further, flags, words.translate)


def _file_faults(machine: Machine, workspace: Workspace) -> list[str]:
    """Missing base weights; none where training resumes, which does not read them."""
    from rvc_engine.checkpoints.pairs import is_begun

    options = (("-pg/--pretrain_g", machine.pretrained_g), ("-pd/--pretrain_d", machine.pretrained_d))
    missing = [(option, path) for option, path in options if path is not None and not path.is_file()]
    if missing and is_begun(workspace):
        return []
    return [
        f"{option}: there is no file {path}; give the path of a G_ or D_ file, or leave the option out"
        for option, path in missing
    ]


def _folder_faults(dataset: Path | None, outside_index_root: Path | None) -> list[str]:
    """Faults of the folders, found before hours of work; makes the folder for the index."""
    faults = []
    if dataset is not None and dataset.is_file():
        faults.append(f"--dataset: {dataset} is a file; give the folder that holds the recordings")
    elif dataset is not None and not dataset.is_dir():
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
    """`0-1` or `0,1` as `cuda:0,cuda:1`; `cpu` for an empty text, as in RVC, and where PyTorch finds no GPU."""
    if gpus.strip().lower() in {"", "cpu"}:
        return "cpu"
    import torch

    numbers = re.split("[-,]", gpus)
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise usage_error(f"-g/--gpus: {gpus!r} is not a list of GPU numbers; use 0, or 0-1-2, or cpu")
    if len(set(map(int, numbers))) < len(numbers):
        raise usage_error(f"-g/--gpus: {gpus} names a GPU twice; name each once, such as 0-1")
    if not torch.cuda.is_available():
        if numbers == ["0"]:
            return "auto"  # a GPU of another kind, or the CPU
        if len(numbers) > 1:
            echo(f"-g/--gpus: none of the {len(numbers)} GPUs was found; training on the CPU", err=True)
        return "cpu"
    if missing := [number for number in numbers if int(number) >= torch.cuda.device_count()]:
        raise usage_error(
            f"-g/--gpus: there is no GPU {missing[0]}; this machine has {torch.cuda.device_count()}, numbered from 0"
        )
    return ",".join(f"cuda:{number}" for number in numbers)


def _link_index(workspace: Workspace, root: Path, code: int, report: Report, *, skip_index: bool) -> int:
    """Link the index into `root`; returns the exit code, which is `code` unless linking fails."""
    from rvc_engine.index.build import link_outside

    try:
        report(Log(message=f"index linked as {link_outside(workspace, root)}"))
    except InvalidDataset:  # there is no index: the run failed before it, as reported, or none was ever built
        if skip_index:
            report(Warned(message=f"there is no index yet to link into {root}: drop --skip-index"))
    except OSError as error:
        report(Log(level="error", message=f"the index could not be linked into {root}: {error}"))
        return EXIT_FAILED
    return code


def main() -> None:
    """Entry point."""
    localized(app, "rvc_training_pipeline.py", takes_level=False)()
