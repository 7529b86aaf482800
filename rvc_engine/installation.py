"""The command that adds an extra of this package to the environment that runs it. No torch."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "rvc-train"
FOLDER = Path(__file__).resolve().parent.parent
"""Where this package lies: a checkout, or a folder of installed packages."""


def install_command(extra: str) -> str:
    """A `pip install` command that adds `extra` from where the running installation came.

    The package is not on any index, and whoever registers its name there could run code here: so the command names a
    folder, a file or an address, never the bare name. An installation without a recorded origin (PEP 610) gets the
    file name of a release's wheel.
    """
    return f"pip install {_requirement(extra)}"


@contextmanager
def missing_package_reported(extra: str) -> Iterator[None]:
    """End the program with one sentence, exit code 2, where a package of `extra` is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"rvc_train", "rvc_engine", "server", "worker"}:
            raise  # a fault of ours, not a part left out
        sys.stderr.write(
            f"error: this program needs the package {error.name}, which is not installed here; install all that it "
            f"needs: {install_command(extra)}\n"
        )
        sys.exit(2)


def _requirement(extra: str) -> str:
    if (FOLDER / "pyproject.toml").is_file():  # a checkout, installed as editable or not at all
        return f"-e {_quoted(f'{FOLDER}[{extra}]')}"
    ours = distribution(DISTRIBUTION)
    origin = json.loads(ours.read_text("direct_url.json") or "{}")
    address = origin.get("url", "")
    if not address:
        return _quoted(f"./rvc_train-{ours.version}-py3-none-any.whl[{extra}]")
    if "vcs_info" in origin:
        return _quoted(f"{DISTRIBUTION}[{extra}] @ {origin['vcs_info']['vcs']}+{address}")
    if urlsplit(address).scheme != "file":
        return _quoted(f"{DISTRIBUTION}[{extra}] @ {address}")
    return _quoted(f"{url2pathname(urlsplit(address).path)}[{extra}]")


def _quoted(argument: str) -> str:
    """An argument quoted for the platform's shell; the brackets of an extra are a pattern to a POSIX shell."""
    return subprocess.list2cmdline([argument]) if sys.platform == "win32" else shlex.quote(argument)
