"""Folder of the user's own HuBERT, for content=local, and the identity of the encoder in it. No torch.

It has the layout of `transformers`: `config.json`, and `pytorch_model.bin` or `model.safetensors`. Its path is a
setting of the machine and never comes from a config, which other users write.
"""

import functools
import json
from pathlib import Path

from rvc_engine.config import Version
from rvc_engine.content.names import embedder_name
from rvc_engine.errors import IncompatibleCheckpoint, MissingWeights
from rvc_engine.machine import Machine
from rvc_engine.workspace.checksum import sha256_of

WEIGHTS_FILES = ("pytorch_model.bin", "model.safetensors")

_ADVICE = (
    "set --content-folder, or RVC_TRAIN_CONTENT_FOLDER for a worker, to a folder with config.json and "
    "pytorch_model.bin or model.safetensors; or choose another encoder"
)


def local_folder(machine: Machine) -> Path:
    """Folder of this machine. Raises MissingWeights when there is none, or files are missing in it."""
    if problem := local_folder_problem(machine):
        raise MissingWeights(problem)
    assert machine.content_folder is not None
    return machine.content_folder


def local_folder_problem(machine: Machine) -> str | None:
    """Why content=local cannot be used on this machine, as a sentence without a full stop; None when it can."""
    folder = machine.content_folder
    if folder is None:
        return f"content=local uses your own HuBERT, but no folder is set on this machine; {_ADVICE}"
    if not (folder / "config.json").is_file() or weights_file(folder) is None:
        return f"the folder {folder} for content=local has no config.json or no weights; {_ADVICE}"
    return None


def weights_file(folder: Path) -> Path | None:
    """File of the weights in a folder; None when there is none."""
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def check_fits(folder: Path, version: Version) -> None:
    """Raise IncompatibleCheckpoint, before any work, when the model's features do not have the version's width."""
    try:
        sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        hidden, projected = sizes.get("hidden_size", 768), sizes.get("classifier_proj_size", 256)
    except (OSError, ValueError, AttributeError) as error:
        raise IncompatibleCheckpoint(f"{folder / 'config.json'} does not describe a HuBERT: {error}") from error
    found, expected = (projected, 256) if version == "v1" else (hidden, 768)
    if found != expected:
        raise IncompatibleCheckpoint(
            f"the HuBERT in {folder} has {found} features per frame, but a {version} voice needs {expected}; use a "
            "model of the size of HuBERT base"
        )


def embedder_of_folder(folder: Path) -> str:
    """Value of `embedder_model` in a voice file that was trained with the encoder in a folder."""
    path = weights_file(folder)
    assert path is not None
    found = path.stat()
    return embedder_name("local", _sha256(path, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Checksum of a file, computed once for each size and time: it has hundreds of megabytes and is needed often."""
    return sha256_of(path)
