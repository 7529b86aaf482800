"""An engine that starts at once: torch is loaded one time, and each run is a fork of this process.

Reads lines `{"workspace", "dataset", "config", "cache"}`, answers `pid`, then `exit code` (below zero: a signal).
"""

import json
import os
import sys
from pathlib import Path

import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.evaluation import evaluator  # noqa: F401 - loaded before the forks
from rvc_engine.machine import Machine
from rvc_engine.pipeline import pipeline  # noqa: F401 - loaded before the forks
from rvc_engine.pipeline.pipeline import StageSelection
from rvc_engine.pipeline.process import run_engine
from rvc_engine.workspace.layout import Workspace


def run(wish: dict[str, str]) -> int:
    config = TrainingConfig.model_validate(json.loads(wish["config"]))
    workspace = Workspace(Path(wish["workspace"]), "anna", config.version)
    machine = Machine(device="cpu", num_threads=1, cache_folder=Path(wish["cache"]))
    torch.manual_seed(0)
    return run_engine(
        Path(wish["dataset"]),
        workspace,
        config,
        machine,
        lambda _: None,
        lambda: False,
        StageSelection(),
        lock_wait_seconds=30,
    )


def main() -> None:
    for line in sys.stdin:
        wish = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(wish))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
