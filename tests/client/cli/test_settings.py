"""Options override the environment, the environment the config file."""

from pathlib import Path

import pytest

from rvc_train.cli.settings import DEFAULT_SERVER, resolve
from rvc_train.client import connect
from rvc_train.errors import UsageError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('server = "http://file:1"\ntoken = "of the file"\n')
    return path


def test_the_order_is_option_then_environment_then_file(file):
    environment = {"RVC_TRAIN_SERVER": "http://environment:1", "RVC_TRAIN_TOKEN": "of the environment"}
    assert resolve("http://option:1", "of the option", environment, file).server == "http://option:1"
    assert resolve("http://option:1", "of the option", environment, file).token == "of the option"
    assert resolve(None, None, environment, file).server == "http://environment:1"
    assert resolve(None, None, environment, file).token == "of the environment"
    assert resolve(None, None, {}, file).server == "http://file:1"
    assert resolve(None, None, {}, file).token == "of the file"


def test_without_any_it_is_this_machine_and_no_token(tmp_path):
    found = resolve(None, None, {}, tmp_path / "none.toml")
    assert (found.server, found.token) == (DEFAULT_SERVER, None)


@pytest.mark.parametrize("text", ["server = ", "sever = 'a typo'", "server = 8000"])
def test_a_config_file_with_a_mistake_is_named(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml"):
        resolve(None, None, {}, path)


@pytest.mark.parametrize("token", ["schl\u00fcssel-von-hier", "two words", "ends-with-a-line\n"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(UsageError, match="copy it again"):
        connect("http://127.0.0.1:1", token)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.answer = lambda request: request.send_json({})
    with connect(server.url) as http:
        assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_file_of_windows_is_read(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes('server = "http://voices.example"\r\n'.encode(encoding))
    assert resolve(None, None, {}, file).server == "http://voices.example"
