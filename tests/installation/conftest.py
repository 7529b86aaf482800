"""The wheel of this checkout, and fresh environments with it installed as a user installs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = os.environ.get("RVC_TRAIN_TEST_PYTHONS", sys.executable).split()
"""The Pythons to install into: paths, or names on the path. The first is the one whose build of torch is at hand."""
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("RVC_TRAIN_", "PYTHON", "VIRTUAL_ENV"))
} | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Choice(NamedTuple):
    """What a fresh environment is made of."""

    python: str
    extras: str
    """Such as `[server]`; empty for the client alone."""


class Environment:
    """A fresh virtual environment with the wheel and one choice of extras, in a folder that holds nothing of ours."""

    def __init__(self, folder: Path, wheel: Path, choice: Choice) -> None:
        self.folder = folder
        self.wheel = wheel
        self.programs = folder / "env" / "bin"
        self.run(choice.python, "-m", "venv", "env").check_returncode()
        self.installed = self.pip("install", f"{wheel}{choice.extras}")

    def pip(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """pip of this environment with our constraints, and wheels only."""
        how = ("--only-binary", ":all:", "-c", ROOT / "constraints.txt", "--quiet", "--quiet")
        # Compiling what is never imported would take half of the time.
        return self.run("pip", command, *how, "--no-compile", *words, seconds=900)

    def run(
        self, program: str, *words: str | Path, seconds: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A program of the environment, without the variables of the tests' own."""
        path = self.programs / program
        return subprocess.run(
            [path if path.exists() else program, *words],
            cwd=self.folder,
            env=ENVIRONMENT | variables,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


class Environments:
    """Fresh environments, made two at a time ahead of the tests that ask for them."""

    def __init__(self, folder: Path, wheel: Path, choices: list[Choice]) -> None:
        self._threads = ThreadPoolExecutor(2)
        self._made: dict[Choice, Future[Environment]] = {}
        for number, choice in enumerate(choices):
            place = folder / str(number)
            place.mkdir()
            self._made[choice] = self._threads.submit(Environment, place, wheel, choice)

    def get(self, choice: Choice) -> Environment:
        """The environment, installed. AssertionError with pip's words when it could not be."""
        environment = self._made[choice].result()
        assert environment.installed.returncode == 0, environment.installed.stderr
        return environment

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`environment` of a test class is one for each of its `pythons`, a slice, with its `extras`."""
    if "environment" in metafunc.fixturenames:
        choices = [Choice(python, metafunc.cls.extras) for python in PYTHONS[metafunc.cls.pythons]]
        names = [Path(choice.python).name + choice.extras for choice in choices]
        metafunc.parametrize("environment", choices, indirect=True, ids=names, scope="class")


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` builds: the sdist and, out of it, the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", folder, ROOT]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def environments(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environments]:
    """One for each choice of the collected tests, in their order."""
    given = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    choices = [params["environment"] for params in given if isinstance(params.get("environment"), Choice)]
    folder = tmp_path_factory.mktemp("environments")
    made = Environments(folder, wheel, list(dict.fromkeys(choices)))
    yield made
    made.close()
    subprocess.run(["rm", "-rf", folder], check=True)  # gigabytes


@pytest.fixture(scope="class")
def environment(environments: Environments, request: pytest.FixtureRequest) -> Environment:
    """See `pytest_generate_tests`."""
    return environments.get(request.param)
