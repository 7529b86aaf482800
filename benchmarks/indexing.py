"""The index stage and the reference's method on the same features: seconds, peak memory, and quality of the index.

The plain method is that of RVC WebUI's `train_index`: all features in memory, shuffled, above 200,000 rows reduced to
10,000 centres by scikit-learn's MiniBatchKMeans, and FAISS's own training of the lists. Each is a command of its own,
timed from start to end; with `--reference` RVC WebUI's own command is measured too. Recall: for held-out rows, the
nearest of all vectors in an index; distance: of the rows that the index was built from.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import rvc_webui
from benchmarks.lines import cpu_name, print_line

MAX_ROWS = 200_000
NUM_CENTRES = 10_000
ROWS_PER_ADD = 8192
SIZE = 768
HELD_OUT_ROWS = 8000
MEASURED_ROWS = 20_000
ROWS_IN_FILE = 185
"""Rows of a file of synthetic features: 3.7 s."""
OURS, PLAIN, THEIRS = "ours", "plain", "RVC WebUI"

Rows = NDArray[np.float32]


@dataclass
class Turns:
    """Measurements of one method, and its last index."""

    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    """Peak memory in bytes; empty for a command that does not report it."""
    index: Path | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--features", type=Path, help="a folder of .npy files of v2 features; by default synthetic")
    parser.add_argument("--rows", type=int, nargs="+", default=[75_000, 301_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", choices=(OURS, PLAIN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        _build(options.way, options.folder)
        return
    if not importlib.util.find_spec("sklearn"):
        print("scikit-learn is not installed: the plain method is left out", file=sys.stderr)
    for num_rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="rvc-bench-") as name:
            _compare(options, num_rows, Path(name))


def _compare(options: argparse.Namespace, num_rows: int, scratch: Path) -> None:
    """Run all methods in turns on `num_rows` rows."""
    held_out, sample = _place_features(options.features, num_rows, scratch / "bench" / "3_feature768")
    ways: dict[str, Callable[[int], tuple[float, float | None, Path]]] = {OURS: lambda _: _own(OURS, scratch / "bench")}
    if importlib.util.find_spec("sklearn"):
        ways[PLAIN] = lambda _: _own(PLAIN, scratch / "bench")
    if options.reference:
        reference = rvc_webui.Reference.place(options.reference, options.reference_python, scratch / "rvc")
        ways[THEIRS] = lambda turn: _theirs(reference, scratch / "bench", turn)
    turns = {way: Turns() for way in ways}
    for turn in range(options.rounds):
        for way, run in ways.items():
            seconds, peak, turns[way].index = run(turn)
            turns[way].seconds.append(seconds)
            turns[way].peaks += [peak] if peak else []
    source = f"features of {options.features.name}" if options.features else "synthetic features"
    notes = f"{num_rows} rows of {SIZE}, {source}, whole commands in turns, median of {options.rounds}"
    _print_all(turns, num_rows, held_out, sample, notes)


def _print_all(turns: Mapping[str, Turns], num_rows: int, held_out: Rows, sample: Rows, notes: str) -> None:
    quality = {way: _quality(done.index, held_out, sample) for way, done in turns.items() if done.index}
    ours, bytes_of_rows, good = turns[OURS], num_rows * SIZE * 4, quality[OURS]
    for way in (PLAIN, THEIRS):
        if way not in turns:
            continue
        theirs, against = turns[way], f"against {way}; {notes}"
        print_line("index", statistics.median(ours.seconds), statistics.median(theirs.seconds), "s", against, _device())
        if theirs.peaks:
            our_peak, their_peak = (done.peaks[-1] / bytes_of_rows for done in (ours, theirs))
            peak_notes = f"with Python and libraries; {against}"
            print_line("index, peak memory", our_peak, their_peak, "times the features' size", peak_notes)
        recall = f"nprobe 1, held-out rows, nearest of the index's own vectors; {against}"
        print_line("index, recall@1", good.recall, quality[way].recall, "share", recall)
        print_line("index, vectors compared in a search", good.compared, quality[way].compared, "vectors", against)
        if num_rows > MAX_ROWS:
            print_line(
                "index, distance to the nearest vector",
                good.distance,
                quality[way].distance,
                "L2 norm",
                against,
            )
    if len(turns) == 1:
        print(f"ours alone: {statistics.median(ours.seconds):.1f} s, recall@1 {good.recall:.4f}", file=sys.stderr)


def _place_features(folder: Path | None, num_rows: int, target: Path) -> tuple[Rows, Rows]:
    """Write `num_rows` rows in files into the target; returns held-out rows, and a sample of those written."""
    target.mkdir(parents=True)
    random = np.random.default_rng(0)
    clips = _made_up() if folder is None else _shuffled(folder, random)
    sample, missing = [], num_rows
    while missing:
        clip = next(clips, None)
        if clip is None:
            sys.exit(f"{folder} has {num_rows - missing} rows, fewer than the {num_rows} of --rows")
        clip = clip[:missing]
        np.save(target / f"{num_rows - missing:07d}_0.npy", clip)
        missing -= len(clip)
        sample.append(clip[random.random(len(clip)) < MEASURED_ROWS / num_rows])
    held_out: list[Rows] = []
    while sum(map(len, held_out)) < HELD_OUT_ROWS and (clip := next(clips, None)) is not None:
        held_out.append(clip)
    if not held_out:
        sys.exit(f"{folder} has only the {num_rows} rows of --rows; more are needed as held-out rows to search for")
    return np.concatenate(held_out)[:HELD_OUT_ROWS], np.concatenate(sample)


def _shuffled(folder: Path, random: np.random.Generator) -> Iterator[Rows]:
    files = sorted(folder.rglob("*.npy"))
    for place in random.permutation(len(files)):
        yield np.load(files[place]).astype(np.float32)


def _made_up() -> Iterator[Rows]:
    """Clips that glide with noise between 2,000 random sounds, which span 48 of 768 dimensions."""
    random = np.random.default_rng(1)
    sounds = random.standard_normal((2000, 48)) @ random.standard_normal((48, SIZE)) / 7
    while True:
        stops = sounds[random.integers(len(sounds), size=ROWS_IN_FILE // 8 + 2)]
        at = np.arange(ROWS_IN_FILE) / 8
        share = (at % 1)[:, None]
        path = stops[at.astype(int)] * (1 - share) + stops[at.astype(int) + 1] * share
        yield (path + 0.25 * random.standard_normal(path.shape)).astype(np.float32)


def _own(way: str, folder: Path) -> tuple[float, float, Path]:
    """Seconds, peak memory in bytes and index of one of this file's methods, run as a process."""
    command = [sys.executable, "-m", "benchmarks.indexing", "--way", way, "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    result = json.loads(done.stdout.splitlines()[-1])
    return seconds, result["peak"], Path(result["index"])


def _theirs(reference: rvc_webui.Reference, folder: Path, turn: int) -> tuple[float, None, Path]:
    """Seconds and index of RVC WebUI's command; with a new voice each time, as it keeps an existing index."""
    root = reference.folder / "logs" / f"turn{turn}"
    root.mkdir()
    (root / "3_feature768").symlink_to(folder / "3_feature768")
    arguments = [root.name, "v2", reference.folder / "outside", len(os.sched_getaffinity(0))]
    seconds = reference.run("train.train_index", arguments)
    return seconds, None, next(root.glob("added_*.index"))


def _build(way: str, folder: Path) -> None:
    """Build the index in this process, and print its path and the peak memory as JSON."""
    index = _ours(folder) if way == OURS else _plain(folder)
    print(json.dumps({"peak": _peak_bytes(), "index": str(index)}))


def _ours(folder: Path) -> Path:
    from rvc_engine.config import TrainingConfig
    from rvc_engine.index import build
    from rvc_engine.reporting import StageReport
    from rvc_engine.workspace.layout import Workspace

    return build.run(Workspace(folder, "bench"), TrainingConfig(), StageReport("index", lambda _: None))


def _plain(folder: Path) -> Path:
    import faiss

    cluster = importlib.import_module("sklearn.cluster")

    rows = np.concatenate([np.load(path) for path in sorted((folder / "3_feature768").glob("*.npy"))])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    if len(rows) > MAX_ROWS:
        batch = 256 * len(os.sched_getaffinity(0))
        means = cluster.MiniBatchKMeans(
            NUM_CENTRES, batch_size=batch, compute_labels=False, init="random", random_state=0
        )
        rows = means.fit(rows).cluster_centers_
    lists = max(1, min(int(16 * np.sqrt(len(rows))), len(rows) // 39))
    index = faiss.index_factory(rows.shape[1], f"IVF{lists},Flat")
    index.train(rows)
    for start in range(0, len(rows), ROWS_PER_ADD):
        index.add(rows[start : start + ROWS_PER_ADD])
    target = folder / "plain.index"
    faiss.write_index(index, str(target))
    return target


def _peak_bytes() -> int:
    """Peak memory of this process, pages of mapped files included."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Quality:
    """Quality of an index."""

    recall: float
    """Share of held-out rows whose nearest vector in the index is found with nprobe 1."""
    compared: float
    """Vectors compared in such a search; more increase recall and time."""
    distance: float
    """Mean distance of the rows that it was built from to their nearest vector; 0 where the index contains the rows."""


def _quality(path: Path, held_out: Rows, sample: Rows) -> Quality:
    import faiss

    index: Any = faiss.read_index(str(path))
    index.nprobe = 1
    index.make_direct_map()
    vectors = index.reconstruct_n(0, index.ntotal)
    truth = faiss.knn(held_out, vectors, 1)[1]
    lengths = np.array([index.invlists.list_size(number) for number in range(index.nlist)])
    compared = float(lengths[index.quantizer.search(held_out, 1)[1]].mean())
    recall = float((index.search(held_out, 1)[1] == truth).mean())
    if len(vectors) > NUM_CENTRES:  # the index contains the sample
        return Quality(recall, compared, 0.0)
    squares = faiss.knn(sample, vectors, 1)[0]
    return Quality(recall, compared, float(np.sqrt(np.maximum(squares, 0)).mean()))


def _device() -> str:
    return f"{cpu_name()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
