"""Each extra of the wheel, installed alone into a fresh environment and started for what it is for.

RVC_TRAIN_TEST_PYTHONS names the Pythons. Extras with torch go into the first of them, for which a CPU build of torch is
at hand, and in the long form into the second, where pip may have to fetch gigabytes. Whether there are wheels for the
other Pythons and machines is asked of a resolver that reads metadata alone.
"""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice

pytestmark = [pytest.mark.install, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
EXTRAS = ("all", "postgres", "onnx", "pm")
LINUX = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
OTHERS = ("x86_64-apple-darwin", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")


@pytest.fixture
def fresh_station(environment, open_station, tmp_path):
    """Server and worker out of the fresh environment."""
    made = open_station(tmp_path, python=environment.programs / "python", cwd=environment.folder)
    made.environment["PYTHONSAFEPATH"] = "1"
    yield made
    made.close()


def make_tiny_voice(environment, *options: str) -> Path:
    """A voice of six recordings by the pipeline script, of one epoch."""
    recordings = environment.folder / "recordings"
    recordings.mkdir()
    for path in sorted((ROOT / "samples").glob("*.flac"))[:6]:
        (recordings / path.name).write_bytes(path.read_bytes())
    tiny = ("--content", "whisper-tiny", "--pretrained", "none", "--set", "width=24", "-te", "1", "-bs", "4")
    command = ("python", "-m", "rvc_training_pipeline", "-e", "tiny", "--dataset", recordings, *tiny, *options)
    done = environment.run(*command, seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    voice = environment.folder / "logs" / "tiny" / "weights" / "tiny.pth"
    assert voice.with_suffix(".index").stat().st_size > 0
    return voice


@pytest.fixture
def untrained_voice(tmp_path: Path) -> Path:
    """A voice's file with random weights, of a small net."""
    hparams = Hyperparameters.from_config(TrainingConfig(pretrained="none", width=24))
    voice = tmp_path / "tiny.pth"
    write_voice(voice, Synthesizer(hparams).state_dict(), hparams, VoiceDetails("tiny", 1, 1, "contentvec", 60.0))
    return voice


class TestClient:
    """No extra: the client. `test_wheel.py` has more of it, on one Python."""

    extras = ""
    pythons = slice(None)

    def test_it_sends_recordings_to_a_server(self, environment, station) -> None:
        station.start_server()
        done = environment.run("rvc-train", "dataset", "upload", station.samples, RVC_TRAIN_SERVER=station.url)
        assert done.returncode == 0, done.stderr
        assert "25 files" in done.stdout


class TestServer:
    """`[server]`: the service, its page, and the report on recordings."""

    extras = "[server]"
    pythons = slice(None)

    def test_it_becomes_ready_shows_its_page_and_admits_recordings(self, fresh_station) -> None:
        fresh_station.start_server()
        page = httpx.get(fresh_station.url)
        assert page.status_code == httpx.codes.OK
        assert "<html" in page.text
        dataset = fresh_station.upload(*sorted(fresh_station.samples.glob("vm-*.flac")))
        assert (dataset.status, dataset.num_files) == ("ready", 7)


class TestPostgres:
    """`[postgres]`: the service on a PostgreSQL."""

    extras = "[postgres]"
    pythons = slice(None)

    def test_its_server_becomes_ready_on_postgresql(self, fresh_station, postgres) -> None:
        fresh_station.environment["RVC_TRAIN_DATABASE_URL"] = postgres.new_database()
        fresh_station.start_server()
        assert list(fresh_station.client.jobs()) == []


class TestEngine:
    """`[engine]`: the engine without any server."""

    extras = "[engine]"
    pythons = slice(1)

    def test_it_says_what_the_machine_can_do_and_makes_a_voice(self, environment) -> None:
        machine = environment.run("rvc-engine", "machine")
        assert machine.returncode == 0, machine.stderr
        assert json.loads(machine.stdout)["libraries"]["pyworld-prebuilt"]
        assert make_tiny_voice(environment).stat().st_size > 0


class TestEngineOnAnotherPython(TestEngine):
    """`[engine]` on the second Python."""

    pythons = slice(1, 2)
    pytestmark = pytest.mark.long


class TestPraat:
    """`[pm]`: the engine with Praat's pitch."""

    extras = "[pm]"
    pythons = slice(1)
    pytestmark = pytest.mark.long

    def test_it_makes_a_voice_with_praats_pitch(self, environment) -> None:
        assert make_tiny_voice(environment, "--pitch", "pm").stat().st_size > 0


class TestOnnx:
    """`[onnx]`: a voice as a graph for other programs."""

    extras = "[onnx]"
    pythons = slice(1)

    def test_it_exports_a_voice_and_compares_it(self, environment, untrained_voice) -> None:
        done = environment.run("rvc-engine", "onnx", untrained_voice, "-o", "tiny.onnx", seconds=300)
        assert done.returncode == 0, done.stderr
        assert (environment.folder / "tiny.onnx").stat().st_size > 0


class TestAll:
    """`[all]`: everything that one computer needs."""

    extras = "[all]"
    pythons = slice(1)

    def test_the_demo_makes_a_voice_through_server_and_worker(self, environment) -> None:
        done = environment.run(
            "rvc-train", "demo", "--width", "24", "--max-train-seconds", "3", "-o", "voice", seconds=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert {path.name for path in (environment.folder / "voice").iterdir()} == {
            "sample.pth",
            "sample.index",
            "services.log",
        }

    def test_it_brings_what_server_and_engine_bring_and_nothing_else(self) -> None:
        assert resolved("all") == resolved("server", "engine")


def resolved(*extras: str, python: str = "3.11", platform: str = LINUX[0]) -> str:
    """The packages that extras bring for a Python and a platform, a line each, wheels only. AssertionError for none."""
    command = [sys.executable, "-m", "uv", "pip", "compile", ROOT / "pyproject.toml", "-c", ROOT / "constraints.txt"]
    command += ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    command += ["--quiet", "--no-header", "--no-annotate", *(f"--extra={extra}" for extra in extras)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
class TestWheels:
    """Every dependency has a wheel of the pinned version."""

    @pytest.mark.parametrize("platform", LINUX)
    def test_every_extra_resolves_on_linux(self, python: str, platform: str) -> None:
        assert "torch==2.13.0" in resolved(*EXTRAS, python=python, platform=platform)

    @pytest.mark.parametrize("platform", OTHERS)
    def test_the_client_resolves_on_macos_and_windows(self, python: str, platform: str) -> None:
        assert "httpx==" in resolved(python=python, platform=platform)
