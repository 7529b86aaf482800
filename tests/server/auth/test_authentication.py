"""Authentication: the holder of a token is served, or, without tokens, only this machine."""

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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:8000", 200),
        ("voices.example", 403),
        ("localhost.example", 403),
        ("127.0.0.1.nip.io", 403),
        ("[::1", 403),
    ],
)
def test_without_a_token_only_names_of_this_machine_are_served(http, host, status):
    assert http.get("/v1/jobs", headers={"Host": host}).status_code == status


def test_the_loopback_address_that_the_server_listens_on_is_a_name_of_it(tmp_path, serve):
    with serve(tmp_path, host="127.0.0.2") as server, server.client() as http:
        assert http.get("/v1/jobs", headers={"Host": "127.0.0.2:8000"}).status_code == 200
        assert http.get("/v1/jobs", headers={"Host": "127.0.0.3"}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example", "http://[", ""]
)
def test_without_a_token_a_page_from_elsewhere_may_read_nothing_into_being(http, live, origin):
    before = len(live.context.jobs.list(limit=100)[0])
    answer = http.post("/v1/jobs", headers={"Origin": origin}, json={"name": "a", "dataset_id": live.bench.dataset()})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert http.put("/v1/datasets/a/content", headers={"Origin": origin}, content=b"RIFF").status_code == 403
    assert len(live.context.jobs.list(limit=100)[0]) == before


def test_without_a_token_the_servers_own_page_may_write(http, live):
    request = {"name": "a", "dataset_id": live.bench.dataset()}
    assert http.post("/v1/jobs", headers={"Origin": live.url}, json=request).status_code == 202


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
