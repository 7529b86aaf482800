"""What a `.pth` or `.index` file is and what is wrong with it, in words: ours, RVC's and Applio's.

No code in a file is run, and tensors are looked at one by one where they lie in the file, so a checkpoint of a gigabyte
needs little memory. Which net some weights are is told from their shapes (`rvc_engine.models.identity`).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from rvc_engine.checkpoints.base_weights import published_names
from rvc_engine.checkpoints.io import load_file
from rvc_engine.checkpoints.pairs import named_moments
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
from rvc_engine.voices.voice import speaker_names
from rvc_engine.workspace.checksum import sha256_of

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
"""checkpoint: a G_ or D_ file that training goes on from; weights: such a file without optimizer, to start from."""

CONTENTVEC = "contentvec"
NEW_SPELLING = ".parametrizations.weight.original"
FEATURE_SIZES = (256, 768)


class FileReport(BaseModel):
    """What is known of a file. What a kind of file does not say is None."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    path: str
    size: int
    """Bytes."""
    sha256: str
    contents: Contents
    version: str | None = None
    sample_rate: str | None = None
    """32k, 40k or 48k; several where shapes cannot tell."""
    f0: bool | None = None
    width: int | None = None
    """Hidden channels; 192 is the published size."""
    epoch: int | None = None
    """The last one completed."""
    step: int | None = None
    learning_rate: float | None = None
    """As the file says it: undecayed."""
    optimizer: Literal["fits", "does not fit"] | None = None
    """Whether Adam's state can be gone on from; None where there is none."""
    encoder: str | None = None
    """Content encoder that a voice understands. A voice that names none was made by RVC, with ContentVec."""
    speakers: int | None = None
    """Rows of the speaker embedding."""
    speaker_names: dict[int, str] | None = None
    """By id, where the voice has several and says so."""
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
    """What is wrong, and what to do where something can be done."""
    notes: list[str] = Field(default_factory=list)
    """What is no fault, but good to know."""


def inspect_file(path: Path) -> FileReport:
    """Look at a file. Raises OSError when it cannot be read at all; whatever else is wrong is in the report."""
    facts: dict[str, Any] = {"path": str(path), "size": path.stat().st_size, "sha256": sha256_of(path)}
    if path.suffix.lower() == ".index":
        return FileReport(**facts, **_index_facts(path))
    try:
        tree = load_file(path, lazily=True)
    except IncompatibleCheckpoint as error:
        return FileReport(**facts, contents="unreadable", faults=[_unreadable_reason(path, error)])
    return FileReport(**facts, **_tree_facts(path, tree))


def _unreadable_reason(path: Path, error: IncompatibleCheckpoint) -> str:
    """Why a file was not read: it asks for code to be run, or it is damaged."""
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError):
        asked = []
    if asked:
        return (
            f"holds code that loading it would run ({', '.join(sorted(asked)[:MAX_NAMED])}); nothing was run. Use it "
            "nowhere unless you know who made it and why"
        )
    return str(error)


def _tree_facts(path: Path, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {"contents": "unknown", "faults": [f"holds a {type(tree).__name__} and no nets"]}
    if _are_tensors(tree.get("weight")):
        return _voice_facts(path, tree)
    if _are_tensors(tree.get("generator")) and isinstance(tree.get("place"), dict):
        return _recovery_facts(tree)
    if _are_tensors(tree.get("model")):
        return _checkpoint_facts(tree)
    if _are_tensors(tree):
        return _checkpoint_facts({"model": tree})
    keys = ", ".join(str(key) for key in list(tree)[:8])
    return {"contents": "unknown", "faults": [f"holds no net of RVC's; on its top level are: {keys or 'nothing'}"]}


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _weights_facts(weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """What the tensors say, whatever they are for, and what is wrong with their values and spelling."""
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
            f"{_tensor_names(spoiled)} hold NaN or infinite values: it speaks noise or silence; take an earlier save"
        )
    if empty:
        faults.append(f"{_tensor_names(empty)} hold nothing but zeros: never trained, or lost")
    if any(NEW_SPELLING in name for name in weights):
        faults.append(
            "its weight norm is spelled as newer PyTorch does (parametrizations); RVC ignores such tensors in silence "
            "and speaks garbage. `rvc-engine extract` or `merge` write the published names"
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
    # Early v1 files name neither version nor pitch; RVC takes them so.
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
            f"says that it is {stated_version} with{'' if stated_f0 else 'out'} pitch; its tensors are {identity}"
        )
    faults += layout_faults + _voice_label_faults(path, tree)
    if facts["dtype"] != "float16":
        faults.append(f"its tensors are {facts['dtype']}; published voices are float16, half the size and no worse")
    notes = [] if facts["encoder"] == CONTENTVEC else [_encoder_note(facts["encoder"])]
    return {**facts, "faults": faults, "notes": notes}


def _encoder_note(encoder: str) -> str:
    """Which programs convert correctly with a voice of this encoder, which is not ContentVec."""
    try:
        encoder_of(encoder)
    except IncompatibleCheckpoint:
        return f"it needs the content encoder {encoder}, which is not known here: convert with the program that made it"
    return f"its content encoder is {encoder}. {programs_note(encoder)}"


def _voice_layout_faults(tree: dict[str, Any], weights: dict[str, Tensor], version: Any, f0: bool) -> list[str]:
    """How the tensors differ from what the file's own list of 18 numbers describes."""
    config = tree.get("config")
    if version not in {"v1", "v2"}:
        return [f"names the version {version!r}; known are v1 and v2"]
    if not isinstance(config, list) or len(config) != 18:
        return ["has no `config` of 18 entries, so no loader can build its net"]
    try:
        rows = weights["emb_g.weight"].shape[0]
        hparams = Hyperparameters.from_voice_config(config, version, f0, rows)
        return _layout_faults(weights, generator_layout(hparams, with_posterior=False))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        return [f"its `config` describes no net that can be built ({type(error).__name__}: {error})"]


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
        faults.append(f"says sr={tree['sr']}, and its config says {listed} Hz: it speaks too high or too low somewhere")
    vocoder = tree.get("vocoder", "HiFi-GAN")
    if vocoder != "HiFi-GAN":
        faults.append(f"was made with the vocoder {vocoder}, which only Applio has")
    if "trained" in path.stem.lower():
        faults.append("its name holds `trained`: RVC lists no index of that name, so the voice loses its index; rename")
    if re.match("[GD]_", path.name):
        faults.append("its name begins with G_ or D_: Applio takes it for a checkpoint and does not list it; rename it")
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
        "info": f"in epoch {epoch}, {batch} batches done of it",
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
        return {**facts, "contents": "unknown", "faults": [f"its tensors are no net of RVC's: {names}", *faults]}
    optimizer = tree.get("optimizer")
    has_state = isinstance(optimizer, dict) and bool(optimizer.get("state"))
    fits = has_state and named_moments(optimizer, list(weights.items())) is not None
    if has_state and not fits:
        faults.append("its optimizer state does not fit its weights; training goes on from it with a fresh optimizer")
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
    """How a net of a training run differs from the published layout of its kind."""
    if identity is None:
        return ["its tensors are no net of RVC's"]
    if identity.role == "discriminators":
        return _layout_faults(weights, discriminators_layout(identity))
    hparams = identity.hparams(identity.rates[0] if identity.rates else None)
    if hparams is None:
        return ["its upsampling is of no published sample rate: only the program that made it can use it"]
    return _layout_faults(weights, generator_layout(hparams, identity.has_posterior))


def _index_facts(path: Path) -> dict[str, Any]:
    """What an index holds, and whether it does what RVC and Applio ask of it."""
    faults = _index_name_faults(path)
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2]
        return {"contents": "unreadable", "faults": [f"is no FAISS index, or is damaged ({reason})", *faults]}
    lists = getattr(index, "nlist", None)
    nprobe = getattr(index, "nprobe", None)
    kind = type(faiss.downcast_index(index)).__name__.removeprefix("Index")
    if index.d not in FEATURE_SIZES:
        faults.append(f"holds rows of {index.d} features; v1 voices have 256 and v2 voices 768")
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
        "nprobe": nprobe,
        "search_works": problem is None,
        "faults": faults,
    }


def _index_name_faults(path: Path) -> list[str]:
    if "trained" in path.name.lower():
        return ["its name holds `trained`: RVC never lists it and both programs rewrite that word; rename it"]
    if "trained" in str(path.absolute().parent):
        return ["a folder above it has `trained` in its name: RVC and Applio rewrite that word and miss it; move it"]
    return []


def _search_problem(index: Any) -> str | None:
    """None when a row in it finds itself among its nearest."""
    if not index.is_trained or index.ntotal == 0:
        return "holds no rows: it is the empty `trained_` index and not the `added_` one that voices are used with"
    try:
        row = index.reconstruct_n(index.ntotal // 2, 1)
        distances, _ = index.search(row, NUM_NEIGHBOURS)
    except RuntimeError as error:
        return f"its rows cannot be read back, which RVC and Applio need ({error})"
    if index.metric_type != faiss.METRIC_L2:
        return "measures another distance than the squared L2 that voices are converted with"
    if not np.isfinite(row).all() or not 0 <= distances[0, 0] < 1e-3 * (float(np.square(row).sum()) + 1):
        return "answers a search wrongly: a row of it does not find itself"
    return None


def _hz(rate: Any) -> int | None:
    """`40k`, `40000` or 40000 as 40000."""
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
    """A report as lines for a person."""
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
    yield from (f"  {name:<14}{value}" for name, value in rows if value is not None and value is not False)
    yield from (f"  note: {note}" for note in report.notes)
    yield from (f"  fault: {fault}" for fault in report.faults)
    if not report.faults:
        yield "  no faults"


def _headline(report: FileReport) -> str:
    words: list[str] = [report.contents]
    if report.version is not None:
        words.append(" ".join(part for part in (report.version, report.sample_rate) if part))
    if report.f0 is not None:
        words.append(f"with{'' if report.f0 else 'out'} pitch")
    if report.width not in {None, 192}:
        words.append(f"width {report.width} (a small net for trying out; RVC and Applio load it too)")
    return ", ".join(words)
