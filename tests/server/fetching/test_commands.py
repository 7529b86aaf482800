"""`rvc-train dataset fetch` and the client, against a server and a web server on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rvc_train import Client, connect
from rvc_train.cli.main import app
from rvc_train.schemas.datasets import DatasetStatus
from tests.web_files import WebFile, WebFiles, web_files

WAV = b"RIFF" + bytes(2000)


@pytest.fixture(scope="module")
def server(serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve_for_module(tmp_path_factory.mktemp("data"), outbound_networks="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def web() -> Iterator[WebFiles]:
    with web_files() as files:
        files.files |= {
            "/1.wav": WebFile(WAV),
            "/2.wav": WebFile(WAV),
            "/page": WebFile(b"<p>", {"Content-Type": "text/html"}),
        }
        yield files


@pytest.fixture
def command(server: Any, authorized: dict[str, str]) -> Callable[..., Result]:
    token = authorized["Authorization"].removeprefix("Bearer ")
    where = ["--server", server.url, "--token", token]
    return lambda *words: CliRunner().invoke(app, ["dataset", *words, *where])


def test_the_command_waits_for_the_download_and_tells_its_end(command: Callable[..., Result], web: WebFiles) -> None:
    done = command("fetch", f"{web.url}/1.wav", f"{web.url}/2.wav", "--name", "anna")
    assert done.exit_code == 0, done.output
    assert "anna  4.0 kB in 2 files" in done.output
    refused = command("fetch", f"{web.url}/page", "--name", "page")
    assert refused.exit_code == 1
    assert "answers with text/html, not with a recording" in " ".join(refused.output.split())
    never = command("fetch", "http://192.168.0.1/1.wav", "--name", "private")
    assert never.exit_code == 1
    assert "not public" in " ".join(never.output.split())


def test_the_command_may_leave_the_download_to_the_server(command: Callable[..., Result], web: WebFiles) -> None:
    begun = command("fetch", f"{web.url}/1.wav", "--name", "later", "--detach")
    assert begun.exit_code == 0, begun.output
    assert "ingesting" in begun.output
    assert "cancel it with: rvc-train dataset delete ds_" in begun.output


def test_the_client_has_the_server_download(
    server: Any, authorized: dict[str, str], web: WebFiles, eventually: Callable[..., None], tmp_path: Path
) -> None:
    token = authorized["Authorization"].removeprefix("Bearer ")
    with Client(connect(server.url, token), memory=tmp_path) as client:
        made = client.fetch_dataset(f"{web.url}/1.wav", "client", zip_names="gbk")
        assert (made.name, made.status, made.fetch is not None) == ("client", DatasetStatus.INGESTING, True)
        eventually(lambda: client.dataset(made.id).status == DatasetStatus.READY)
        assert client.dataset(made.id).zip_names == "gbk"
