"""`.pth` files: written atomically with their sha256, read without running code."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.environment.files import replace, sync_folder
from rvc_engine.errors import DiskFull, IncompatibleCheckpoint
from rvc_engine.workspace.disk import check_free_space, is_disk_full

RESUME_HINT = "free some space and start the run again; it goes on from its last checkpoint"


class _HashingFile:
    """Binary file that hashes the data written to it, in one pass: PyTorch's zip writer never seeks back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, hashlib.sha256()
        self.error: OSError | None = None
        """Error of a failed write: the RuntimeError that PyTorch's zip writer raises for it has lost the reason."""

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_atomically(tree: Any, path: Path) -> str:
    """Save with `torch.save` to a temporary name, fsync, rename; returns the sha256. Raises DiskFull."""
    return save_together({path: tree})[0]


def save_together(trees: dict[Path, Any], claim: Callable[[list[str]], None] = lambda _: None) -> list[str]:
    """Write related files of one folder: all are complete on disk before the first gets its name.

    Returns their sha256, which are passed to `claim` before the files get their names. Raises DiskFull, before writing
    anything where the shortage is foreseeable; files of the same names are kept then.
    """
    folder, names = next(iter(trees)).parent, " and ".join(path.name for path in trees)
    folder.mkdir(parents=True, exist_ok=True)
    check_free_space(folder, tensor_bytes(trees), names, RESUME_HINT)
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in trees}
    try:
        hashes = [_write(tree, temporaries[path]) for path, tree in trees.items()]
        claim(hashes)
        for path, temporary in temporaries.items():
            replace(temporary, path)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"the disk of {folder} has no room for {names}; {RESUME_HINT}") from error
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return hashes


def _write(tree: Any, path: Path) -> str:
    """Write and fsync a file; returns its sha256. Raises OSError."""
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(tree, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise hashing.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return hashing.hash.hexdigest()


def tensor_bytes(tree: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(map(tensor_bytes, parts))


def load_file(path: Path, device: torch.device | str = "cpu", lazily: bool = False) -> Any:
    """Read a `.pth` file as plain data, never running code in it.

    `lazily` memory-maps the tensors, to be read where they are used; files of early PyTorch are read whole, and all on
    Windows, where a mapped file cannot be replaced. Raises
    IncompatibleCheckpoint when the file is damaged or contains code, and RuntimeError when memory runs out.
    """
    try:
        is_mapped = lazily and os.name != "nt" and zipfile.is_zipfile(path)
        tree = torch.load(path, map_location=device, weights_only=True, mmap=is_mapped)
    except Exception as error:  # foreign bytes make an unpickler fail in any way, e.g. with IndexError
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        raise IncompatibleCheckpoint(
            f"{path} is not a file of tensors and plain values ({type(error).__name__}); it is damaged, incomplete, "
            "or contains code, which is never run. Get a new copy of it"
        ) from error
    if not _holds_plain_tensors(tree):
        raise IncompatibleCheckpoint(f"{path} contains sparse, quantised or meta tensors; no checkpoint of RVC's does")
    return tree


def _holds_plain_tensors(tree: Any, depth: int = 6) -> bool:
    """Whether all tensors in nested dicts and lists are dense and have values. `depth`: a tree may contain itself."""
    if isinstance(tree, Tensor):
        return tree.layout == torch.strided and not tree.is_meta and not tree.is_quantized
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return depth == 0 or all(_holds_plain_tensors(part, depth - 1) for part in parts)
