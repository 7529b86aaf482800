"""Check of the weights that a run needs, before any work and with all missing files in one message. No torch."""

from collections.abc import Iterator
from pathlib import Path

from rvc_engine.config import TrainingConfig
from rvc_engine.content.local_folder import local_folder_problem
from rvc_engine.errors import MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.pitch.names import PUBLISHED_WEIGHTS, check_installed, weights_problem
from rvc_engine.weights.catalogue import ENCODER_IDS, PublishedFile, Weights

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
    own = (machine.pretrained_g, machine.pretrained_d)
    return [file for path, file in zip(own, published, strict=True) if path is None]


def missing_files(config: TrainingConfig, weights_folder: Path) -> list[PublishedFile]:
    """Published files that a run with recordings needs and that are missing or damaged there. Reads no file's content.

    A damaged file with the right size is found only once its sha256 was computed.
    """
    machine, weights = Machine(weights_folder=weights_folder), Weights(weights_folder)
    needed = published_preparation(config, machine)
    if config.pretrained == "auto":
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
    if config.pretrained == "auto" and (problems := _base_problems(config, machine, weights)):
        ways = weights.ways_to_get(f"pretrained-{config.version}-{config.sample_rate}", _NO_BASE_WEIGHTS)
        yield f"the base weights cannot be used, {'; '.join(problems)}. {ways}"


def _base_problems(config: TrainingConfig, machine: Machine, weights: Weights) -> list[str]:
    problems = []
    published = weights.pretrained_files(config.version, config.sample_rate, config.f0)
    needed: list[PublishedFile] = []
    for own, file in zip((machine.pretrained_g, machine.pretrained_d), published, strict=True):
        if own is None:
            needed.append(file)
        elif not own.is_file():
            problems.append(f"there is no file {own}")
    return problems + weights.problems(needed)
