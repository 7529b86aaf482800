"""What wheel and sdist hold, and the client installed out of the wheel alone."""

import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = {
    "rvc_train/samples/vm-review.flac",
    "rvc_engine/assets/model_assets.json",
    "rvc_engine/assets/whisper-tiny.en-encoder.safetensors",
    "rvc_training_pipeline.py",
    "rvc_engine/translation/locales/zh/LC_MESSAGES/messages.mo",
    "server/database/migrations/env.py",
    "server/database/migrations/script.py.mako",
    "server/pages/locales/zh.json",
    "server/pages/static/js/job.js",
    "server/pages/static/vendor/uplot/uPlot.esm.js",
    "server/pages/templates/base.html",
    "server/static/swagger-ui/swagger-ui-bundle.js",
}
"""One of each kind of file that is no module, and the module that is no package."""


def files_of(folder: str) -> set[str]:
    """Files of a package in this checkout."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in found}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name for folder in ("client", "rvc_engine", "rvc_train", "server", "worker") for name in files_of(folder)}
    samples = {f"rvc_train/{name}" for name in files_of("samples")}
    assert names == ours | samples | {"rvc_training_pipeline.py"}
    assert names >= NEEDED


def test_the_sdist_holds_what_a_wheel_is_built_from(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {name.replace("rvc_train/samples", "samples") for name in NEEDED}
    assert names >= {"constraints.txt", "LICENSE", "NOTICE", "README.md", "Dockerfile", "docker-compose.yml"}


class TestClientAlone:
    """`pip install rvc_train-VERSION-py3-none-any.whl`, on the Python of the tests."""

    extras = ""
    pythons = slice(1)

    def test_it_shows_its_help(self, environment) -> None:
        done = environment.run("rvc-train", "--help")
        assert done.returncode == 0, done.stderr
        assert "Train RVC voices" in done.stdout

    def test_its_help_is_chinese_where_lang_is(self, environment) -> None:
        done = environment.run("rvc-train", "--help", LANG="zh_CN.UTF-8", LC_ALL="", LANGUAGE="")
        assert done.returncode == 0, done.stderr
        assert "训练 RVC 音色" in done.stdout

    def test_it_sends_recordings_to_a_server(self, environment, station) -> None:
        station.start_server()
        address = {"RVC_TRAIN_SERVER": station.url, "RVC_TRAIN_TOKEN": station.token}
        done = environment.run("rvc-train", "dataset", "upload", station.samples, **address)
        assert done.returncode == 0, done.stderr
        assert "25 files" in done.stdout

    @pytest.mark.parametrize(
        ("command", "extra"),
        [
            ("rvc-train up", "all"),
            ("rvc-train demo", "all"),
            ("rvc-train admin doctor", "server"),
            ("rvc-engine machine", "engine"),
            ("python -m rvc_training_pipeline -e anna", "engine"),
        ],
    )
    def test_it_says_in_one_line_how_to_install_what_was_left_out(self, environment, command: str, extra: str) -> None:
        done = environment.run(*command.split(), COLUMNS="1000")
        assert done.returncode != 0
        (line,) = done.stderr.strip().splitlines()
        assert line.endswith(f"pip install '{environment.wheel}[{extra}]'")
