"""`make bench`: all benchmarks, as JSON lines; with `--reference PATH` also against RVC WebUI's own commands."""

import argparse
import subprocess
import sys

from benchmarks import rvc_webui

BENCHMARKS = (
    "pitch_estimators",
    "preparation",
    "training_step",
    "gradients",
    "step_operations",
    "reference_training",
    "indexing",
    "service_load",
    "growth",
)
"""Benchmarks of our code, most of them against a plain implementation of the reference's method."""
TAKE_REFERENCE = {"preparation", "reference_training", "indexing"}
"""Benchmarks that also compare with RVC WebUI's own commands; each has the options of `rvc_webui.add_options`."""
NEED_REFERENCE = {"reference_training"}


def main() -> None:
    """Run each benchmark in a process of its own, so that none is warmed up by another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run only this benchmark; repeatable")
    parser.add_argument("--recordings", help="for preparation: a folder of recordings instead of the samples")
    parser.add_argument("--features", help="for indexing: a folder of .npy files instead of synthetic features")
    options = parser.parse_args()
    reference = ["--reference", options.reference, "--reference-python", options.reference_python]
    for name in options.only or BENCHMARKS:
        if name in NEED_REFERENCE and options.reference is None:
            continue
        arguments = reference if name in TAKE_REFERENCE and options.reference is not None else []
        for benchmark, option in (("preparation", "recordings"), ("indexing", "features")):
            if name == benchmark and getattr(options, option) is not None:
                arguments = [*arguments, f"--{option}", getattr(options, option)]
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
