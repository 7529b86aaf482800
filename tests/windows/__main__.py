"""`make test-windows`: the tests marked `windows`, by a Python for Windows with the wheel of this checkout installed.

The Python is WINDOWS_PYTHON: on Windows a `python.exe`, elsewhere a program that runs one by Wine.
Without it, one that `../shared/tools/windows_python.sh` sets up in a cache folder, where that tool is there. Without
both the tests are left out, with a message. `--long`: besides, the tests of client, server, worker and engine
(`long_form`); `--long FOLDER...`: these folders of them alone.

Dependencies go into that Python itself, as a cache; the wheel into a folder of its own, so that checkouts do not meet.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import filelock

from tests.windows import long_form

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT.parent / "shared" / "tools" / "windows_python.sh"
CACHE = Path("/var/tmp/windows-python")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--no-compile")
QUICK = ("tests/windows", "tests/engine/environment")


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
        is_long, chosen = "--long" in arguments, [word for word in arguments if word != "--long"]
        code = 0
        if not chosen:
            code = start_tests(python, folder, ("-m", "windows or not (long or gpu)", *QUICK)).wait()
        if is_long:
            code = max(code, long_form.run(lambda *given: start_tests(python, folder, *given), folder, chosen))
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
        run(python, *PIP, *how, f"{native(wheel)}[server,engine]", *tests)
    run(python, *PIP, "--no-deps", "--target", native(folder / "installed"), native(wheel))


def start_tests(
    python: Path, folder: Path, words: tuple[str, ...], variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Start pytest, which imports our packages from the installed wheel and its own helpers from the checkout."""
    search = ";".join((native(folder / "installed"), native(ROOT)))
    basetemp = ("--basetemp", native(folder / "tmp")) if sys.platform != "win32" else ()
    environment = {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = (python, "-P", "-m", "pytest", "-p", "no:cacheprovider", *basetemp, *words)
    return subprocess.Popen(command, cwd=ROOT, env=own_environment() | environment | variables)


def run(python: Path, *words: str) -> None:
    """Run Python with these arguments. Raises CalledProcessError."""
    subprocess.run([python, *words], cwd=ROOT, env=own_environment(), check=True)


def own_environment() -> dict[str, str]:
    """The environment without settings of our programs and of a pytest that runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RVC_TRAIN_", "PYTEST_"))}


def native(path: Path) -> str:
    """The path as Windows has it."""
    return str(path) if sys.platform == "win32" else "Z:" + str(path).replace("/", "\\")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
