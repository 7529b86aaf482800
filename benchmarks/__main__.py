"""`make bench`: all figures, as JSON lines; with `--reference PATH` beside RVC WebUI's own commands too."""

import argparse
import subprocess
import sys

from benchmarks import rvc_webui

ALONE = ("pitch_estimators", "preparation", "training_step", "gradients", "service_load")
"""Ours, against plain renderings of the reference's way where there is one."""
AGAINST_RVC_WEBUI = ("preparation", "reference_training")
"""Ours and RVC WebUI's own commands in turns; each takes `rvc_webui.add_options`."""


def main() -> None:
    """Each benchmark in a process of its own: no shared warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    names = tuple(dict.fromkeys(ALONE + AGAINST_RVC_WEBUI))
    parser.add_argument("--only", action="append", choices=names, help="may be given again")
    options = parser.parse_args()
    reference = ["--reference", options.reference, "--reference-python", options.reference_python]
    runs: list[tuple[str, list[object]]] = [(name, []) for name in ALONE]
    if options.reference is not None:
        runs += [(name, reference) for name in AGAINST_RVC_WEBUI]
    for name, arguments in runs:
        if not options.only or name in options.only:
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
