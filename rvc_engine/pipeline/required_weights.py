"""Check of the weights that a run needs, before any work and with all missing files in one message. No torch."""

from collections.abc import Iterator
from pathlib import Path

from rvc_engine.config import TrainingConfig
from rvc_engine.content.local_folder import local_folder_problem
from rvc_engine.errors import MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pitch.names import PUBLISHED_WEIGHTS, check_installed, weights_problem
from rvc_engine.weights.catalogue import ENCODER_IDS, PublishedFile, Weights
from rvc_engine.weights.own import OwnWeightsFolder, own_base_paths

_OTHER_ENCODER = (
    "choose another encoder with content=whisper-tiny, which needs no download (a voice made with it converts "
    "correctly only with `rvc-engine convert`)"
)
_NO_BASE_WEIGHTS = "train from scratch with pretrained=none, which needs far more recordings and time"


def check_weights(config: TrainingConfig, machine: Machine, *, prepares: bool = True, trains: bool = True) -> None:
    """Raise MissingWeights, with the remedies, when weights that the run needs are missing or damaged.

    `prepares`: the run starts from recordings, so it needs the encoder and the pitch estimator. `trains`: it needs the
    base weights. Raises InvalidConfig for an estimator whose package is not installed.
    """
    if prepares and config.f0:
        check_installed(config.pitch)
    weights = Weights(machine.weights_folder)
    problems: list[str] = []
    if prepares:
        problems += _content_problems(config, machine, weights)
        if config.f0 and (problem := weights_problem(config.pitch, weights)):
            problems.append(problem)
    if trains:
        problems += _base_weights_problems(config, machine, weights)
    if problems:
        raise MissingWeights(". Also, ".join(problems))


def published_preparation(config: TrainingConfig, machine: Machine) -> list[PublishedFile]:
    """Published files that a run with recordings needs for content and pitch."""
    weights = Weights(machine.weights_folder)
    names = [ENCODER_IDS[config.content]] if config.content in ENCODER_IDS else []
    names += [config.pitch] if config.f0 and config.pitch in PUBLISHED_WEIGHTS else []
    return [file for name in names for file in weights.files_of(name)]


def published_base_weights(config: TrainingConfig, machine: Machine) -> list[PublishedFile]:
    """Published base weights that a run needs: for the models without a file of the user's own."""
    published = Weights(machine.weights_folder).pretrained_files(config.version, config.sample_rate, config.f0)
    own = own_base_paths(config, machine)
    return [file for path, file in zip(own, published, strict=True) if path is None]


def missing_files(
    config: TrainingConfig, weights_folder: Path, own: tuple[Path | None, Path | None] = (None, None)
) -> list[PublishedFile]:
    """Published files that a run with recordings needs and that are missing or damaged there. Reads no file's content.

    A damaged file with the right size is found only once its sha256 was computed. `own`: files to start from instead
    of published ones, generator first.
    """
    machine = Machine(weights_folder=weights_folder, pretrained_g=own[0], pretrained_d=own[1])
    weights = Weights(weights_folder)
    needed = published_preparation(config, machine)
    if config.uses_published_weights:
        needed += published_base_weights(config, machine)
    return [file for file in needed if weights.state(file) in {"missing", "damaged"}]


def _content_problems(config: TrainingConfig, machine: Machine, weights: Weights) -> Iterator[str]:
    if config.content == "local":
        if problem := local_folder_problem(machine):
            yield problem
    elif (name := ENCODER_IDS.get(config.content)) and (problems := weights.problems(weights.files_of(name))):
        ways = weights.ways_to_get(name, _OTHER_ENCODER)
        shown = "ContentVec" if config.content == "contentvec" else config.content
        yield f"the content encoder {shown} cannot be used, {'; '.join(problems)}. {ways}"


def _base_weights_problems(config: TrainingConfig, machine: Machine, weights: Weights) -> Iterator[str]:
    name = config.own_base_weights
    if name is not None and not any(own_base_paths(config, machine)):
        known = ", ".join(found.name for found in OwnWeightsFolder(machine.weights_folder).all()) or "none"
        yield (
            f"there are no base weights of your own named {name} in {machine.weights_folder} (there are: {known}); add "
            f"them with `rvc-engine weights add {name} --generator FILE --discriminator FILE`, or set pretrained=auto"
        )
    elif config.uses_published_weights and (problems := _base_problems(config, machine, weights)):
        ways = weights.ways_to_get(f"pretrained-{config.version}-{config.sample_rate}", _NO_BASE_WEIGHTS)
        yield f"the base weights cannot be used, {'; '.join(problems)}. {ways}"


def _base_problems(config: TrainingConfig, machine: Machine, weights: Weights) -> list[str]:
    problems = []
    published = weights.pretrained_files(config.version, config.sample_rate, config.f0)
    needed: list[PublishedFile] = []
    for own, file in zip(own_base_paths(config, machine), published, strict=True):
        if own is None:
            needed.append(file)
        elif not own.is_file():
            problems.append(f"there is no file {own}")
    return problems + weights.problems(needed)
