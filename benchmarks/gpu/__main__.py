"""`python -m benchmarks.gpu`: a GPU measured within some minutes, as JSON lines, with the most useful results first.

It needs this checkout, and Python 3.11 or later with PyTorch 2.9 or later: no network, no installation. Each part runs
in a process of its own, which is ended when its share of the seconds has passed, so that a device that hangs costs no
more than that. What needs a package that is missing is left out by name. `python -m benchmarks.whole_voice` makes a
whole voice of ten minutes, with the packages of `make setup`.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.plan import PARTS
from benchmarks.gpu.runner import MIN_TORCH, Runner

MIN_PYTHON = (3, 11)
NO_GPU = "benchmarks.gpu measures a CUDA device, and PyTorch finds none here; --tiny --device cpu tries it in small"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480, help="time for everything")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS], help="repeatable")
    parser.add_argument("--output", type=Path, default=Path("gpu.jsonl"), help="file to which the lines are added")
    parser.add_argument("--tiny", action="store_true", help="only test that it runs, with small models, on any device")
    options = parser.parse_args()
    if sys.version_info < MIN_PYTHON:
        print(f"benchmarks.gpu needs Python {'.'.join(map(str, MIN_PYTHON))} or later", file=sys.stderr)
        return 2
    with options.output.open("a", encoding="utf-8") as kept:
        runner = Runner(options.device, options.seconds, kept, is_tiny=options.tiny)
        found = runner.probe()
        if found is None:
            print(NO_GPU if not runner.has_failed else "the device does not answer", file=sys.stderr)
            return 2
        if tuple(map(int, found["torch"].split(".")[:2])) < MIN_TORCH:
            print(f"benchmarks.gpu needs PyTorch 2.9 or later, and {found['torch']} is here", file=sys.stderr)
            return 2
        runner.run([part for part in PARTS if not options.only or part.name in options.only])
    return int(runner.has_failed)


if __name__ == "__main__":
    sys.exit(main())
