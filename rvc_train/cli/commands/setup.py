"""`rvc-train setup`: the published weights that a good voice needs, listed, and imported or downloaded when asked."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rvc_engine.config import SampleRate, Version
from rvc_engine.environment.graphics import graphics_cards
from rvc_engine.environment.torch_builds import fitting_build, gpu_advice, installed_torch, shown_command
from rvc_engine.environment.torch_builds import install_command as torch_command
from rvc_engine.errors import EngineError
from rvc_engine.installation import install_command
from rvc_engine.machine import default_weights_folder
from rvc_engine.translation.messages import translated
from rvc_engine.weights.catalogue import HUBERT, PublishedFile, Weights, files_under
from rvc_engine.weights.download import fetch
from rvc_train.cli.data_folders import VARIABLE, default_data_folder
from rvc_train.cli.output import Output, size
from rvc_train.cli.session import CommandContext, OutputCommand
from rvc_train.errors import ClientError

PITCH = "rmvpe"
_FAIRSEQ_HUBERT = frozenset({"hubert_base.pt", "contentvec_base.pt"})

DataOption = Annotated[
    Path | None,
    typer.Option(
        envvar=VARIABLE,
        metavar="DIR",
        help="Folder for recordings, voices and the database. Default: data, where there is one; else the user's.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("setup", cls=OutputCommand)(setup)


def setup(
    context: CommandContext,
    data: DataOption = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Where to take weights from: a folder of RVC or Applio, any folder or file, or a mirror's address. "
            "Repeatable. Default: Hugging Face, or the mirror in HF_ENDPOINT.",
        ),
    ] = None,
    rate: Annotated[SampleRate, typer.Option(help="Sample rate of voices.")] = "40k",
    version: Annotated[Version, typer.Option(help="Version of voices.")] = "v2",
    everything: Annotated[bool, typer.Option("--all", help="All published weights.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download what is missing without asking.")] = False,
    torch: Annotated[
        bool, typer.Option("--torch", help="Only install the build of PyTorch that this machine's GPU needs.")
    ] = False,
) -> None:
    """Get the published weights that a good voice needs: shows what is missing, and asks before a download."""
    output = context.output
    if torch:
        install_torch(output, agrees=yes)
        return
    if (advice := gpu_advice()) is not None:
        output.warning(advice)
    weights = weights_of(data or default_data_folder())
    wanted = list(weights.files) if everything else needed_files(weights, rate, version)
    with _engine_errors():
        taken = import_weights(output, weights, wanted, [Path(each) for each in sources or [] if "://" not in each])
        missing = missing_files(weights, wanted)
        mirror = next((each for each in sources or [] if "://" in each), None)
        show_missing(output, weights, missing)
        fetched = missing if missing and (yes or mirror or _agrees(output, missing)) else []
        if fetched:
            download(output, weights, fetched, mirror)
    still_missing = [file.key for file in missing if file not in fetched]
    output.result(
        {
            "weights": str(weights.folder),
            "imported": [file.key for file in taken],
            "fetched": [file.key for file in fetched],
            "missing": still_missing,
        },
        f"all of it is in {weights.folder}, verified" if not still_missing else "nothing was downloaded",
    )


def install_torch(output: Output, *, agrees: bool) -> None:
    """Install the build of PyTorch that the GPU needs: prints the command, and asks unless the user `agrees`.

    Raises ClientError where none fits, or the command fails.
    """
    installed, cards = installed_torch(), graphics_cards()
    names = ", ".join(card.name for card in cards)
    if installed is None:
        raise ClientError(f"PyTorch is not installed; install the engine first: {install_command('engine')}")
    if any(card.vendor in installed.supports for card in cards):
        output.result({"command": None}, f"the installed PyTorch {installed.version} can use the GPU here ({names})")
        return
    build = fitting_build(installed.version, cards)
    if build is None:
        raise ClientError(gpu_advice() or "no GPU was found that a build of PyTorch can use; nothing was installed")
    command = torch_command(installed.version, build)
    output.note(f"for {names}: {shown_command(command)}")
    is_on_terminal = sys.stdin.isatty() and sys.stderr.isatty() and not output.as_json
    if not agrees and not (is_on_terminal and typer.confirm(translated("Install it now?"), err=True)):
        output.result({"command": shown_command(command)}, "nothing was installed; run the command, or add --yes")
        return
    done = subprocess.run(command, stdout=sys.stderr if output.as_json else None, check=False)
    if done.returncode != 0:
        raise ClientError(
            f"pip could not install torch {installed.version}+{build.tag} (see above); stop the server and its "
            "workers, update the driver, or choose another build on https://pytorch.org/get-started"
        )
    output.result({"command": shown_command(command)}, f"PyTorch {installed.version}+{build.tag} is installed")


def weights_of(data_folder: Path) -> Weights:
    """Published weights of the workers on a data folder."""
    return Weights(Path(os.environ.get("RVC_TRAIN_WEIGHTS_FOLDER") or data_folder.resolve() / "weights"))


def needed_files(weights: Weights, rate: SampleRate = "40k", version: Version = "v2") -> list[PublishedFile]:
    """Files for a good voice: content encoder, RMVPE, and base weights with pitch."""
    base = weights.pretrained_files(version, rate, f0=True)
    return [*weights.files_of(HUBERT), *weights.files_of(PITCH), *base]


def missing_files(weights: Weights, wanted: Sequence[PublishedFile]) -> list[PublishedFile]:
    """Files that are absent or damaged."""
    return [file for file in wanted if weights.verify(file) != "verified"]


def show_missing(output: Output, weights: Weights, missing: Sequence[PublishedFile]) -> None:
    """Print what is missing in the folder, with sizes and what each part is for."""
    if not missing:
        return
    total = size(sum(file.download_size for file in missing))
    output.note(f"missing in {weights.folder}: {total}, for a good voice; all else works without")
    for name in dict.fromkeys(file.id for file in missing):
        amount = size(sum(file.download_size for file in missing if file.id == name))
        output.note(f"  {name}, {amount}: {translated(_purpose(name))}")


def _purpose(name: str) -> str:
    """Purpose of an id's files."""
    if name.startswith("pretrained-"):
        return "base weights; without them a voice needs far more recordings and time"
    if name == HUBERT:
        return "the content encoder ContentVec; without it there is only whisper-tiny"
    if name.startswith("embedder-"):
        return "another content encoder"
    return "a pitch estimator; without it there are swift, harvest and dio"


def import_weights(
    output: Output, weights: Weights, wanted: Sequence[PublishedFile], sources: Sequence[Path]
) -> list[PublishedFile]:
    """Import published files from folders or files, and what the user's weights folder already has; returns them."""
    taken = []
    own = default_weights_folder()
    if own != weights.folder and own.is_dir() and missing_files(weights, wanted):
        sources = [*sources, own]
    for source in sources:
        taken += weights.import_from(source, lambda file, path: output.note(f"imported {file.key} from {path}"))
        if source != own:
            _warn_of_others(output, weights, missing_files(weights, wanted), source)
    return taken


def _warn_of_others(output: Output, weights: Weights, missing: Sequence[PublishedFile], source: Path) -> None:
    """Warn of files that have the name of a missing one and another content."""
    by_name = {file.name: file for file in missing}
    sizes = frozenset[int]().union(*(file.sizes for file in weights.files))
    for path in files_under(source):
        if not path.is_file():
            continue
        if path.name in _FAIRSEQ_HUBERT and any(file.id == HUBERT for file in missing):
            output.warning(f"{path} is in fairseq's format, which is not read here; {HUBERT} is the same encoder")
        elif (
            (file := by_name.get(path.name)) is not None and path.suffix != ".json" and path.stat().st_size not in sizes
        ):
            present, published = size(path.stat().st_size), size(file.size)
            output.warning(f"{path} is not the published {file.key}: it has {present}, the published one {published}")


def _agrees(output: Output, missing: Sequence[PublishedFile]) -> bool:
    """Ask on a terminal whether to download."""
    if output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        output.note("download it with --yes, or give a folder, a file or a mirror with --from")
        return False
    total = size(sum(file.download_size for file in missing))
    return typer.confirm(translated(f"Download {total}?"), err=True)


def download(output: Output, weights: Weights, files: Sequence[PublishedFile], mirror: str | None = None) -> None:
    """Download files, with progress. Raises EngineError; the next call goes on with what was interrupted."""
    with output.transfer_bar() as bar:
        tasks = {file.key: bar.add_task(file.key, total=file.download_size) for file in files}
        fetch(weights, files, lambda file, done: bar.update(tasks[file.key], completed=done), mirror=mirror)


def prepare(output: Output, data_folder: Path, *, fetches: bool) -> None:
    """Before a start of `rvc-train up`: with `fetches` get what a good voice needs, otherwise name what is missing.

    The server works without: what fails is a warning.
    """
    weights = weights_of(data_folder)
    wanted = needed_files(weights)
    if not fetches:
        missing = [file for file in wanted if weights.state(file) in {"missing", "damaged"}]
        if missing:
            show_missing(output, weights, missing)
            output.note("get it with `rvc-train setup`")
        return
    try:
        import_weights(output, weights, wanted, [])
        missing = missing_files(weights, wanted)
        show_missing(output, weights, missing)
        download(output, weights, missing)
    except (EngineError, OSError) as error:
        output.warning(str(error))


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """Errors of the engine's functions as errors of the client."""
    try:
        yield
    except EngineError as error:
        raise ClientError(str(error)) from error
