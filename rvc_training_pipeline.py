"""The training pipeline on the command line: `python rvc_training_pipeline.py -e my_model -sr 40k -f0 1 -te 300`.

Has the options of the script that it replaces, works in `logs/<name>/` as RVC does, and needs no server.
"""

import shlex
import sys
from pathlib import Path

try:
    from rvc_engine.installation import missing_package_reported
except ModuleNotFoundError as missing:  # not even a package that all programs need
    folder = shlex.quote(f"{Path(__file__).resolve().parent}[engine]")
    sys.stderr.write(
        f"error: this program needs the package {missing.name}, which is not installed; install everything it needs "
        f"with: pip install -e {folder}\n"
    )
    sys.exit(2)


def main() -> None:
    """Entry point."""
    from rvc_engine.environment.graphics import let_mps_fall_back
    from rvc_engine.translation.program_errors import errors_reported

    let_mps_fall_back()
    with errors_reported(), missing_package_reported("engine"):
        from rvc_engine.cli.pipeline_script import main as run_pipeline

        run_pipeline()


if __name__ == "__main__":
    main()
