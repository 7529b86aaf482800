"""Published weights that are missing: fetched from a server on loopback, or base weights done without."""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from rvc_engine import events
from rvc_engine.checkpoints.manifest import CheckpointEntry, write_entries
from rvc_engine.cli.missing_weights import MissingWeightsRemedy
from rvc_engine.cli.pipeline_script import app
from rvc_engine.config import TrainingConfig
from rvc_engine.errors import MissingWeights, StopRequested
from rvc_engine.machine import Machine
from rvc_engine.pipeline.required_weights import check_weights
from rvc_engine.weights import catalogue
from rvc_engine.workspace.base_weights_choice import BaseWeightsChoice
from rvc_engine.workspace.layout import Workspace

DATA = {name: name.encode() * 40_000 for name in ("f0G40k.pth", "f0D40k.pth")}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(0)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = DATA[Path(self.path).name][start:]
        self._answer(start)
        limits = self.server.limits  # type: ignore[attr-defined]
        self.wfile.write(body[: limits.pop(0)] if limits else body)
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        self.close_connection = True

    def _answer(self, start: int) -> None:
        data = DATA[Path(self.path).name]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"one"')
        self.end_headers()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A server of both files; `limits`: bytes after which each next response ends; empty: complete responses."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.limits, server.asked = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")


@pytest.fixture(autouse=True)
def small_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Base weights of 400 kB each, under the names of the published ones, and an encoder."""
    files = [
        {"id": "pretrained-v2-40k", "repo": "a/b", "path": name, "size": len(data), "sha256": _sha256(data)}
        for name, data in DATA.items()
    ]
    files.append({"id": "hubert", "repo": "a/b", "path": "pytorch_model.bin", "size": 1, "sha256": "0" * 64})
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"files": files}))
    monkeypatch.setattr(catalogue, "PUBLISHED_WEIGHTS", path)
    monkeypatch.setattr("rvc_engine.weights.download.ATTEMPTS_WITHOUT_PROGRESS", 1)
    catalogue.published_files.cache_clear()
    yield
    catalogue.published_files.cache_clear()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A folder that RVC prepared: one slice with its features and pitch."""
    found = Workspace(tmp_path / "logs" / "anna", "anna")
    for folder in (found.slices, found.coarse_f0, found.f0_hz, found.features):
        folder.mkdir(parents=True)
    soundfile.write(found.slices / "0_0.wav", np.zeros(40_000, np.float32), 40_000, subtype="FLOAT")
    np.save(found.features / "0_0.npy", np.zeros((50, 768), np.float32))
    np.save(found.coarse_f0 / "0_0.wav.npy", np.ones(100, np.int64))
    np.save(found.f0_hz / "0_0.wav.npy", np.zeros(100))
    return found


Start = Callable[..., tuple[TrainingConfig, list[events.Event]]]


@pytest.fixture
def start(workspace: Workspace, tmp_path: Path) -> Start:
    """Start a run as far as the remedy; returns its config and events."""

    def begin(*, may_choose: bool = True, is_stopping: bool = False, dataset: Path | None = None):
        machine, said = Machine(weights_folder=tmp_path / "weights"), []
        remedy = MissingWeightsRemedy(
            dataset, workspace, machine, said.append, lambda *_: None, lambda: is_stopping, may_choose, trains=True
        )
        return remedy(TrainingConfig()), said

    return begin


@pytest.mark.usefixtures("hub")
def test_missing_base_weights_are_fetched_where_a_hub_answers(start: Start, tmp_path: Path) -> None:
    config, said = start()
    assert config.pretrained == "auto"
    check_weights(config, Machine(weights_folder=tmp_path / "weights"), prepares=False)  # all are here
    assert "fetching pretrained-v2-40k" in said[0].message
    assert not [event for event in said if isinstance(event, events.Warned)]
    again, said = start()
    assert (again.pretrained, said) == ("auto", [])


@pytest.mark.usefixtures("closed_port")
def test_without_a_hub_the_run_trains_from_scratch_and_so_does_a_later_start(
    start: Start, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    config, said = start()
    assert config.pretrained == "none"
    [warning] = said
    assert "training from scratch" in warning.message
    assert "127.0.0.1 cannot be reached" in warning.message
    assert "-pg" in warning.message
    workspace.recovery.mkdir(parents=True)
    write_entries(workspace.recovery, [CheckpointEntry("step_000000001.pt", 1, 1, 1, "")])
    request.getfixturevalue("hub")  # reachable from now on
    config, said = start()
    assert config.pretrained == "none"
    assert said[0].message == warning.message


@pytest.mark.usefixtures("closed_port")
def test_a_run_that_trained_nothing_yet_uses_weights_that_came_since(
    start: Start, request: pytest.FixtureRequest, workspace: Workspace
) -> None:
    assert start()[0].pretrained == "none"
    request.getfixturevalue("hub")
    BaseWeightsChoice(pretrained="auto").write(workspace)  # as fetched by hand: the same files
    assert start()[0].pretrained == "auto"
    BaseWeightsChoice(pretrained="none").write(workspace)
    assert start()[0].pretrained == "auto"


def test_a_fetch_that_breaks_off_ends_the_command_and_goes_on_at_the_next_start(
    start: Start, hub: ThreadingHTTPServer
) -> None:
    hub.limits = [100_000, 0]
    with pytest.raises(MissingWeights, match=r"the part so far is kept.*--pretrained none"):
        start()
    config, _ = start()
    assert config.pretrained == "auto"
    assert hub.asked[-2].startswith("bytes=")  # the rest of the first file
    assert hub.asked[-2] != "bytes=0-"


@pytest.mark.usefixtures("hub")
def test_a_fetch_ends_when_the_run_is_to_stop(start: Start) -> None:
    with pytest.raises(StopRequested):
        start(is_stopping=True)


@pytest.mark.usefixtures("closed_port")
def test_an_encoder_that_is_missing_too_leaves_the_choice_to_a_start_that_can_run(
    start: Start, workspace: Workspace, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "one.wav", np.zeros(40_000, np.float32), 40_000)
    config, said = start(dataset=tmp_path)
    assert (config.pretrained, said) == ("auto", [])  # the checks of the run name both
    assert not workspace.base_weights_choice.exists()


@pytest.mark.usefixtures("closed_port")
def test_nothing_is_chosen_for_a_run_that_cannot_start_or_goes_on_or_was_told(
    start: Start, workspace: Workspace
) -> None:
    assert start(may_choose=False)[0].pretrained == "auto"
    pair = [workspace.root / name for name in ("G_1.pth", "D_1.pth")]
    for path in pair:
        torch.save({"model": {}, "iteration": 1}, path)
    assert start()[0].pretrained == "auto"
    for path in pair:
        path.unlink()
    next(workspace.features.iterdir()).unlink()
    assert start()[0].pretrained == "auto"
    assert not workspace.base_weights_choice.exists()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command up to its training: `run_engine` prepares the run, reports its config, and ends well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def prepare_only(dataset, workspace, config, machine, report, switch, selection, wait, prepare):
        report(events.Log(message=f"prepared: {prepare(config).pretrained} {machine.pretrained_g}"))
        report(events.Succeeded(message="done"))
        return events.EXIT_SUCCEEDED

    monkeypatch.setattr("rvc_engine.pipeline.process.run_engine", prepare_only)
    return partial(_invoke, "-e", "anna", "-g", "cpu", "--weights", str(tmp_path / "weights"))


def _invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.usefixtures("closed_port", "workspace")
def test_the_command_trains_from_scratch_and_says_so_at_start_and_end(script: Callable[..., Result]) -> None:
    done = script()
    assert "prepared: none" in done.stdout
    assert "done; trained from scratch, without base weights" in done.stdout
    assert "training from scratch" in done.stderr
    log = Path("logs/anna/train.log").read_text()
    assert "options: -e anna -g cpu" in log
    assert '"pretrained":"none"' in log


@pytest.mark.usefixtures("closed_port", "workspace")
@pytest.mark.parametrize(
    "words", [["--pretrained", "none"], ["-pg", "none"], ["-pd", "none"], ["-pg", "none", "-pd", ""]]
)
def test_from_scratch_can_be_asked_for_outright(script: Callable[..., Result], words: list[str]) -> None:
    done = script(*words)
    assert "prepared: none None" in done.stdout
    assert done.stderr == ""
    assert not Path("logs/anna/base_weights.json").exists()


@pytest.mark.usefixtures("closed_port", "workspace")
def test_published_base_weights_that_were_asked_for_are_not_done_without(script: Callable[..., Result]) -> None:
    assert "prepared: auto" in script("--pretrained", "auto").stdout
    assert "prepared: auto" in script("--set", "pretrained=auto").stdout


@pytest.mark.usefixtures("closed_port", "workspace")
def test_the_output_can_be_events_as_json_lines(script: Callable[..., Result]) -> None:
    done = script("--log-format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[-1]["type"] == "succeeded"
    warnings = [row["message"] for row in rows if row["type"] == "warning"]
    assert [text.partition(":")[0] for text in warnings] == ["training from scratch"]
    assert done.stderr == ""
