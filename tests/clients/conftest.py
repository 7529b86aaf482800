"""A server and a worker with a scripted engine, for programs of other people; and where those programs lie."""

import os
import shutil
import subprocess
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[2] / "build" / "clients"
"""Programs from PyPI and npm, kept between runs."""
PACKAGES = (
    "openapi-python-client==0.29.1",
    "datamodel-code-generator==0.89.0",
    "tuspy==1.1.0",
    "kubernetes-validate==1.37.0",
)
TOKEN = "the-token-of-these-tests"


@pytest.fixture(scope="session")
def python_programs() -> Path:
    """Folder with Python and the generators, installed apart from what this project needs."""
    folder = PROGRAMS / "python"
    done = folder / "+".join(PACKAGES)
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-compile", *PACKAGES], check=True)
        done.touch()
    return folder / "bin"


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """Folder with the packages of package.json installed."""
    wanted = Path(__file__).with_name("package.json")
    folder = PROGRAMS / "node"
    installed = folder / wanted.name
    if not (installed.is_file() and installed.read_bytes() == wanted.read_bytes()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(wanted, folder / "wanted.json")
        (folder / "wanted.json").rename(installed)
        try:
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
        except BaseException:
            installed.unlink()
            raise
    return folder


@pytest.fixture(scope="module")
def served(open_station: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A station whose jobs make a voice within a second."""
    station = open_station(tmp_path_factory.mktemp("station"), token=TOKEN)
    station.follow_script(["log", "it begins"], ["train", 20, 0.05, 5], *station.MAKE_VOICE)
    station.start_server()
    station.start_worker()
    yield station
    station.close()


@pytest.fixture
def run_client(served: Any) -> Callable[..., str]:
    """`run_client(program, *words, cwd=...)`: a client's output; URL and TOKEN are in its environment."""

    def run(*command: str | Path, cwd: Path, **variables: str) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"URL": served.url, "TOKEN": TOKEN} | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + served.words()
        return done.stdout

    return run
