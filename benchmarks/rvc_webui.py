"""The user's checkout of RVC WebUI, whose own commands are timed from start to end.

Each command runs in a scratch folder of links to the checkout, which is not changed, under the given Python: best the
one that RVC WebUI runs in. Plotting (matplotlib, tensorboard) and librosa's mel filters are replaced by stand-ins where
that Python lacks them (`stand_ins/sitecustomize.py`); the mathematics is not changed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STAND_INS = Path(__file__).parent / "stand_ins"
CAN_STAND_IN = ("librosa", "matplotlib", "tensorboard")


def add_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `--reference` and `--reference-python`, the same in all benchmarks."""
    parser.add_argument("--reference", type=Path, required=required, help="a checkout of RVC WebUI")
    parser.add_argument(
        "--reference-python", type=Path, default=Path(sys.executable), help="the Python that RVC WebUI runs in"
    )


@dataclass(frozen=True)
class Reference:
    """RVC WebUI's code, ready to run in a scratch folder."""

    python: Path
    folder: Path
    """Current folder of its commands: links to the checkout, and writable `logs/` and `assets/weights/`."""

    @classmethod
    def place(cls, checkout: Path, python: Path, folder: Path) -> "Reference":
        """Link the checkout into an empty folder. Raises FileNotFoundError for a folder that is not a checkout."""
        if not (checkout / "train" / "train.py").is_file():
            raise FileNotFoundError(f"{checkout} is not a checkout of RVC WebUI: it has no train/train.py")
        for own in ("logs", "assets/weights", "assets/indices"):
            (folder / own).mkdir(parents=True)
        for base in filter(Path.is_dir, (checkout, checkout / "assets")):
            for entry in base.iterdir():
                link = folder / entry.relative_to(checkout)
                if not link.exists():
                    link.symlink_to(entry.absolute())
        return cls(python, folder)

    def run(self, module: str, arguments: Sequence[object]) -> float:
        """Seconds of `python -m <module> <arguments>`. On failure prints its output and raises CalledProcessError."""
        # Without the tuning set for our processes, which its users do not have.
        env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        env |= {"PYTHONPATH": str(STAND_INS), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(self.python), "-m", module, *map(str, arguments)]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.stderr.write(done.stdout[-3000:])
            raise subprocess.CalledProcessError(done.returncode, command)
        return seconds

    def stand_ins(self) -> str:
        """Packages that this Python lacks and stand-ins replace, for the notes."""
        look = f"import importlib.util as u; print(*[n for n in {CAN_STAND_IN} if u.find_spec(n) is None], sep=', ')"
        found = subprocess.run([self.python, "-c", look], stdout=subprocess.PIPE, text=True, check=True)
        return found.stdout.strip() or "none"
