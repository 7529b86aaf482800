"""`make test-windows`: the tests marked `windows`, by a Python for Windows with the wheel of this checkout installed.

The Python is WINDOWS_PYTHON: on Windows a `python.exe`, elsewhere a program that runs one by Wine.
Without it, one that `../shared/tools/windows_python.sh` sets up in a cache folder, where that tool is there. Without
both the tests are left out, with a message. `--long`: besides, the tests of client, server, worker and engine.

Dependencies go into that Python itself, as a cache; the wheel into a folder of its own, so that checkouts do not meet.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT.parent / "shared" / "tools" / "windows_python.sh"
CACHE = Path("/var/tmp/windows-python")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--no-compile")
QUICK = ("tests/windows", "tests/engine/environment")
LONG = ("tests/client", "tests/worker", "tests/server", "tests/engine")


def main(arguments: list[str]) -> int:
    """Run the tests; the exit code is pytest's, or 0 where they are left out."""
    python = find_python()
    if python is None:
        print(f"left out: there is no Python for Windows: WINDOWS_PYTHON is not set, {TOOL} is not there or failed")
        return 0
    with tempfile.TemporaryDirectory(prefix="rvc-windows-") as name:
        folder = Path(name)
        begun = time.monotonic()
        install(python, folder)
        print(f"installed in {time.monotonic() - begun:.0f} s", flush=True)
        code = run_tests(python, folder, "-m", "windows or not (long or gpu)", *QUICK)
        if "--long" in arguments:
            marks = "not (windows or long or gpu or install or clients or containers)"
            code = max(code, run_tests(python, folder, "-m", marks, "--timeout=600", "-rs", *LONG))
        return code


def find_python() -> Path | None:
    """The Python for Windows; None without one."""
    named = os.environ.get("WINDOWS_PYTHON")
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(sys.executable)
    if not TOOL.is_file():
        return None
    with filelock.FileLock(CACHE.with_suffix(".lock")):
        if not (CACHE / "python").is_file() and subprocess.run([TOOL, CACHE], check=False).returncode:
            return None
    return CACHE / "python"


def install(python: Path, folder: Path) -> None:
    """Install the wheel of this checkout with what it needs, from wheels for Windows alone."""
    builder = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(builder, check=True)
    (wheel,) = folder.glob("*.whl")
    how = ("--only-binary", ":all:", "-c", native(ROOT / "constraints.txt"))
    tests = (
        "pytest",
        "pytest-timeout",
        "hypothesis",
        "time-machine",
        "jsonschema",
        "openapi-spec-validator",
        "standardwebhooks",
    )
    with filelock.FileLock(CACHE.with_suffix(".lock")):
        run(python, *PIP, *how, f"{native(wheel)}[server,engine]", *tests, check=True)
    run(python, *PIP, "--no-deps", "--target", native(folder / "installed"), native(wheel), check=True)


def run_tests(python: Path, folder: Path, *words: str) -> int:
    """Run pytest, which imports our packages from the installed wheel and its own helpers from the checkout."""
    search = ";".join((native(folder / "installed"), native(ROOT)))
    basetemp = ("--basetemp", native(folder / "tmp")) if sys.platform != "win32" else ()
    environment = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ("-P", "-m", "pytest", "-p", "no:cacheprovider", *basetemp, *words)
    return run(python, *command, **environment)


def run(python: Path, *words: str, check: bool = False, **variables: str) -> int:
    """Exit code of Python with these arguments."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RVC_TRAIN_", "PYTEST_"))}
    return subprocess.run([python, *words], cwd=ROOT, env=environment | variables, check=check).returncode


def native(path: Path) -> str:
    """The path as Windows has it."""
    return str(path) if sys.platform == "win32" else "Z:" + str(path).replace("/", "\\")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
