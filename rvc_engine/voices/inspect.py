"""Inspection of `.pth` and `.index` files of ours, RVC and Applio: their kind, metadata and faults.

Code in a file is never run. Tensors are memory-mapped and read one by one, so a checkpoint of a gigabyte needs little
memory. The kind of a model follows from the shapes of its weights (`rvc_engine.models.identity`).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.cells import set_cell_size
from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.checkpoints.pair_files import named_moments
from rvc_engine.content.names import encoder_of, programs_note
from rvc_engine.errors import IncompatibleCheckpoint
from rvc_engine.hyperparameters import NUM_NEIGHBOURS, Hyperparameters
from rvc_engine.listing import MAX_NAMED, shorten
from rvc_engine.models.identity import (
    ModelIdentity,
    differences,
    discriminators_layout,
    generator_layout,
    identify,
    shapes_of,
)
from rvc_engine.translation.messages import translated, translated_word
from rvc_engine.voices.voice import speaker_names, start_notes
from rvc_engine.workspace.checksum import sha256_of
from rvc_engine.workspace.index_files import read_index

Contents = Literal[
    "voice",
    "generator checkpoint",
    "discriminators checkpoint",
    "generator weights",
    "discriminators weights",
    "recovery checkpoint",
    "index",
    "unknown",
    "unreadable",
]
"""checkpoint: a G_ or D_ file to resume training from; weights: such a file without optimizer, to start from."""

CONTENTVEC = "contentvec"
NEW_SPELLING = ".parametrizations.weight.original"
FEATURE_SIZES = (256, 768)


class FileReport(BaseModel):
    """Kind, metadata and faults of a file. Fields that its kind does not have are None."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    size: int
    """Bytes."""
    sha256: str
    contents: Contents
    version: str | None = None
    sample_rate: str | None = None
    """32k, 40k or 48k; several where the shapes are ambiguous."""
    f0: bool | None = None
    width: int | None = None
    """Hidden channels; 192 is the published size."""
    epoch: int | None = None
    """Last completed epoch."""
    step: int | None = None
    learning_rate: float | None = None
    """Undecayed, as stored in the file."""
    optimizer: Literal["fits", "does not fit"] | None = None
    """Whether training can resume with Adam's state; None without one."""
    encoder: str | None = None
    """Content encoder of a voice. A voice that names none was made by RVC, with ContentVec."""
    speakers: int | None = None
    """Rows of the speaker embedding."""
    speaker_names: dict[int, str] | None = None
    """Names by id, where the voice has several speakers and names them."""
    name: str | None = None
    author: str | None = None
    created: str | None = None
    info: str | None = None
    dtype: str | None = None
    tensors: int | None = None
    parameters: int | None = None
    index_type: str | None = None
    rows: int | None = None
    dimension: int | None = None
    lists: int | None = None
    nprobe: int | None = None
    search_works: bool | None = None
    faults: list[str] = Field(default_factory=list)
    """Faults, with a remedy where there is one."""
    notes: list[str] = Field(default_factory=list)
    """Remarks that are not faults."""


def inspect_file(path: Path) -> FileReport:
    """Inspect a file. Raises OSError when it cannot be read at all; all other faults are in the report."""
    facts: dict[str, Any] = {"path": str(path), "size": path.stat().st_size, "sha256": sha256_of(path)}
    if path.suffix.lower() == ".index":
        return FileReport(**facts, **_index_facts(path))
    try:
        tree = load_file(path, lazily=True)
    except IncompatibleCheckpoint as error:
        return FileReport(**facts, contents="unreadable", faults=[_unreadable_reason(path, error)])
    return FileReport(**facts, **_tree_facts(path, tree))


def _unreadable_reason(path: Path, error: IncompatibleCheckpoint) -> str:
    """Reason why a file was not read: it contains code, or is damaged."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError):
        unsafe = []
    if unsafe:
        return (
            f"contains code that loading it would run ({', '.join(sorted(unsafe)[:MAX_NAMED])}); nothing was run. Do "
            "not use it anywhere unless you trust its author"
        )
    return str(error)


def _tree_facts(path: Path, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {"contents": "unknown", "faults": [f"contains a {type(tree).__name__} and no models"]}
    if _are_tensors(tree.get("weight")):
        return _voice_facts(path, tree)
    if _are_tensors(tree.get("generator")) and isinstance(tree.get("place"), dict):
        return _recovery_facts(tree)
    if _are_tensors(tree.get("model")):
        return _checkpoint_facts(tree)
    if _are_tensors(tree):
        return _checkpoint_facts({"model": tree})
    keys = ", ".join(str(key) for key in list(tree)[:8])
    return {"contents": "unknown", "faults": [f"contains no RVC model; its top-level keys are: {keys or 'none'}"]}


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _weights_facts(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Statistics of the tensors, and faults of their values and names."""
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()})
    facts = {
        "dtype": ", ".join(dtypes),
        "tensors": len(weights),
        "parameters": sum(value.numel() for value in weights.values()),
    }
    spoiled = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    empty = [name for name, value in weights.items() if value.ndim > 1 and not bool(value.any())]
    faults = []
    if spoiled:
        faults.append(
            f"{_tensor_names(spoiled)} contain NaN or infinite values: it gives noise or silence; use an earlier save"
        )
    if empty:
        faults.append(f"{_tensor_names(empty)} contain only zeros: never trained, or lost")
    if any(NEW_SPELLING in name for name in weights):
        faults.append(
            "its weight norm has the names of newer PyTorch (parametrizations); RVC silently ignores such tensors and "
            "gives garbage. `rvc-engine extract` or `merge` write the published names"
        )
    return facts, faults


def _tensor_names(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shorten(names)})"


def _identity_facts(identity: ModelIdentity) -> dict[str, Any]:
    return {
        "version": identity.version,
        "sample_rate": " or ".join(identity.rates) or None,
        "f0": identity.f0,
        "width": identity.width,
        "speakers": identity.num_speakers or None,
    }


def _voice_facts(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Tensor] = {str(name): value for name, value in tree["weight"].items()}
    weights = published_names(raw)
    identity = identify(shapes_of(weights))
    facts, faults = _weights_facts(raw)
    # RVC's defaults: early v1 files have neither key
    stated_version, stated_f0 = str(tree.get("version", "v1")), bool(tree.get("f0", 1))
    facts |= {**(_identity_facts(identity) if identity else {}), "version": stated_version, "f0": stated_f0}
    facts |= {
        "contents": "voice",
        "sample_rate": _rate_name(_config_rate(tree.get("config"))) or _rate_name(_hz(tree.get("sr"))),
        "epoch": _stated_epoch(tree),
        "step": _whole_number(tree.get("step")),
        "encoder": _text(tree.get("embedder_model")) or CONTENTVEC,
        "speaker_names": speaker_names(tree) or None,
        "name": _text(tree.get("model_name")),
        "author": _text(tree.get("author")),
        "created": _text(tree.get("creation_date")),
        "info": _text(tree.get("info")),
    }
    layout_faults = _voice_layout_faults(tree, weights, stated_version, stated_f0)
    if identity is not None and layout_faults and (identity.version, identity.f0) != (stated_version, stated_f0):
        faults.append(
            f"is labelled {stated_version} {'with' if stated_f0 else 'without'} pitch, but its tensors are {identity}"
        )
    faults += layout_faults + _voice_label_faults(path, tree)
    if facts["dtype"] != "float16":
        faults.append(f"its tensors are {facts['dtype']}; published voices are float16, smaller and no worse")
    notes = [] if facts["encoder"] == CONTENTVEC else [_encoder_note(facts["encoder"])]
    return {**facts, "faults": faults, "notes": [*notes, *start_notes(tree)]}


def _encoder_note(encoder: str) -> str:
    """Programs that convert correctly with a voice of this encoder, which is not ContentVec."""
    try:
        encoder_of(encoder)
    except IncompatibleCheckpoint:
        return f"it needs the content encoder {encoder}, which is not supported: convert with the program that made it"
    return f"its content encoder is {encoder}. {programs_note(encoder)}"


def _voice_layout_faults(tree: dict[str, Any], weights: dict[str, Tensor], version: Any, f0: bool) -> list[str]:
    """Differences of the tensors from the layout described by the file's `config`."""
    config = tree.get("config")
    if version not in {"v1", "v2"}:
        return [f"has the unknown version {version!r}; it must be v1 or v2"]
    if not isinstance(config, list) or len(config) != 18:
        return ["has no `config` of 18 entries, so no program can build its model"]
    try:
        rows = weights["emb_g.weight"].shape[0]
        hparams = Hyperparameters.from_voice_config(config, version, f0, rows)
        return _layout_faults(weights, generator_layout(hparams, with_posterior=False))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        return [f"no model can be built from its `config` ({type(error).__name__}: {error})"]


def _layout_faults(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    faults = differences(shapes_of(weights), expected)
    if not faults:
        return []
    examples = shorten(faults, separator="; ", rest=", and {} more")
    return [f"differs from the published layout in {len(faults)} tensors: {examples}"]


def _voice_label_faults(path: Path, tree: dict[str, Any]) -> list[str]:
    faults = [f"has no `{key}`, which RVC reads" for key in ("info", "sr", "f0", "version") if key not in tree]
    stated, listed = _hz(tree.get("sr")), _config_rate(tree.get("config"))
    if stated and listed and stated != listed:
        faults.append(f"has sr={tree['sr']}, but {listed} Hz in its config: its pitch is wrong in some programs")
    vocoder = tree.get("vocoder", "HiFi-GAN")
    if vocoder != "HiFi-GAN":
        faults.append(f"was made with the vocoder {vocoder}, which only Applio supports")
    if "trained" in path.stem.lower():
        faults.append("its name contains `trained`: RVC lists no index of that name, so the voice has none; rename it")
    if re.match("[GD]_", path.name):
        faults.append("its name begins with G_ or D_: Applio treats it as a checkpoint and does not list it; rename it")
    return faults


def _recovery_facts(tree: dict[str, Any]) -> dict[str, Any]:
    facts, faults = _weights_facts({**tree["generator"], **_tensors(tree.get("discriminators"))})
    identity = identify(shapes_of(tree["generator"]))
    facts |= _identity_facts(identity) if identity else {}
    faults += _model_faults(tree["generator"], identity)
    progress = tree["place"]
    epoch, batch = _whole_number(progress.get("epoch")), _whole_number(progress.get("batch"))
    return {
        **facts,
        "contents": "recovery checkpoint",
        "epoch": None if epoch is None else epoch - 1,
        "step": _whole_number(progress.get("step")),
        "optimizer": "fits",
        "info": f"in epoch {epoch}, after {batch} of its batches",
        "faults": faults,
    }


def _tensors(value: Any) -> dict[str, Tensor]:
    return value if _are_tensors(value) else {}


def _checkpoint_facts(tree: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Tensor] = {str(name): value for name, value in tree["model"].items()}
    weights = published_names(raw)
    identity = identify(shapes_of(weights))
    facts, faults = _weights_facts(raw)
    if identity is None:
        names = ", ".join(list(raw)[:MAX_NAMED])
        return {**facts, "contents": "unknown", "faults": [f"its tensors are not an RVC model: {names}", *faults]}
    optimizer = tree.get("optimizer")
    has_state = isinstance(optimizer, dict) and bool(optimizer.get("state"))
    fits = has_state and named_moments(optimizer, list(weights.items())) is not None
    if has_state and not fits:
        faults.append("its optimizer state does not fit its weights; training resumes from it with a fresh optimizer")
    rate = tree.get("learning_rate")
    return {
        **facts,
        **_identity_facts(identity),
        "contents": f"{identity.role} {'checkpoint' if has_state else 'weights'}",
        "epoch": _whole_number(tree.get("iteration")),
        "learning_rate": float(rate) if isinstance(rate, int | float) else None,
        "optimizer": ("fits" if fits else "does not fit") if has_state else None,
        "faults": faults + _model_faults(weights, identity),
    }


def _model_faults(weights: Mapping[str, Tensor], identity: ModelIdentity | None) -> list[str]:
    """Differences of a model of a training run from the published layout of its kind."""
    if identity is None:
        return ["its tensors are not an RVC model"]
    if identity.role == "discriminators":
        return _layout_faults(weights, discriminators_layout(identity))
    hparams = identity.hparams(identity.rates[0] if identity.rates else None)
    if hparams is None:
        return ["its upsampling is not of a published sample rate: only the program that made it can use it"]
    return _layout_faults(weights, generator_layout(hparams, identity.has_posterior))


def _index_facts(path: Path) -> dict[str, Any]:
    """Kind and size of an index, and whether RVC and Applio can use it."""
    faults = _index_name_faults(path)
    try:
        index = read_index(path)
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition("Error: ")[2]
        return {"contents": "unreadable", "faults": [f"is not a FAISS index, or is damaged ({reason})", *faults]}
    lists = getattr(index, "nlist", None)
    kind = type(faiss.downcast_index(index)).__name__.removeprefix("Index")
    if index.d not in FEATURE_SIZES:
        faults.append(f"has rows of {index.d} features; v1 voices have 256 and v2 voices 768")
    problem = _search_problem(index)
    if problem:
        faults.append(problem)
    return {
        "contents": "index",
        "version": {256: "v1", 768: "v2"}.get(index.d),
        "index_type": f"{kind} ({lists} lists)" if lists else kind,
        "rows": index.ntotal,
        "dimension": index.d,
        "lists": lists,
        "nprobe": getattr(index, "nprobe", None),
        "search_works": problem is None,
        "faults": faults,
    }


def _index_name_faults(path: Path) -> list[str]:
    if "trained" in path.name.lower():
        return ["its name contains `trained`: RVC never lists it and both programs rewrite that word; rename it"]
    if "trained" in str(path.absolute().parent):
        return [
            "the name of a parent folder contains `trained`: RVC and Applio rewrite it and find no file; move the index"
        ]
    return []


def _search_problem(index: Any) -> str | None:
    """Fault of the search; None when a row of the index finds itself."""
    if not index.is_trained or index.ntotal == 0:
        return "has no rows: it is the empty `trained_` index; voices need the `added_` one"
    try:
        row = index.reconstruct_n(index.ntotal // 2, 1)
        distances, _ = index.search(row, NUM_NEIGHBOURS)
    except RuntimeError as error:
        return f"its rows cannot be read back, which RVC and Applio need ({error})"
    if index.metric_type != faiss.METRIC_L2:
        return "uses another metric than squared L2, which conversion needs"
    if not np.isfinite(row).all() or not 0 <= distances[0, 0] < 1e-3 * (float(np.square(row).sum()) + 1):
        return "gives wrong search results: one of its rows does not find itself"
    return None


def _hz(rate: Any) -> int | None:
    """Rate in Hz of `40k`, `40000` or 40000; None for anything else."""
    match = re.fullmatch(r"(\d+)(k|000)", str(rate).lower())
    return int(match[1]) * 1000 if match else None


def _config_rate(config: Any) -> int | None:
    return _hz(config[17]) if isinstance(config, list) and len(config) == 18 else None


def _rate_name(hz: int | None) -> str | None:
    return f"{hz // 1000}k" if hz else None


def _stated_epoch(tree: dict[str, Any]) -> int | None:
    epoch = _whole_number(tree.get("epoch"))
    match = re.match(r"(\d+)epoch", str(tree.get("info")))
    return epoch if epoch is not None else int(match[1]) if match else None


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def describe(report: FileReport) -> Iterable[str]:
    """Report as lines of text, its rows in the user's language."""
    yield f"{report.path}: {_headline(report)}"
    rows: list[tuple[str, Any]] = [
        ("size", f"{report.size:,} bytes"),
        ("sha256", report.sha256),
        ("epoch", report.epoch),
        ("step", report.step),
        ("learning rate", report.learning_rate),
        ("optimizer", report.optimizer),
        ("encoder", report.encoder),
        ("speakers", report.speakers),
        ("named", ", ".join(f"{number} {name}" for number, name in (report.speaker_names or {}).items()) or None),
        ("name", report.name),
        ("author", report.author),
        ("created", report.created),
        ("info", report.info),
        ("tensors", report.tensors and f"{report.tensors}, {report.parameters:,} numbers, {report.dtype}"),
        ("type", report.index_type),
        ("rows", report.rows is not None and f"{report.rows:,} of {report.dimension} features"),
        ("nprobe", report.nprobe),
        ("search", report.search_works is not None and ("works" if report.search_works else "does not work")),
    ]
    for name, value in rows:
        if value is not None and value is not False:
            yield f"  {set_cell_size(translated_word('fact', name), 14)}{translated(str(value))}"
    yield from (f"  note: {note}" for note in report.notes)
    yield from (f"  fault: {fault}" for fault in report.faults)
    if not report.faults:
        yield "  no faults"


def _headline(report: FileReport) -> str:
    words: list[str] = [report.contents]
    if report.version is not None:
        words.append(" ".join(part for part in (report.version, report.sample_rate) if part))
    if report.f0 is not None:
        words.append(f"{'with' if report.f0 else 'without'} pitch")
    if report.width not in {None, 192}:
        words.append(f"width {report.width} (a small model for testing; RVC and Applio load it too)")
    return ", ".join(words)
