"""The process of one part: `python -m benchmarks.gpu.part NAME PLAN`."""

import importlib
import os
import platform
import sys
from collections.abc import Callable

from benchmarks.gpu.plan import Plan, leave_out

MODULES = {
    "device": "device",
    "gradients": "steps",
    "steps": "steps",
    "compiled": "steps",
    "memory": "steps",
    "losses": "steps",
    "failures": "failures",
    "capture": "failures",
    "after_failure": "failures",
    "voices": "voices",
    "voice": "voices",
    "index": "stages",
    "content": "stages",
    "pitch": "stages",
}


def main() -> None:
    """Run a part. A package that is missing leaves it out, by the package's name."""
    name, plan = sys.argv[1], Plan.load(sys.argv[2])
    try:
        run: Callable[[Plan], None] = getattr(importlib.import_module(f"benchmarks.gpu.{MODULES[name]}"), name)
        run(plan)
    except ModuleNotFoundError as error:
        leave_out(name, f"needs the package {error.name}, which this Python {platform.python_version()} lacks")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # the end of CUDA's libraries takes seconds, and gives nothing
