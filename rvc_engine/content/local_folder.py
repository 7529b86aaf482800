"""The folder of a HuBERT of someone's own, for content=local: which machine has it, and which encoder it is. No torch.

It is laid out as `transformers` does: `config.json`, and `pytorch_model.bin` or `model.safetensors`. Where it lies is
the machine's business: no path comes from a config, which may be a stranger's.
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

_HOW = (
    "name a folder with config.json and pytorch_model.bin or model.safetensors: --content-folder, for a worker "
    "RVC_TRAIN_CONTENT_FOLDER; or choose another encoder"
)


def local_folder(machine: Machine) -> Path:
    """The folder. Raises MissingWeights when the machine has none, or files are missing in it."""
    if problem := local_folder_problem(machine):
        raise MissingWeights(problem)
    assert machine.content_folder is not None
    return machine.content_folder


def local_folder_problem(machine: Machine) -> str | None:
    """What keeps content=local from being used on this machine, in a sentence without its dot."""
    folder = machine.content_folder
    if folder is None:
        return f"content=local takes a HuBERT of your own, and this machine names no folder of one; {_HOW}"
    if not (folder / "config.json").is_file() or weights_file(folder) is None:
        return f"the folder {folder} for content=local lacks config.json or the weights; {_HOW}"
    return None


def weights_file(folder: Path) -> Path | None:
    """The file of the weights; None when there is none."""
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def check_fits(folder: Path, version: Version) -> None:
    """Raise IncompatibleCheckpoint, before any work, when the rows of the net there are not of that version's width."""
    try:
        sizes = json.loads((folder / "config.json").read_text())
        hidden, projected = sizes.get("hidden_size", 768), sizes.get("classifier_proj_size", 256)
    except (OSError, ValueError, AttributeError) as error:
        raise IncompatibleCheckpoint(f"{folder / 'config.json'} does not describe a HuBERT net: {error}") from error
    found, wanted = (projected, 256) if version == "v1" else (hidden, 768)
    if found != wanted:
        raise IncompatibleCheckpoint(
            f"the HuBERT in {folder} gives {found} features a row, and a {version} voice takes {wanted}; use one of "
            "HuBERT base's size"
        )


def embedder_of_folder(folder: Path) -> str:
    """What a voice trained with it carries as `embedder_model`."""
    path = weights_file(folder)
    assert path is not None
    found = path.stat()
    return embedder_name("local", _sha256(path, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    """Taken once for each state of the file: it has hundreds of megabytes, and a run asks several times."""
    return sha256_of(path)
