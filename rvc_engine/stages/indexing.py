"""The index stage: all content features of a voice in a FAISS index that RVC and Applio search at conversion.

`IVF<n>,Flat` with L2 distances and nprobe 1. Rows go through a file (`total_fea.npy`), so that memory holds the index
and a sample for its training, not everything twice.
"""

import os
from pathlib import Path

import faiss
import numpy as np

from rvc_engine.disk import disk_full_told
from rvc_engine.errors import InvalidDataset
from rvc_engine.reporting import StageReport
from rvc_engine.workspace import Workspace, sync_folder

VERSION = 1

ROWS_PER_LIST = 39
"""FAISS wants at least so many training rows for each list."""
MAX_ROWS = 200_000
"""Above it, rows are first reduced to so few centres, as the reference does:"""
NUM_CENTRES = 10_000
ROWS_PER_ADD = 8192


def num_lists(num_rows: int) -> int:
    """How many inverted lists an index of so many rows has: min(16 sqrt(N), N / 39), at least 1."""
    return max(1, min(int(16 * num_rows**0.5), num_rows // ROWS_PER_LIST))


def added_index_name(stem: str, version: str, lists: int) -> str:
    """The file name by which RVC and Applio pair an index with a voice."""
    return f"added_IVF{lists}_Flat_nprobe_1_{stem}_{version}.index"


def run(workspace: Workspace, seed: int, report: StageReport) -> Path:
    """Build the index from the workspace's features; returns the path of `added_IVF...index`.

    Raises InvalidDataset when there are no features, DiskFull when there is no room.
    """
    files = sorted(workspace.features.glob("*.npy"))
    if not files:
        raise InvalidDataset(f"{workspace.features} holds no features; run the content stage first")
    with disk_full_told(workspace.root):
        rows = _gather(files, workspace.total_features, report)
        report.progress(1, 4)
        if len(rows) > MAX_ROWS:
            report.log(f"reducing {len(rows)} rows to {NUM_CENTRES} centres")
            rows = _centres(rows, seed)
        report.progress(2, 4)
        index = build_index(rows, seed, report)
        return _write(index, workspace)


def _gather(files: list[Path], target: Path, report: StageReport) -> np.ndarray:
    """All rows of all files in `total_fea.npy`, written piece by piece; returns it mapped, float32 (N, size)."""
    shapes = [np.load(file, mmap_mode="r").shape for file in files]
    total, size = sum(shape[0] for shape in shapes), shapes[0][-1]
    odd = [file.name for file, shape in zip(files, shapes, strict=True) if shape != (shape[0], size)]
    if odd:
        raise InvalidDataset(f"{odd[0]} is of another size than {files[0].name}; extract the features of all anew")
    temporary = target.with_name(f".{target.name}.tmp")
    # Not through a memory map: on a full disk, writing into one kills the process.
    with temporary.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": (total, size)}
        np.lib.format.write_array_header_1_0(out, header)
        for done, file in enumerate(files):
            out.write(np.ascontiguousarray(np.load(file), np.dtype("<f4")).tobytes())
            report.progress(done / len(files), 4)
    temporary.replace(target)
    return np.load(target, mmap_mode="r")


def _centres(rows: np.ndarray, seed: int) -> np.ndarray:
    kmeans = faiss.Kmeans(rows.shape[1], NUM_CENTRES, niter=20, seed=seed, max_points_per_centroid=64)
    kmeans.train(rows)
    return np.asarray(kmeans.centroids)


def build_index(rows: np.ndarray, seed: int, report: StageReport) -> faiss.IndexIVFFlat:
    """Train and fill `IVF<n>,Flat` with rows (N, size), float32, C order. Deterministic for a seed."""
    count, size = rows.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(size), size, num_lists(count))
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # a small voice is no reason to warn
    index.nprobe = 1
    index.train(rows)
    report.progress(3, 4)
    for start in range(0, count, ROWS_PER_ADD):
        index.add(np.ascontiguousarray(rows[start : start + ROWS_PER_ADD]))
        report.progress(3 + start / count, 4)
    return index


def _write(index: faiss.IndexIVFFlat, workspace: Workspace) -> Path:
    """Both names of the index: the one that loaders pair by, and the one that a user takes away."""
    added = workspace.root / added_index_name(workspace.stem, workspace.version, index.nlist)
    temporary = added.with_name(f".{added.name}.tmp")
    with temporary.open("wb") as file:
        # Through our own file: faiss tells a full disk as any other fault, or at closing not at all.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(added)
    for old in workspace.root.glob("added_IVF*.index"):
        if old != added:
            old.unlink()
    workspace.weights.mkdir(parents=True, exist_ok=True)
    workspace.index_file.unlink(missing_ok=True)
    try:
        os.link(added, workspace.index_file)
    except OSError:  # a file system without hard links
        workspace.index_file.write_bytes(added.read_bytes())
    sync_folder(workspace.root)
    sync_folder(workspace.weights)
    return added


def link_outside(workspace: Workspace, folder: Path) -> Path:
    """A link `<voice>_<added index>` to the finished index, where RVC's page looks for indexes; an old one is replaced.

    Raises InvalidDataset when the workspace has no index.
    """
    added = next(iter(workspace.root.glob("added_IVF*.index")), None)
    if added is None:
        raise InvalidDataset(f"{workspace.root} holds no index to link; run without --skip-index")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"{workspace.stem}_{added.name}"
    link.unlink(missing_ok=True)
    link.symlink_to(added.absolute())
    return link
