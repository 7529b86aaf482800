"""The install command of an extra fits the installation, and never has the package's bare name."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rvc_engine import installation
from rvc_engine.cli.main import app as engine_app
from rvc_engine.installation import install_command
from rvc_train.cli.main import app as client_app
from tests.systems import IS_WINDOWS

ROOT = Path(__file__).parents[2]
BARE_NAME = re.compile(r"pip install(?:\s+-\S+)*\s+['\"]?rvc[-_]train(?![-_\w]*\.whl|\S* @)|rvc-train\[(?![^\]]*\] @)")
"""A name that anyone may register on an index: `pip install rvc-train`, `rvc-train[server]`."""


class Distribution:
    """Metadata of an installation."""

    version = "1.2.3"

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.skipif(IS_WINDOWS, reason="of POSIX shells")
@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///home/a%20b/rvc", "dir_info": {}}, "pip install '/home/a b/rvc[server]'"),
        (
            {"url": "file:///tmp/rvc_train-1.2.3-py3-none-any.whl", "archive_info": {}},
            "pip install '/tmp/rvc_train-1.2.3-py3-none-any.whl[server]'",
        ),
        (
            {"url": "https://example.org/rvc_train-1.2.3-py3-none-any.whl", "archive_info": {}},
            "pip install 'rvc-train[server] @ https://example.org/rvc_train-1.2.3-py3-none-any.whl'",
        ),
        (
            {"url": "https://example.org/rvc.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'rvc-train[server] @ git+https://example.org/rvc.git'",
        ),
        (None, "pip install './rvc_train-1.2.3-py3-none-any.whl[server]'"),
    ],
)
def test_the_command_names_where_the_installation_came_from(
    origin: dict[str, Any] | None, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "FOLDER", tmp_path)
    monkeypatch.setattr(installation, "distribution", lambda _name: Distribution(origin))
    assert install_command("server") == command
    assert len(shlex.split(command)) == 3
    assert not BARE_NAME.search(command)


@pytest.mark.skipif(IS_WINDOWS, reason="of POSIX shells")
def test_this_checkout_names_itself() -> None:
    assert shlex.split(install_command("onnx")) == ["pip", "install", "-e", f"{ROOT}[onnx]"]


@pytest.mark.parametrize(
    "text", ["pip install rvc-train", "pip install -U 'rvc-train[all]'", "the extra rvc-train[pm]"]
)
def test_a_bare_name_is_found(text: str) -> None:
    assert BARE_NAME.search(text)


def test_no_document_and_no_message_says_to_install_by_the_bare_name() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*")]
    programs = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", ROOT / "Makefile", ROOT / "constraints.txt"]
    ours = [path for name in ("client", "rvc_engine", "server", "worker") for path in (ROOT / name).rglob("*")]
    texts = [*pages, *programs, *(path for path in ours if path.suffix in {".py", ".json", ".html", ".js", ".md"})]
    assert len(texts) > 200
    found = [str(path) for path in texts if path.is_file() and BARE_NAME.search(path.read_text(errors="replace"))]
    assert found == []


@pytest.mark.parametrize("program", [client_app, engine_app], ids=["rvc-train", "rvc-engine"])
def test_both_programs_show_the_version_of_the_installation(program: typer.Typer) -> None:
    shown = CliRunner().invoke(program, ["--version"])
    assert (shown.exit_code, shown.output.strip()) == (0, version("rvc-train"))


@pytest.mark.parametrize("blocked", ["typer", "numpy"])
def test_the_pipeline_command_without_a_package_is_one_sentence_with_the_command_that_installs_it(blocked: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.modules[{blocked!r}] = None  # as if it were not installed\n"
        "sys.argv = ['rvc_training_pipeline.py', '--help']\n"
        f"runpy.run_path({str(ROOT / 'rvc_training_pipeline.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: .* the package {blocked}, .* pip install -e .*\[engine\]'?\n", done.stderr)
