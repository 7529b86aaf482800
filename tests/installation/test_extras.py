"""Each extra of the wheel, installed alone into a fresh environment and started for what it is for.

RVC_TRAIN_TEST_PYTHONS names the Pythons. Extras with torch go into the first of them, for which a CPU build of torch is
at hand, and in the long form into the second, where pip may have to fetch gigabytes. Whether there are wheels for the
other Pythons and machines is asked of a resolver that reads metadata alone.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from rvc_engine.config import TrainingConfig
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice

pytestmark = [pytest.mark.install, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
SUPPORTED = ("3.11", "3.12", "3.13")
EXTRAS = ("all", "postgres", "onnx", "pm", "quality")
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
    """A voice of three recordings by the pipeline script, of one epoch."""
    recordings = environment.folder / "recordings"
    recordings.mkdir()
    for path in sorted((ROOT / "samples").glob("*.flac"))[:3]:
        (recordings / path.name).write_bytes(path.read_bytes())
    tiny = ("--content", "whisper-tiny", "--pretrained", "none", "--set", "width=24", "-te", "1", "-bs", "4")
    tiny += ("--set", "evaluate=never")
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
        address = {"RVC_TRAIN_SERVER": station.url, "RVC_TRAIN_TOKEN": station.token}
        done = environment.run("rvc-train", "dataset", "upload", station.samples, **address)
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
    pytestmark = pytest.mark.long  # exporting itself is tested daily, in the developer's environment

    def test_it_exports_a_voice_and_compares_it(self, environment, untrained_voice) -> None:
        done = environment.run("rvc-engine", "onnx", untrained_voice, "-o", "tiny.onnx", seconds=300)
        assert done.returncode == 0, done.stderr
        assert (environment.folder / "tiny.onnx").stat().st_size > 0


class TestQuality:
    """`[quality]`: the naturalness of a finished voice without a download."""

    extras = "[quality]"
    pythons = slice(1)
    pytestmark = pytest.mark.long

    def test_it_brings_the_model_of_naturalness_and_nothing_that_needs_torchaudio(self, environment) -> None:
        code = (
            "import importlib.util; from rvc_engine.quality.naturalness import Dnsmos; "
            "from rvc_engine.weights.packages import package_file; import numpy as np; "
            "model = package_file('speechmos', 'dnsmos_models/sig_bak_ovr.onnx'); "
            "assert importlib.util.find_spec('torchaudio') is None; "
            "print(Dnsmos(model, 1).score(np.zeros(16_000, np.float32)))"
        )
        done = environment.run("python", "-P", "-c", code, seconds=300)
        assert done.returncode == 0, done.stderr
        assert 0 < float(done.stdout) < 3


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

    def test_it_brings_what_server_and_engine_bring_and_nothing_else(self, resolved) -> None:
        assert resolved(LINUX[0], "3.11", "all") == resolved(LINUX[0], "3.11", "server", "engine")


def resolve(platform: str, python: str, *extras: str) -> subprocess.CompletedProcess[str]:
    """A resolver's list of the packages that extras bring, a line each, wheels only."""
    command = [sys.executable, "-m", "uv", "pip", "compile", ROOT / "pyproject.toml", "-c", ROOT / "constraints.txt"]
    command += ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    command += ["--quiet", "--no-header", "--no-annotate", *(f"--extra={extra}" for extra in extras)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module", autouse=True)
def resolved() -> Iterator[Callable[..., str]]:
    """resolved(platform, python, *extras): the list of packages. All wait for the network at once."""
    questions = [(LINUX[0], "3.11", "all"), (LINUX[0], "3.11", "server", "engine")]
    questions += [(platform, python, *EXTRAS) for platform in LINUX for python in SUPPORTED]
    questions += [(platform, python) for platform in OTHERS for python in SUPPORTED]
    with ThreadPoolExecutor(4) as threads:
        answers = {question: threads.submit(resolve, *question) for question in questions}

        def answer(*question: str) -> str:
            done = answers[question].result()
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield answer


@pytest.mark.parametrize("python", SUPPORTED)
class TestWheels:
    """Every dependency has a wheel of the pinned version."""

    @pytest.mark.parametrize("platform", LINUX)
    def test_every_extra_resolves_on_linux(self, resolved, python: str, platform: str) -> None:
        assert "torch==2.13.0" in resolved(platform, python, *EXTRAS)

    @pytest.mark.parametrize("platform", OTHERS)
    def test_the_client_resolves_on_macos_and_windows(self, resolved, python: str, platform: str) -> None:
        assert "httpx==" in resolved(platform, python)
