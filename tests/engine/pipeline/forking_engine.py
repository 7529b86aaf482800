"""Engines that start at once: torch is loaded one time, and each run is a fork of this process.

Input lines `{"workspace", "dataset", "config", "cache"}`; output lines `pid`, then `exit code` (negative: a signal).
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


def run(request: dict[str, str]) -> int:
    config = TrainingConfig.model_validate(json.loads(request["config"]))
    workspace = Workspace(Path(request["workspace"]), "anna", config.version)
    machine = Machine(device="cpu", num_threads=1, cache_folder=Path(request["cache"]))
    torch.manual_seed(0)
    return run_engine(
        Path(request["dataset"]),
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
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(request))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
