"""The benchmark of gradients measures the formats of GPUs on a CPU, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_by_the_rules_of_gpus_float16_has_the_gradients_of_float32() -> None:
    command = [sys.executable, "-m", "benchmarks.gradients", "--rules", "gpu", "--width", "24", "--batch-size", "1"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, "--after"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    cosines = {line["name"]: line["ours"] for line in map(json.loads, done.stdout.splitlines())}
    assert len(cosines) == 6
    for model in "GD":
        assert cosines[f"gradient of {model} in fp16 by the rules of GPUs, step 0"] > 0.999
