"""`make test-cluster`: the tests marked `cluster`, with Ray in an environment of its own.

Ray is installed into a cache folder, beside a link to the packages of the environment that this runs in. Where it
cannot be installed, the tests are left out, with the reason.
"""

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import filelock
import platformdirs

ROOT = Path(__file__).resolve().parents[3]
CACHE = platformdirs.user_cache_path("rvc-train") / "cluster"
RAY = "ray>=2.50"
"""As in the extra `ray` of pyproject.toml."""
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")


def main(arguments: list[str]) -> int:
    """Run the tests; the exit code is pytest's, or 0 where they are left out."""
    if sys.platform == "win32":
        print("left out: these tests end processes as Linux and macOS do")
        return 0
    begun = time.monotonic()
    python, reason = environment()
    if python is None:
        print(f"left out: {RAY} cannot be installed into {CACHE}: {reason}")
        return 0
    print(f"Ray is in {CACHE}, after {time.monotonic() - begun:.0f} s", flush=True)
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [python, "-m", "pytest", "-m", "cluster", "tests/worker/ray", *arguments]
    return subprocess.call(command, cwd=ROOT, env=os.environ | settings)


def environment() -> tuple[Path | None, str]:
    """The Python with Ray, and the reason where there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / version
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(CACHE / f"{version}.lock"):
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True, symlinks=True)
        packages = folder / "lib" / f"python{version}" / "site-packages"
        ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
        (packages / "rvc_train_of_the_tests.pth").write_text(f"{ours}\n")
        asked = [python, *PIP, "-c", ROOT / "constraints.txt", RAY]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return python, ""
        return None, (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
