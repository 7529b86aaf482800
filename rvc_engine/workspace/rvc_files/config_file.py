"""RVC's `config.json` as users edit it: which values a run takes from the one in its folder, and which it refuses.

RVC's trainer takes all but the batch size and the epochs from this file, and never replaces one. A value is edited when
it is neither that of RVC's own file of the rate (v1 or v2, any year) nor one that this engine wrote. No torch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rvc_engine.config import TrainingConfig
from rvc_engine.environment.text_files import read_text
from rvc_engine.errors import InvalidConfig
from rvc_engine.events import Log
from rvc_engine.hyperparameters import MAX_FRAMES, PUBLISHED_WIDTH, Hyperparameters
from rvc_engine.reporting import Report, StageReport
from rvc_engine.workspace import written
from rvc_engine.workspace.layout import Workspace

MIN_SEGMENT_FRAMES = 4
"""Shorter segments have no room for the FFT's window of the mel loss."""
OPTIONS = {
    "learning_rate": "learning_rate",
    "lr_decay": "lr_decay",
    "seed": "seed",
    "epochs": "total_epochs",
    "fp16_run": "precision",
}
"""Keys that are fields of TrainingConfig: an option that was given goes before them."""
HYPERPARAMETERS = {
    "betas": "betas",
    "eps": "epsilon",
    "c_mel": "mel_weight",
    "c_kl": "kl_weight",
    "log_interval": "log_interval",
    "segment_size": "segment_frames",
}
"""Keys that are fields of Hyperparameters."""
UNUSED = {"batch_size", "init_lr_ratio", "warmup_epochs", "max_wav_value", "training_files"}
"""Keys of `train` and `data` that RVC's trainer does not read from the file either."""

_Beta = Annotated[float, Field(ge=0, lt=1)]
_Pair = Annotated[list[_Beta], Field(min_length=2, max_length=2)]
_Edits = dict[str, Any]
"""Edited values by `section.key`."""


class _Train(BaseModel):
    """Types and ranges of the values that count."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    epochs: Annotated[int, Field(ge=1)] = 1
    betas: _Pair = [0.8, 0.99]
    eps: Annotated[float, Field(gt=0)] = 1e-9
    c_mel: Annotated[float, Field(ge=0)] = 45.0
    c_kl: Annotated[float, Field(ge=0)] = 1.0
    log_interval: Annotated[int, Field(ge=1)] = 200
    segment_size: Annotated[int, Field(ge=1)] = 1
    fp16_run: bool = True


@dataclass(frozen=True)
class _File:
    """The file of a workspace, read and checked."""

    edits: _Edits
    is_own: bool
    """Whether this engine wrote it as it is."""
    values: _Edits
    """All values."""


def check(workspace: Workspace, config: TrainingConfig) -> None:
    """Raise InvalidConfig when the folder's `config.json` is broken, or has values that the run cannot take."""
    _read(workspace, config)


def edits(workspace: Workspace, config: TrainingConfig) -> dict[str, Any]:
    """The edited values that count, by key. Raises InvalidConfig."""
    return {key: value for key, value in _edited(workspace, config).items() if key in OPTIONS.keys() | HYPERPARAMETERS}


def with_edits(workspace: Workspace, config: TrainingConfig, report: Report) -> TrainingConfig:
    """The config with the values of the folder's `config.json`, unless options were given; each gets a log line.

    Raises InvalidConfig.
    """
    found, changes = _edited(workspace, config), {}
    for key, value in found.items():
        line, change = _use(key, value, config)
        report(Log(message=f"config.json: {line}"))
        changes.update(change)
    return config.model_copy(update=changes)


def hyperparameters(workspace: Workspace, config: TrainingConfig) -> Hyperparameters:
    """Hyperparameters of the run, with the values of the folder's `config.json`. Raises InvalidConfig."""
    hparams = Hyperparameters.from_config(config)
    changes = {
        HYPERPARAMETERS[key]: value
        for key, value in _edited(workspace, config).items()
        if key in HYPERPARAMETERS and key != "segment_size"
    }
    if "betas" in changes:
        changes["betas"] = tuple(changes["betas"])
    if size := _edited(workspace, config).get("segment_size"):
        changes["segment_frames"] = size // hparams.hop_length
    return replace(hparams, **changes)


def write(workspace: Workspace, config: TrainingConfig, micro_batch_size: int, report: StageReport) -> None:
    """Write the run's `config.json`, unless one of a user or another program stands there that describes the model.

    One that does not is kept as a copy, and its edited values go into the new one. Raises InvalidConfig.
    """
    file = _read(workspace, config)
    tree = json.loads(Hyperparameters.from_config(config).workspace_config(config, micro_batch_size))
    values = _flat(tree)
    if file is not None and not file.is_own:
        found = {"data.sampling_rate": file.values.get("data.sample_rate")} | file.values  # Applio's, RVC's
        differing = [key for key, value in values.items() if _describes_model(key) and found.get(key) != value]
        if not differing:
            written.note_kept(workspace.hyperparameters)
            return
        copy = written.keep_copy(workspace.hyperparameters)
        report.warn(
            f"config.json does not describe the model that is trained ({differing[0].partition('.')[2]}) and is "
            f"replaced; the old one is kept as {copy.name}"
        )
    edited = {} if file is None else file.edits
    tree["train"] |= {key.partition(".")[2]: value for key, value in edited.items() if key != "train.batch_size"}
    own = {key: value for key, value in values.items() if key not in edited}
    text = json.dumps(tree, indent=4, sort_keys=True)
    written.write_own(workspace.hyperparameters, text.encode(), values=own)


def _describes_model(key: str) -> bool:
    return key.startswith(("data.", "model.")) and key.partition(".")[2] not in UNUSED


def _use(key: str, value: Any, config: TrainingConfig) -> tuple[str, dict[str, Any]]:
    """The log line of an edited value of the section `train`, and the changes of the config that it makes."""
    shown = f'"{key}": {json.dumps(value)}'
    field = OPTIONS.get(key)
    if field is None:
        known = key in HYPERPARAMETERS
        return f"{shown} instead of {_default(key, config)}" if known else f"{shown} is not used, as in RVC", {}
    current = getattr(config, field)
    if field in config.model_fields_set or (key == "epochs" and value >= current):
        return f"{shown} is not used, because {field}={current} decides", {}
    default = json.dumps(current) if key == field else f"{field}={current}"
    return f"{shown} instead of {default}", {field: "fp32" if key == "fp16_run" else value}


def _default(key: str, config: TrainingConfig) -> str:
    return json.dumps(Hyperparameters.from_config(config).workspace_tree(config, 4)["train"][key])


def _edited(workspace: Workspace, config: TrainingConfig) -> _Edits:
    """The edited values by key; those of the model and the data were refused, or do not count."""
    file = _read(workspace, config)
    return {} if file is None else {key.partition(".")[2]: value for key, value in file.edits.items()}


def _read(workspace: Workspace, config: TrainingConfig) -> _File | None:
    """The file, checked; None where there is none. Raises InvalidConfig."""
    path = workspace.hyperparameters
    if not path.is_file():
        return None
    try:
        tree = json.loads(read_text(path))
        values = _flat(tree)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidConfig(
            f"{path} is no config.json of RVC ({error}); correct it, or delete it to train with the published values"
        ) from error
    if written.is_own(path) or _is_older_than_records(workspace, tree):
        return _File(_differing(values, workspace, config) if written.is_own(path) else {}, True, values)
    found = _differing(values, workspace, config)
    if faults := list(_faults(values, found, workspace, config)):
        raise InvalidConfig(
            f"{path} does not fit this run: {'; '.join(faults)}. Correct it, or delete it to train with the "
            "published values"
        )
    return _File(found, False, values)


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values by `section.key`; those that are not in a section are left out. Raises AttributeError."""
    return {
        f"{section}.{key}": value
        for section, entries in sections.items()
        if section in ("train", "data", "model")
        for key, value in entries.items()
    }


def _is_older_than_records(workspace: Workspace, tree: Mapping[str, Any]) -> bool:
    """Whether a run of this engine, from before it kept records, wrote the file: it has keys that RVC's has not."""
    is_recorded = bool(written.record_of(workspace.hyperparameters))
    return not is_recorded and {"version", "f0"} <= tree.keys() and any(workspace.recovery.glob("*.pt"))


def _differing(values: _Edits, workspace: Workspace, config: TrainingConfig) -> _Edits:
    """The values that are neither RVC's own, nor those that this engine wrote, nor those of the run itself."""
    recorded = written.record_of(workspace.hyperparameters).get("values", {})
    rate_files = [_published(config.model_copy(update={"version": v, "width": PUBLISHED_WIDTH})) for v in ("v1", "v2")]
    same_model = [file for file in rate_files if file["model.upsample_rates"] == values.get("model.upsample_rates")]
    run = {key: value for key, value in _published(config).items() if not key.startswith("train.")}
    sources = [*(same_model or rate_files), run, recorded]
    return {
        key: value
        for key, value in values.items()
        if (key in run or key.startswith("train."))  # Applio's files have further keys of the model
        and not any(key in source and _same(source[key], value) for source in sources)
        and not (key == "train.fp16_run" and value is True)
    }


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, 45 and 45.0 too, but not 1 and true."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _published(config: TrainingConfig) -> _Edits:
    plain = config.model_copy(
        update={name: TrainingConfig.model_fields[name].default for name in ("learning_rate", "lr_decay", "seed")}
    )
    return _flat(json.loads(Hyperparameters.from_config(config).workspace_config(plain, 4)))


def _faults(values: _Edits, found: _Edits, workspace: Workspace, config: TrainingConfig) -> Iterator[str]:
    """Reasons why a run cannot take the edited values."""
    rate = values.get("data.sampling_rate", values.get("data.sample_rate", config.sample_rate_hz))  # RVC's, Applio's
    if not _same(rate, config.sample_rate_hz):
        names = {32_000: "32k", 40_000: "40k", 48_000: "48k"}
        known = names.get(rate) if isinstance(rate, int) else None
        choose = f" (sample_rate={known} is for such a file)" if known else ""
        yield f"its sampling_rate is {json.dumps(rate)}, but the voice has {config.sample_rate_hz} Hz{choose}"
        return
    for key, value in found.items():
        if _describes_model(key):
            yield f"{key.partition('.')[2]}={json.dumps(value)} is not supported"
    train = {key.partition(".")[2]: value for key, value in found.items() if key.startswith("train.")}
    try:
        _Train.model_validate(train)
    except ValidationError as error:
        for fault in error.errors():
            yield f"{fault['loc'][0]}={json.dumps(train[str(fault['loc'][0])])}: {fault['msg'].lower()}"
        return
    hop = Hyperparameters.from_config(config).hop_length
    frames, rest = divmod(train.get("segment_size", 10 * hop), hop)
    if rest or not MIN_SEGMENT_FRAMES <= frames <= MAX_FRAMES:
        yield (
            f"segment_size={train['segment_size']} must be a multiple of the hop length, {hop}, from "
            f"{MIN_SEGMENT_FRAMES * hop} to {MAX_FRAMES * hop}"
        )
