"""Authentication: the holder of a token is served, and nobody else."""

import pytest
from pydantic import ValidationError

from rvc_train.local_servers import is_loopback
from server.errors import SettingsRefused
from server.settings import ServerSettings

TOKEN = "a-token-of-some-length"


@pytest.fixture
def with_token(tmp_path, serve):
    with serve(tmp_path, token=TOKEN) as server, server.client() as http:
        yield http


PROTECTED = [
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/datasets"),
    ("PUT", "/v1/datasets/a/content"),
    ("GET", "/v1/queue"),
    ("GET", "/v1/workers"),
    ("GET", "/v1/system"),
    ("GET", "/v1/config-schema"),
    ("GET", "/v1/jobs/job_x"),
    ("DELETE", "/v1/jobs/job_x"),
    ("POST", "/v1/jobs/job_x/cancel"),
    ("GET", "/v1/jobs/job_x/events"),
    ("GET", "/v1/jobs/job_x/logs"),
    ("GET", "/v1/jobs/job_x/artifacts/a.pth"),
    ("GET", "/v1/nothing"),
]


def test_with_a_token_every_route_of_the_interface_wants_it(with_token):
    for method, path in PROTECTED:
        answer = with_token.request(method, path)
        assert (answer.status_code, answer.headers["www-authenticate"][:6]) == (401, "Bearer"), path
        assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer \u00e9".encode()])
def test_a_wrong_token_is_401(with_token, value):
    assert with_token.get("/v1/jobs", headers={"Authorization": value}).status_code == 401


def test_the_token_opens_every_door_by_any_host_name(with_token):
    headers = {"Authorization": f"bearer {TOKEN}", "Host": "voices.example"}
    assert with_token.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/openapi.json", "/docs", "/static/docs.js"])
def test_what_tells_nothing_of_anyone_is_open(with_token, path):
    assert with_token.get(path).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "voices.example"])
def test_without_rvc_train_token_too_no_request_is_served_without_a_token(tmp_path, serve, host):
    with serve(tmp_path, token=None) as server, server.client(Host=host) as http:
        assert [http.request(method, path).status_code for method, path in PROTECTED] == [401] * len(PROTECTED)


def test_a_server_beyond_loopback_needs_a_token_and_says_how_to_make_one():
    with pytest.raises(SettingsRefused, match=r"secrets\.token_urlsafe"):
        ServerSettings(host="0.0.0.0").check_exposure()  # noqa: S104 - that it is refused is the point
    ServerSettings(host="0.0.0.0", token=TOKEN).check_exposure()  # noqa: S104
    ServerSettings(host="127.0.0.1").check_exposure()


def test_a_short_token_is_refused():
    with pytest.raises(ValidationError, match="shorter than 16"):
        ServerSettings(token="short")


@pytest.mark.parametrize("token", ["schl\u00fcssel-zum-server", "a token of some length", "a-token-with-an-end\n"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(ValidationError, match="no HTTP header can carry"):
        ServerSettings(token=token)


def test_an_empty_token_in_the_environment_is_none_and_a_refused_one_is_not_shown(monkeypatch):
    monkeypatch.setenv("RVC_TRAIN_TOKEN", "")
    assert ServerSettings().token is None
    monkeypatch.setenv("RVC_TRAIN_TOKEN", "hunter2")
    with pytest.raises(ValidationError) as refused:
        ServerSettings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("10.0.0.1", False),
        ("box", False),
    ],
)
def test_loopback_is_told_from_the_world(host, expected):
    assert is_loopback(host) is expected


def test_the_token_does_not_show_in_the_settings_text():
    assert TOKEN not in repr(ServerSettings(token=TOKEN))
