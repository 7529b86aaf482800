"""`make bench`: all figures, as JSON lines; with `--reference PATH` beside RVC WebUI's own commands too."""

import argparse
import subprocess
import sys

from benchmarks import rvc_webui

ALONE = ("pitch_estimators", "training_step", "gradients", "service_load")
"""Ours, against plain renderings of the reference's way where there is one."""
AGAINST_RVC_WEBUI = ("reference_training",)
"""Ours and RVC WebUI's own commands in turns; each takes `rvc_webui.add_options`."""


def main() -> None:
    """Each benchmark in a process of its own: no shared warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rvc_webui.add_options(parser, required=False)
    parser.add_argument("--only", action="append", choices=(*ALONE, *AGAINST_RVC_WEBUI), help="may be given again")
    options = parser.parse_args()
    reference = ["--reference", options.reference, "--reference-python", options.reference_python]
    for name in (*ALONE, *AGAINST_RVC_WEBUI):
        if options.only and name not in options.only:
            continue
        if name in AGAINST_RVC_WEBUI and options.reference is None:
            continue
        arguments = reference if name in AGAINST_RVC_WEBUI else []
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)


if __name__ == "__main__":
    main()
