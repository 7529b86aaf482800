"""The client sends a local token to its own server on this machine and to no other address."""

import pytest

from rvc_train.cli.settings import resolve
from rvc_train.client import Client, connect
from rvc_train.errors import AuthError
from rvc_train.http.authorization import local_file_fault, local_token
from rvc_train.local_servers import LocalServers, local_servers_file

TOKEN = "rvct_the-local-token-of-this-server"


@pytest.fixture
def record(tmp_path, monkeypatch):
    """`record("127.0.0.1:8000")`: a server of this user has run there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(*addresses):
        servers = LocalServers()
        for address in addresses:
            servers = servers.updated("ins_1", TOKEN, address)
        local_servers_file().parent.mkdir(exist_ok=True)
        local_servers_file().write_text(servers.model_dump_json())

    write("127.0.0.1:8000")
    return write


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_names_of_loopback_are_one_by_port(record, host):
    assert local_token(f"http://{host}:8000") == TOKEN
    assert local_token(f"http://{host}:8001") is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.evil.example:8000",
        "http://localhost.evil.example:8000",
        "http://127.0.0.1@evil.example:8000",
        "http://evil.example:8000/127.0.0.1:8000",
        "http://evil.example:8000#@127.0.0.1:8000",
        "http://192.168.1.5:8000",
        "http://0.0.0.0:8000",
        "http://[::ffff:127.0.0.1]:8000",
        "http://127.0.0.2:8000",
        "http://",
        "no address",
        "http://[",
    ],
)
def test_no_other_address_gets_it(record, url):
    record("127.0.0.1:8000", "192.168.1.5:8000", "evil.example:8000")
    assert local_token(url) is None
    assert resolve(url, None, {}).token is None


def test_an_answer_that_names_another_address_does_not_get_it_there(record, server):
    record(server.url.removeprefix("http://"))
    server.answer = lambda request: request.send_json({})
    with connect(server.url) as http:
        http.get("/v1/jobs")
        http.get(server.url.replace("127.0.0.1", "localhost") + "/v1/elsewhere")
    sent = [headers.get("Authorization") for _, _, headers, _ in server.seen]
    assert sent == [f"Bearer {TOKEN}", None]


def test_the_order_is_option_environment_local_token_config_file(record, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('server = "https://elsewhere.example"\ntoken = "of-the-server-elsewhere"\n')
    here, environment = "http://localhost:8000", {"RVC_TRAIN_TOKEN": "of the environment"}
    found = [
        resolve(here, "of the option", environment, file),
        resolve(here, None, environment, file),
        resolve(here, None, {}, file),
        resolve(None, None, {}, file),
        resolve("http://localhost:8001", None, {}, file),
    ]
    assert [each.token for each in found] == [
        "of the option",
        "of the environment",
        TOKEN,
        "of-the-server-elsewhere",
        "of-the-server-elsewhere",
    ]
    sources = ["--token", "RVC_TRAIN_TOKEN", str(local_servers_file()), str(file), str(file)]
    assert [each.token_source for each in found] == sources


def test_a_401_says_where_the_token_that_was_sent_came_from(record, server):
    server.answer = lambda request: request.send_problem(401, "unauthorized", "invalid token")
    for source in ("--token", "/home/me/.config/rvc-train/config.toml"):
        with connect(server.url, "a-wrong-token", source) as http, pytest.raises(AuthError) as refused:
            Client(http).access.me()
        assert str(refused.value) == f"invalid token; the token that was sent is from {source}"
    with connect(server.url, "") as http, pytest.raises(AuthError, match=r"^invalid token$"):
        Client(http).access.me()


@pytest.mark.parametrize("content", ["{", '{"ins_1": {"token": "x"}}', '{"ins_1": {"token": "with a space in it"}}'])
def test_a_damaged_file_is_ignored_and_named(record, content):
    local_servers_file().write_text(content)
    assert local_token("http://localhost:8000") is None
    assert str(local_servers_file()) in (local_file_fault() or "")


def test_no_proxy_of_the_environment_gets_it(record, monkeypatch, server):
    record(server.url.removeprefix("http://"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answer = lambda request: request.send_json({})
    with connect(server.url) as http:
        assert http.get("/v1/jobs").status_code == 200
