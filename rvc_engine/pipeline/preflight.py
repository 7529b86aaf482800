"""Checks before a run starts, all reported at once: weights, speakers, and the slices of a found workspace."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rvc_engine.audio.recordings import list_recordings
from rvc_engine.checkpoints.base_weights import read_base_weights
from rvc_engine.checkpoints.pairs import is_begun, pairs_to_resume
from rvc_engine.checkpoints.recovery import RecoveryStore
from rvc_engine.config import TrainingConfig
from rvc_engine.content.names import embedder_of_features, is_local
from rvc_engine.data.speakers import Speakers, check_folder_names, recording_folders
from rvc_engine.errors import EngineError, InvalidConfig, InvalidDataset, MissingWeights
from rvc_engine.events import Warned
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.machine import Machine
from rvc_engine.models.identity import ModelIdentity, discriminators_layout, generator_layout
from rvc_engine.pipeline.required_weights import check_weights
from rvc_engine.reporting import Report
from rvc_engine.weights.catalogue import Weights
from rvc_engine.weights.own import own_base_paths
from rvc_engine.workspace import external
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files import config_file
from rvc_engine.workspace.rvc_files.filelist import users_filelist


def check(
    dataset: Path | None,
    workspace: Workspace,
    config: TrainingConfig,
    machine: Machine,
    report: Report,
    *,
    trains: bool,
    continues_to_index: bool,
) -> EngineError | None:
    """Raise one error that lists every fault that prevents the run; files merely left out are reported as warnings.

    With `continues_to_index`, an error that prevents only training is returned instead of raised.
    """
    for_all = list(_preprocessing_faults(dataset, workspace, config, machine))
    if dataset is not None and (fault := _replaced_slices_fault(workspace, config)):
        for_all.append(InvalidDataset(fault))
    for_training: list[EngineError] = []
    if dataset is None:
        found = external.check_workspace(workspace, config, trains=trains)
        faults = [InvalidDataset(text) for text in found.faults]
        can_index = continues_to_index and not external.check_workspace(workspace, config, trains=False).faults
        (for_training if can_index else for_all).extend(faults)
        for remark in found.remarks:
            report(Warned(message=remark))
    elif trains and (listed := users_filelist(workspace, config.f0)) is not None and listed.remark:
        report(Warned(message=listed.remark))
    if trains:
        try:
            config_file.check(workspace, config)
        except EngineError as error:
            for_training.append(error)
    if trains and not is_begun(workspace):  # otherwise base weights are not read
        for_training += _base_weights_faults(config, machine)
    if for_all or (for_training and not continues_to_index):
        raise _join_errors([*for_all, *for_training])
    return _join_errors(for_training) if for_training else None


def check_begun_run(workspace: Workspace, identity: dict[str, Any]) -> None:
    """Raise IncompatibleCheckpoint when training would refuse to resume from the folder's checkpoint.

    `identity`: that of the run to start, as far as it is known before any work.
    """
    store = RecoveryStore(workspace, identity)
    own = store.newest()
    if own is None or pairs_to_resume(workspace.root, own, lambda _: None):
        return
    if recorded := store.recorded_identity():
        store.check_identity(recorded)


def _preprocessing_faults(
    dataset: Path | None, workspace: Workspace, config: TrainingConfig, machine: Machine
) -> Iterator[EngineError]:
    try:
        check_weights(config, machine, prepares=dataset is not None, trains=False)
    except EngineError as error:
        yield error
    try:
        _check_speakers(dataset, workspace, config)
    except EngineError as error:
        yield error
    encoder = workspace.made_with("content")
    if dataset is not None:
        return
    made_with = "local" if encoder and is_local(encoder) else encoder
    if made_with and made_with != config.content:
        yield InvalidConfig(
            f"the features in {workspace.features} were made with content={made_with}, but this run has "
            f"content={config.content}; set content={made_with}, or give the recordings again"
        )
        return
    try:
        embedder_of_features(config.content, encoder)
    except EngineError as error:
        yield error


def _replaced_slices_fault(workspace: Workspace, config: TrainingConfig) -> str | None:
    """Folders that a run from recordings would empty, though no such run filled them; None without any."""
    if workspace.speakers.is_file():  # written at the start of each run from recordings
        return None
    folders = [workspace.slices, workspace.slices_16k, workspace.features]
    if config.f0:
        folders += [workspace.coarse_f0, workspace.f0_hz]
    counts = {folder.name: len(list(folder.iterdir())) for folder in folders if folder.is_dir()}
    foreign = [f"{name} ({count} files)" for name, count in counts.items() if count]
    if not foreign:
        return None
    return (
        f"{workspace.root} holds clips that another program prepared, and the recordings of --dataset would replace "
        f"them: {', '.join(foreign)}; give the voice another name, leave out --dataset to train on what is there, or "
        "move those folders elsewhere"
    )


def _check_speakers(dataset: Path | None, workspace: Workspace, config: TrainingConfig) -> None:
    """Raise InvalidDataset when recordings have no speaker by their folders, or a speaker of the config has none."""
    if dataset is not None:
        recordings = list_recordings(dataset)
        if config.speakers != "one":
            check_folder_names(recordings)
        Speakers.from_folders(config, recording_folders(recordings))
        return
    speakers = Speakers.from_workspace(workspace, config)
    for clip in external.clip_paths(workspace, config.f0):
        speakers.speaker_of_slice(clip.wave.stem, clip.speaker)


def _base_weights_faults(config: TrainingConfig, machine: Machine) -> Iterator[EngineError]:
    """Base weights that are missing, or of another kind of voice."""
    try:
        check_weights(config, machine, prepares=False, trains=True)
    except EngineError as error:
        yield error
        return
    hparams = Hyperparameters.from_config(config)
    layouts = (
        generator_layout(hparams, with_posterior=True),
        discriminators_layout(ModelIdentity("discriminators", hparams.version, hparams.hidden_channels)),
    )
    roles = ("pretrained generator", "pretrained discriminator")
    for path, layout, role in zip(base_weight_paths(config, machine), layouts, roles, strict=True):
        try:
            if path is not None:
                read_base_weights(path, role, layout)
        except EngineError as error:
            yield error


def base_weight_paths(config: TrainingConfig, machine: Machine) -> tuple[Path | None, Path | None]:
    """Base weights to start training from, generator first: the user's own files, or else the published ones."""
    own = own_base_paths(config, machine)
    if not config.uses_published_weights:
        return own
    weights = Weights(machine.weights_folder)
    published = weights.pretrained_files(config.version, config.sample_rate, config.f0)
    generator, discriminators = (
        weights.path_of(file) if path is None else path for path, file in zip(own, published, strict=True)
    )
    return generator, discriminators


def _join_errors(errors: Sequence[EngineError]) -> EngineError:
    """One error with the messages of all, of the type of the first MissingWeights, or else of the first error."""
    if len(errors) == 1:
        return errors[0]
    main = next((error for error in errors if isinstance(error, MissingWeights)), errors[0])
    return type(main)(". Also, ".join(str(error).rstrip(".") for error in errors))
