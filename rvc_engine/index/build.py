"""Stage `index`: build a FAISS index of all content features of a voice, which RVC and Applio search at conversion.

`IVF<n>,Flat` with L2 distances and nprobe 1. Rows are read from one file (`total_fea.npy`, ordered by speaker), so that
memory holds one index at a time and no second copy of the rows. The stage can be stopped between two batches of rows.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

import faiss
import numpy as np
import torch

from rvc_engine.compute.out_of_memory import is_out_of_memory
from rvc_engine.config import TrainingConfig
from rvc_engine.data.speakers import Speakers, index_stems
from rvc_engine.environment.files import replace, sync_folder, unlink
from rvc_engine.errors import InvalidDataset
from rvc_engine.index.device_kmeans import DeviceNearest
from rvc_engine.index.kmeans import ProgressCallback, minibatch_kmeans, progress_part, release_pages, two_level_kmeans
from rvc_engine.index.nearest import Nearest
from rvc_engine.index.own_indexes import OwnIndexes
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.atomic_files import keep_aside, link_ascii_twin, link_or_copy
from rvc_engine.workspace.disk import translating_disk_full
from rvc_engine.workspace.external import speaker_in
from rvc_engine.workspace.layout import Workspace
from rvc_engine.workspace.rvc_files.filelist import users_filelist

CPU = torch.device("cpu")
ROWS_PER_LIST = 39
"""FAISS recommends at least this many training rows for each list."""
MAX_ROWS = 200_000
"""More rows than this are first reduced to NUM_CENTRES centres, as in the reference."""
NUM_CENTRES = 10_000
REDUCING_PASSES = 4
"""Passes over all rows on a GPU, which compares each with all centres."""
ROWS_PER_ADD = 8192
MAX_SQUARE = 1e12
"""Largest squared norm of a row. Those of encoders are below 1e6."""
MIN_PASSES, MAX_PASSES = 2, 8
PASSING_ROWS = 160_000
"""Rows that train the lists' centres, over all passes: enough for the recall of FAISS's own training, whose lists are
more even in length, so that its search compares fewer rows."""


def num_lists(num_rows: int) -> int:
    """Number of inverted lists of an index of N rows: min(16 sqrt(N), N / 39), at least 1."""
    return max(1, min(int(16 * num_rows**0.5), num_rows // ROWS_PER_LIST))


def num_passes(num_rows: int) -> int:
    """Number of passes over all rows that train the centres of the lists."""
    return max(MIN_PASSES, min(MAX_PASSES, PASSING_ROWS // num_rows))


def added_index_name(stem: str, version: str, lists: int) -> str:
    """The file name by which RVC and Applio pair an index with a voice."""
    return f"added_IVF{lists}_Flat_nprobe_1_{stem}_{version}.index"


def run(workspace: Workspace, config: TrainingConfig, report: StageReport, device: torch.device = CPU) -> Path:
    """Build the index from the workspace's features; return the path of `added_IVF...index`.

    `device`: a GPU computes the centres, and which of them is nearest to each row. With several speakers, each also
    gets an index of its own. Raises InvalidDataset when there are no features, and DiskFull.
    """
    parts, unlisted = _parts(workspace, config)
    with translating_disk_full(workspace.root):
        files = [*(part.files for part in parts), unlisted]
        rows, ends = _concatenate_features(files, workspace.total_features, report)
        stems = index_stems(workspace.stem, {part.speaker: part.name for part in parts})
        ranges = dict(zip((stems[part.speaker] for part in parts), pairwise([0, *ends[:-1]]), strict=True))
        # The common index is written last: RVC pairs the newest of several matching indexes with the voice.
        ranges = {**(ranges if len(parts) > 1 else {}), workspace.stem: (0, len(rows))}
        written, share, own = {}, 0.8 / len(ranges), OwnIndexes(workspace.root)
        for number, (stem, (start, end)) in enumerate(ranges.items()):
            if start == end:
                report.warn(f"no row of features is left for the index {stem}.index, so it is not written")
                continue
            part_start = 0.2 + share * number
            progress = progress_part(lambda done: report.progress(done, 1), part_start, part_start + share)
            index = _build(rows[start:end], config.seed, progress, report, device)
            written[stem] = _write(index, workspace, stem, own, report)
        _remove_stale_indexes(workspace, written, own)
        report.progress(1, 1)
        return written[workspace.stem]


@dataclass(frozen=True)
class _Part:
    """The features of one speaker."""

    speaker: int
    name: str
    files: list[Path]


def _parts(workspace: Workspace, config: TrainingConfig) -> tuple[list[_Part], list[Path]]:
    """The workspace's features by speaker, in the order of the ids and file names, and those of no speaker.

    As in RVC all features of the folder count, those too that a user's file list leaves out; where the list names
    several speakers, these are of none. A folder without features has those that the list names elsewhere.
    """
    listed = users_filelist(workspace, config.f0)
    elsewhere = set() if listed is None else {clip.features for clip in listed.clips}
    files = sorted(workspace.features.glob("*.npy")) or sorted(elsewhere)
    if not files:
        raise InvalidDataset(f"{workspace.features} holds no features; run the content stage first")
    speakers = Speakers.from_workspace(workspace, config)
    found = {file: speaker_in(file.stem) for file in files}
    unlisted: list[Path] = []
    if listed is not None and len({clip.speaker for clip in listed.clips}) > 1:
        numbers = {clip.features.resolve(): clip.speaker for clip in reversed(listed.clips)}
        found = {file: numbers[file.resolve()] for file in files if file.resolve() in numbers}
        unlisted = [file for file in files if file not in found]
    elif listed is not None and listed.clips:
        found = dict.fromkeys(files, listed.clips[0].speaker)
    by_speaker: dict[int, list[Path]] = {}
    for file, number in found.items():
        by_speaker.setdefault(speakers.speaker_of_slice(file.stem, number), []).append(file)
    names = speakers.names_by_id(by_speaker)
    return [_Part(number, name, by_speaker[number]) for number, name in names.items()], unlisted


def _build(
    rows: np.ndarray, seed: int, progress: ProgressCallback, report: StageReport, device: torch.device
) -> faiss.IndexIVFFlat:
    """Build the index of rows on the device; on the CPU where its memory does not suffice."""
    if device.type != "cpu":
        try:
            return _build_on(device, rows, seed, progress, report)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            report.log(f"the memory of {device} does not suffice for the index, so it is built on the CPU")
    return _build_on(None, rows, seed, progress, report)


def _build_on(
    device: torch.device | None, rows: np.ndarray, seed: int, progress: ProgressCallback, report: StageReport
) -> faiss.IndexIVFFlat:
    """Build the index of rows, which are first reduced to centres if a search among them would be slow."""
    if len(rows) <= MAX_ROWS:
        return build_index(rows, seed, progress, device)
    report.log(f"reducing {len(rows)} rows to {NUM_CENTRES} centres")
    reducing = progress_part(progress, 0, 0.9)
    if device is None:
        centres = two_level_kmeans(rows, NUM_CENTRES, seed, reducing)
    else:
        centres = minibatch_kmeans(rows, NUM_CENTRES, REDUCING_PASSES, seed, reducing, device)
    return build_index(centres, seed, progress_part(progress, 0.9, 1), device)


def _concatenate_features(parts: list[list[Path]], target: Path, report: StageReport) -> tuple[np.ndarray, list[int]]:
    """Write all rows of all files to `total_fea.npy`, file by file.

    Returns it as a memory map, float32 (N, size), and the end of each part's rows in it. Rows with NaN, infinite or
    huge values, which other programs may leave, are left out.
    """
    files = [file for part in parts for file in part]
    shapes = [np.load(file, mmap_mode="r").shape for file in files]
    total, size = sum(shape[0] for shape in shapes), shapes[0][-1]
    odd = [file.name for file, shape in zip(files, shapes, strict=True) if shape != (shape[0], size)]
    if odd:
        raise InvalidDataset(
            f"the features {odd[0]} and {files[0].name} differ in size; extract the features of all slices again"
        )
    temporary = target.with_name(f".{target.name}.tmp")
    counts = []
    # Not through a memory map: on a full disk, writing to one kills the process.
    with temporary.open("wb") as out:
        _write_header(out, total, size)
        for done, file in enumerate(files):
            rows = np.load(file).astype("<f4", order="C", copy=False)
            with np.errstate(over="ignore", invalid="ignore"):
                rows = rows[np.einsum("rc,rc->r", rows, rows) < MAX_SQUARE]  # False for NaN
            counts.append(len(rows))
            out.write(rows.tobytes())
            report.progress(0.2 * done / len(files), 1)
        out.seek(0)
        _write_header(out, sum(counts), size)
    if not sum(counts):
        raise InvalidDataset("the features hold no row of usable numbers; extract the features of all slices again")
    if sum(counts) < total:
        report.warn(
            f"{total - sum(counts)} of {total} rows of features are left out of the index: their values are NaN, "
            "infinite or far too large"
        )
    replace(temporary, target)
    file_counts = iter(counts)
    lengths = [sum(next(file_counts) for _ in part) for part in parts]
    return np.load(target, mmap_mode="r"), list(accumulate(lengths))


def _write_header(out: BinaryIO, count: int, size: int) -> None:
    """Write the `.npy` header, which has the same length for any count: NumPy pads it."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
    np.lib.format.write_array_header_1_0(out, header)


def build_index(
    rows: np.ndarray, seed: int, progress: ProgressCallback, device: torch.device | None = None
) -> faiss.IndexIVFFlat:
    """Train and fill `IVF<n>,Flat` with rows (N, size), float32, C order; trained on a device if one is given.

    Deterministic for a seed on machines of one kind. Each row is in the list of its nearest centre, which FAISS probes
    first.
    """
    count, size = rows.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(size), size, num_lists(count))
    index.nprobe = 1
    centres = minibatch_kmeans(rows, index.nlist, num_passes(count), seed, progress_part(progress, 0, 0.8), device)
    index.quantizer.add(centres)
    index.is_trained = True
    near = Nearest(centres, dtype=torch.float32) if device is None else DeviceNearest(centres, device)
    lists = np.empty(count, np.int64)
    for start in range(0, count, ROWS_PER_ADD):
        progress(0.8 + 0.1 * start / count)
        lists[start : start + ROWS_PER_ADD] = near(np.array(rows[start : start + ROWS_PER_ADD]))
    release_pages(rows)
    _fill(index, rows, lists, progress_part(progress, 0.9, 1))
    return index


def _fill(index: faiss.IndexIVFFlat, rows: np.ndarray, lists: np.ndarray, progress: ProgressCallback) -> None:
    """Copy each row to its list. FAISS's own `add` grows the lists, to up to twice the memory that they need."""
    inverted = index.invlists
    assert inverted is not None
    for number, length in enumerate(np.bincount(lists, minlength=index.nlist).tolist()):
        inverted.resize(number, length)
    filled = np.zeros(index.nlist, np.int64)
    for start in range(0, len(rows), ROWS_PER_ADD):
        progress(start / len(rows))
        block = lists[start : start + ROWS_PER_ADD]
        order = np.argsort(block, kind="stable")
        ids, codes = order + start, np.ascontiguousarray(rows[start + order])
        numbers, firsts, lengths = np.unique(block[order], return_index=True, return_counts=True)
        for number, first, length in zip(numbers.tolist(), firsts.tolist(), lengths.tolist(), strict=True):
            at = slice(first, first + length)
            inverted.update_entries(
                number, int(filled[number]), length, faiss.swig_ptr(ids[at]), faiss.swig_ptr(codes[at].view(np.uint8))
            )
        filled[numbers] += lengths
        release_pages(rows)
    index.ntotal = len(rows)


def _write(index: faiss.IndexIVFFlat, workspace: Workspace, stem: str, own: OwnIndexes, report: StageReport) -> Path:
    """Write an index under the name that RVC and Applio pair it by, and under its export name; return the first.

    Files of these names that the run did not write are kept under another name.
    """
    added = workspace.root / added_index_name(stem, workspace.version, index.nlist)
    temporary = added.with_name(f".{added.name}.tmp")
    with temporary.open("wb") as file:
        # Through our own file: FAISS reports a full disk without its errno, and not at all when closing.
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
        file.flush()
        os.fsync(file.fileno())
    exported = workspace.weights / f"{stem}.index"
    for path in (added, exported):
        if path.exists() and not own.contain(path):
            report.warn(f"{path} is not of this run; it is kept as {keep_aside(path).name}")
    own.add(temporary, [added, exported])
    replace(temporary, added)
    workspace.weights.mkdir(parents=True, exist_ok=True)
    link_or_copy(added, temporary)
    replace(temporary, exported)
    link_ascii_twin(exported)
    sync_folder(workspace.root)
    sync_folder(workspace.weights)
    return added


def _remove_stale_indexes(workspace: Workspace, written: Mapping[str, Path], own: OwnIndexes) -> None:
    """Delete own indexes of earlier builds of this version, of other speakers or with another number of lists."""
    kept = {*written.values(), *(workspace.weights / f"{stem}.index" for stem in written)}
    for old in (*workspace.root.glob(f"added_IVF*_{workspace.version}.index"), *workspace.speaker_index_files()):
        if old not in kept and own.contain(old):
            unlink(old)


NOT_PRIVILEGED = 1314
"""Windows' error code: without its developer mode only administrators may make symbolic links."""


def link_outside(workspace: Workspace, folder: Path) -> Path:
    """Link the index as `<voice>_<added index>` to the folder in which RVC's page looks for indexes; return the link.

    An old link is replaced, and a file in its place is renamed. Raises InvalidDataset when the workspace has no index.
    """
    ending = f"_nprobe_1_{workspace.stem}_{workspace.version}.index"  # of the common index, not of a speaker's
    found = [path for path in workspace.root.glob("added_IVF*.index") if path.name.endswith(ending)]
    if not found:
        raise InvalidDataset(f"{workspace.root} holds no index to link; run without --skip-index")
    added = max(found, key=lambda path: path.stat().st_mtime)
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"{workspace.stem}_{added.name}"
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        keep_aside(link)
    try:
        link.symlink_to(added.absolute())
    except OSError as error:
        if getattr(error, "winerror", None) != NOT_PRIVILEGED:
            raise
        link_or_copy(added, link)
    return link
