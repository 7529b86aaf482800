"""`make bench`: all figures, as JSON lines; with `--reference PATH` beside RVC WebUI's own commands too."""

import argparse
import subprocess
import sys

from benchmarks import rvc_webui

BENCHMARKS = (
    "pitch_estimators",
    "preparation",
    "training_step",
    "gradients",
    "reference_training",
    "indexing",
    "service_load",
)
"""Ours, against plain renderings of the reference's way where there is one."""
TAKE_REFERENCE = {"preparation", "reference_training", "indexing"}
"""These set RVC WebUI's own commands beside ours too; each takes `rvc_webui.add_options`."""
NEED_REFERENCE = {"reference_training"}


def main() -> None:
    """Each benchmark in a process of its own: no shared warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be given again")
    parser.add_argument("--recordings", help="for preparation: a folder, in place of the samples")
    parser.add_argument("--features", help="for indexing: a folder of .npy files, in place of made-up ones")
    options = parser.parse_args()
    reference = ["--reference", options.reference, "--reference-python", options.reference_python]
    for name in options.only or BENCHMARKS:
        if name in NEED_REFERENCE and options.reference is None:
            continue
        arguments = reference if name in TAKE_REFERENCE and options.reference is not None else []
        for wanted, option in (("preparation", "recordings"), ("indexing", "features")):
            if name == wanted and getattr(options, option) is not None:
                arguments = [*arguments, f"--{option}", getattr(options, option)]
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
