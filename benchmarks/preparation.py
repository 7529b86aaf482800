"""Slices, pitch and content features of a folder of recordings: ours, a plain method, and RVC WebUI's own commands.

The plain method is the reference's, with the same estimator and encoder: an FFmpeg process decodes every recording and,
for pitch, every slice again; one process per core; HuBERT in float32, one slice after the other. Its results are
compared with ours. With `--reference` RVC WebUI's three commands run on the same folder, as whole commands against a
whole run of ours; pitch is Praat's (the extra `pm`), HuBERT the one in its assets.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import soxr
import torch
import transformers
from numpy.typing import NDArray

from benchmarks import rvc_webui
from benchmarks.lines import cpu_name, print_line
from rvc_engine.audio import slicing
from rvc_engine.audio.reading import probe
from rvc_engine.audio.recordings import list_recordings
from rvc_engine.audio.selection import PIECE_SECONDS, pieces
from rvc_engine.audio.silence import Levels, loud_spans
from rvc_engine.config import TrainingConfig
from rvc_engine.content import stage as content_stage
from rvc_engine.content.windows import num_content_frames
from rvc_engine.machine import Machine
from rvc_engine.pitch import stage as pitch_stage
from rvc_engine.pitch.curve import coarse_pitch, interpolate_unvoiced
from rvc_engine.pitch.estimators import create_estimator
from rvc_engine.reporting import StageReport
from rvc_engine.workspace.layout import Workspace

SAMPLES = Path(__file__).parents[1] / "samples"
RATE = 40_000

Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--recordings", type=Path, default=SAMPLES, help="a folder; by default the samples")
    parser.add_argument("--hubert", type=Path, help="a HuBERT in transformers' layout; by default random, of base size")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rvc-bench-") as name:
        if options.once is not None:
            print(json.dumps(prepare(options.recordings, options.once, "pm", options.hubert)))
            return
        if shutil.which("ffmpeg") is None:
            print("preparation: left out, because the plain method needs the program ffmpeg", file=sys.stderr)
            return
        against_plain(options.recordings, options.hubert or _made_up_hubert(Path(name) / "hubert"), Path(name))
        if options.reference is not None:
            against_rvc_webui(options, Path(name) / "commands")


def against_plain(recordings: Path, hubert: Path, folder: Path) -> None:
    """Print a line for each stage and one for all, with the difference of the results."""
    ours = prepare(recordings, folder / "ours", "swift", hubert)
    plain = prepare_plainly(recordings, folder / "plain", hubert)
    differences = describe_differences(Workspace(folder / "ours", "v"), Workspace(folder / "plain", "v"))
    for stage in ours:
        print_line(
            f"preparation: {stage}", ours[stage], plain[stage], "s", f"plain method; {differences[stage]}", _device()
        )
    notes = f"{_minutes(folder / 'ours'):.1f} minutes of slices; pitch swift, HuBERT-base; plain method"
    print_line("preparation", sum(ours.values()), sum(plain.values()), "s", notes, _device())


def prepare(recordings: Path, workspace_folder: Path, estimator: str, hubert: Path) -> Seconds:
    """Run our stages in the workspace; returns their seconds."""
    config = TrainingConfig.model_validate({"pitch": estimator, "content": "local", "pretrained": "none"})
    workspace, machine, cpu = (
        Workspace(workspace_folder, "v"),
        Machine("cpu", content_folder=hubert),
        torch.device("cpu"),
    )
    report = partial(StageReport, report=lambda _event: None)
    return _timed(
        slice=lambda: slicing.run(recordings, workspace, config, report("slice")),
        pitch=lambda: pitch_stage.run(workspace, config, machine, report("pitch")),
        content=lambda: content_stage.run(workspace, config, machine, cpu, report("content")),
    )


def prepare_plainly(recordings: Path, workspace_folder: Path, hubert: Path) -> Seconds:
    """Run the plain method on the same recordings; returns the seconds of its stages."""
    workspace = Workspace(workspace_folder, "v")
    for each in (workspace.slices, workspace.slices_16k, workspace.coarse_f0, workspace.f0_hz, workspace.features):
        workspace.empty(each)
    paths = list(enumerate(recording.path for recording in list_recordings(recordings)))
    return _timed(
        slice=lambda: _in_processes(partial(_slice_plainly, workspace), paths),
        pitch=lambda: _in_processes(partial(_estimate_plainly, workspace), sorted(workspace.slices_16k.iterdir())),
        content=lambda: _encode_plainly(workspace, hubert),
    )


def _timed(**works: Callable[[], object]) -> Seconds:
    seconds = {}
    for name, work in works.items():
        start = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - start
    return seconds


def _in_processes(work: Callable[[list[Any]], None], pieces: list[Any]) -> None:
    """Run `work` in a process per core, divided as in the reference; forked, so that starting them costs nothing."""
    cores = min(len(pieces), torch.get_num_threads())
    children = [
        multiprocessing.get_context("fork").Process(target=work, args=(pieces[n::cores],)) for n in range(cores)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def _decoded(path: Path, rate: int) -> NDArray[np.float32]:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path), "-f", "f32le", "-ac", "1", "-ar", str(rate), "-"]
    return np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, np.float32)


def _slice_plainly(workspace: Workspace, recordings: list[tuple[int, Path]]) -> None:
    for number, path in recordings:
        rate = probe(path).sample_rate
        (sound,) = slicing.high_pass([soxr.resample(_decoded(path, rate), rate, RATE)], RATE)
        levels = Levels(RATE)
        levels.add(sound)
        found = (
            slicing.normalize_level(sound[start:end].astype(np.float32))
            for first, last in loud_spans(levels.rms(), levels.num_samples, levels.hop_length)
            for start, end in pieces(first, last, RATE)
        )
        for count, piece in enumerate(each for each in found if each is not None):
            name = f"{number}_{count}.wav"
            scipy.io.wavfile.write(workspace.slices / name, RATE, piece)
            scipy.io.wavfile.write(workspace.slices_16k / name, 16_000, soxr.resample(piece, RATE, 16_000))


def _estimate_plainly(workspace: Workspace, slices: list[Path]) -> None:
    estimator = create_estimator("swift", Machine("cpu", num_threads=1))
    for path in slices:
        (hz,) = estimator.estimate([_decoded(path, 16_000)])
        hz = interpolate_unvoiced(hz)
        np.save(workspace.coarse_f0 / f"{path.name}.npy", coarse_pitch(hz))
        np.save(workspace.f0_hz / f"{path.name}.npy", hz)


@torch.inference_mode()
def _encode_plainly(workspace: Workspace, hubert: Path) -> None:
    model = transformers.HubertModel.from_pretrained(hubert).eval()
    for path in sorted(workspace.slices_16k.iterdir()):
        wave = torch.from_numpy(scipy.io.wavfile.read(path)[1])
        if not num_content_frames(len(wave)):
            continue
        np.save(workspace.features / f"{path.stem}.npy", model(wave[None]).last_hidden_state[0].numpy())


def describe_differences(ours: Workspace, plain: Workspace) -> dict[str, str]:
    """Describe for each stage the difference of our results from the plain method's."""
    names = [sorted(path.name for path in each.slices.iterdir()) for each in (ours, plain)]
    assert names[0] == names[1], "the two methods give different slices"
    sounds = [_largest_difference(ours.slices / name, plain.slices / name) for name in names[0]]
    curves = [_largest_difference(ours.f0_hz / f"{name}.npy", plain.f0_hz / f"{name}.npy") for name in names[0]]
    cosines = [_least_cosine(ours.features / path.name, path) for path in plain.features.iterdir()]
    return {
        "slice": f"{len(sounds)} slices, samples at most {max(sounds):.1e} apart",
        "pitch": f"curves at most {max(curves):.1e} Hz apart",
        "content": f"cosine of each row at least {min(cosines):.6f}",
    }


def _largest_difference(one: Path, other: Path) -> float:
    a, b = (np.load(path) if path.suffix == ".npy" else scipy.io.wavfile.read(path)[1] for path in (one, other))
    return float(np.abs(a - b).max(initial=0))


def _least_cosine(one: Path, other: Path) -> float:
    a, b = np.load(one), np.load(other)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def against_rvc_webui(options: argparse.Namespace, folder: Path) -> None:
    """Print one line: our whole run as a process, and RVC WebUI's three commands."""
    hubert = options.reference / "assets" / "hubert_base"
    if not (hubert / "config.json").is_file() or importlib.util.find_spec("parselmouth") is None:
        needed = "assets/hubert_base in the checkout, and praat-parselmouth for ours (the extra `pm`)"
        print(f"preparation: RVC WebUI's commands left out; the comparison needs {needed}", file=sys.stderr)
        return
    command = [sys.executable, "-m", "benchmarks.preparation", "--recordings", options.recordings, "--hubert", hubert]
    start = time.perf_counter()
    done = subprocess.run([*command, "--once", folder / "ours"], stdout=subprocess.PIPE, check=True)
    ours = time.perf_counter() - start
    reference = rvc_webui.Reference.place(options.reference, options.reference_python, folder / "rvc")
    (reference.folder / "logs" / "v").mkdir()
    cores = torch.get_num_threads()
    recordings = options.recordings.absolute()
    theirs = [
        reference.run("train.preprocess", [recordings, RATE, cores, "logs/v", False, PIECE_SECONDS]),
        reference.run("train.dataset.extract_f0", ["cpu", "logs/v", cores, "pm"]),
        reference.run("train.dataset.extract_hubert_feature", ["cpu", 1, 0, 0, "logs/v", "v2", False]),
    ]
    counts = [len(list((each / "3_feature768").iterdir())) for each in (folder / "ours", reference.folder / "logs/v")]
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in json.loads(done.stdout).items())
    notes = (
        f"{_minutes(folder / 'ours'):.1f} minutes of slices; whole commands; ours: {stages} s; RVC WebUI: "
        f"{', '.join(f'{seconds:.1f}' for seconds in theirs)} s; files of features {counts[0]} and {counts[1]}; Praat, "
        f"HuBERT-base; stand-ins for: {reference.stand_ins()}"
    )
    print_line("preparation commands", ours, sum(theirs), "s", notes, _device())


def _minutes(workspace_folder: Path) -> float:
    slices = Workspace(workspace_folder, "v").slices_16k.glob("*.wav")
    return sum(path.stat().st_size for path in slices) / 4 / 16_000 / 60


def _made_up_hubert(folder: Path) -> Path:
    torch.manual_seed(0)
    transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    return folder


def _device() -> str:
    return f"{cpu_name()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
