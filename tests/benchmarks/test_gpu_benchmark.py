"""The benchmarks of a GPU run on a CPU with small models, and exit with a message when there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.plan import PARTS

ROOT = Path(__file__).parents[2]


def bench(*options: str, module: str = "gpu", path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a benchmark; `path`: a folder of modules that are found before others."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    env |= {} if path is None else {"PYTHONPATH": str(path)}
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500, check=False)


@pytest.mark.long
def test_each_part_gives_its_results_on_a_cpu_in_small(tmp_path: Path) -> None:
    """Shares are wide: they are for the speed of a GPU."""
    kept = tmp_path / "gpu.jsonl"
    done = bench("--tiny", "--device", "cpu", "--seconds", "1400", "--output", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == kept.read_text()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(dict.fromkeys(line["part"] for line in lines)) == ["device", *(part.name for part in PARTS)]
    found = {line["name"]: line for line in lines if "value" in line}
    assert {f"loss/{name}" for name in ("disc", "gen", "fm", "mel", "kl")} < found.keys()
    # The same weights and batches, in float32 and in what the CPU chooses.
    assert 0.98 < found["loss/disc"]["ratio"] < 1.02
    assert 0.9 < found["loss/mel"]["ratio"] < 1.1
    assert found["gradient of G in bf16, step 0"]["value"] > 0.99
    assert found["out of memory: clips at a time with which it went on"]["value"] == 1
    assert found["failed capture: reported as such"]["value"] == 1
    assert found["failed capture: steps in the next process, without graphs"]["value"] == 1
    assert [name for name in found if name.startswith("voices")] == [
        "voices per GPU-hour, 1 at once",
        "voices per GPU-hour, 2 at once",
    ]
    assert {line["name"] for line in lines if "left_out" in line} == {
        "step by graphs, batch 2",
        "step with compile=true",
    }


LACKING = """
import sys

class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pydantic", "psutil", "soundfile", "typer", "faiss", "av", "pyworld", "pynvml"}:
            if not any("stand_ins" in each for each in sys.path) or name != "pydantic":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, _Absent())
"""


def test_a_python_with_torch_and_little_else_runs_it_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    kept = tmp_path / "gpu.jsonl"
    options = ("--tiny", "--device", "cpu", "--seconds", "400", "--only", "index", "--only", "content")
    done = bench(*options, "--output", str(kept), path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"pydantic", "psutil", "faiss", "av", "pyworld"} <= set(lines[0]["missing_packages"])
    found = {line["name"]: line.get("left_out") for line in lines[1:]}
    assert found["content: HuBERT base"] is found["index: nearest centres"] is None
    assert found["content: decoding"] == "needs the package av"
    assert found["index: search in FAISS's lists"] == "needs the package faiss"


@pytest.mark.long
def test_each_thing_that_is_measured_on_a_gpu_is_measured_on_a_cpu_in_small() -> None:
    done = bench("--tiny", "--device", "cpu", module="whole_voice")
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == [
        "training step on a GPU",
        "training step on a GPU without graphs",
        "most memory in training",
        *(f"loss/{name}" for name in ("disc", "gen", "fm", "mel", "kl")),
        "recordings to voice",
    ]
    assert all(
        line.keys() == {"name", "ours", "reference", "ratio", "unit", "device", "notes"} for line in lines.values()
    )
    # First step of models from one seed: the discriminator loss hardly depends on the segments.
    assert 0.98 < lines["loss/disc"]["ratio"] < 1.02
    assert "train" in lines["recordings to voice"]["notes"]


def test_a_machine_without_a_gpu_is_told_so_in_a_sentence(tmp_path: Path) -> None:
    done = bench("--output", str(tmp_path / "gpu.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("benchmarks.gpu measures a CUDA device, and PyTorch finds none here; ")
