"""A link with a code signs a browser in as its maker: within ten minutes, once, and only while the token is valid."""

import json
from pathlib import Path

import pytest

from rvc_train.schemas.access import Scope, TokenCreate
from server.auth.tokens import TokenService

TEN_MINUTES = 600


@pytest.fixture
def tokens(engine, clock):
    return TokenService(engine, clock, "the-first-token-of-all", session_hours=2)


@pytest.fixture
def annas(tokens):
    """Anna's token and principal."""
    _, secret = tokens.create(TokenCreate(owner="anna", scopes=[Scope.READ]))
    return secret, tokens.authenticate(secret)


def test_a_code_opens_one_session_with_the_rights_of_its_maker(tokens, annas):
    code, _ = tokens.create_code(annas[1])
    session_id, _ = tokens.open_session_with_code(code)
    principal = tokens.authenticate_session(session_id)
    assert (principal.owner, principal.scopes, principal.token_id) == ("anna", {Scope.READ}, annas[1].token_id)
    assert tokens.open_session_with_code(code) is None


def test_rvc_train_token_makes_codes_too(tokens):
    code, _ = tokens.create_code(tokens.authenticate("the-first-token-of-all"))
    session_id, _ = tokens.open_session_with_code(code)
    assert tokens.authenticate_session(session_id).owner == "local"


def test_a_code_is_gone_after_ten_minutes_and_its_row_too(tokens, annas, clock):
    early, late = tokens.create_code(annas[1])[0], tokens.create_code(annas[1])[0]
    clock.advance(TEN_MINUTES - 1)
    assert tokens.open_session_with_code(early) is not None
    clock.advance(1)
    assert tokens.open_session_with_code(late) is None
    tokens.clean_up()
    assert tokens.open_session_with_code(late) is None


def test_a_code_of_a_revoked_token_opens_nothing(tokens, annas):
    code, _ = tokens.create_code(annas[1])
    tokens.revoke(annas[1].token_id)
    assert tokens.open_session_with_code(code) is None


def test_neither_a_code_nor_its_key_is_a_session_and_a_session_is_no_code(tokens, annas):
    code, _ = tokens.create_code(annas[1])
    session_id, _ = tokens.open_session(annas[0])
    assert tokens.open_session_with_code(session_id) is None
    for guess in (code, f"code:{code}"):
        assert tokens.authenticate_session(guess) is None


def test_the_code_is_in_no_path_and_no_log_and_a_used_one_is_told_in_a_sentence(started, tmp_path: Path, authorized):
    import httpx

    _, url = started()
    code = httpx.post(f"{url}/v1/session/code", headers=authorized).json()["code"]
    with httpx.Client(base_url=url) as browser:
        assert browser.post("/v1/session", json={"code": code}).status_code == 204
        assert browser.get("/v1/me").json()["owner"] == "local"
        again = browser.post("/v1/session", json={"code": code}, headers={"Origin": url})
    assert (again.status_code, "rvc-train open" in again.json()["detail"]) == (401, True)
    log = (tmp_path / "server.log").read_text()
    assert code not in log
    assert any(json.loads(line).get("path") == "/v1/session" for line in log.splitlines())


@pytest.mark.parametrize("body", [{}, {"token": "a", "code": "b"}, {"code": ""}])
def test_a_sign_in_is_with_one_thing(serve, tmp_path, body):
    with serve(tmp_path) as server, server.client() as http:
        assert http.post("/v1/session", json=body).status_code == 422


def test_two_servers_on_one_host_have_cookies_of_their_own(serve, tmp_path):
    with serve(tmp_path / "a") as a, serve(tmp_path / "b") as b:
        assert a.context.tokens.cookie != b.context.tokens.cookie
        import httpx

        with httpx.Client() as browser:  # as a browser does, it sends a host's cookies to each port
            for server in (a, b):
                secret = server.context.settings.token.get_secret_value()
                answer = browser.post(f"{server.url}/v1/session", json={"token": secret})
                assert answer.status_code == 204
            for server in (a, b, a):
                assert browser.get(f"{server.url}/v1/me").status_code == 200
            assert browser.delete(f"{a.url}/v1/session", headers={"Origin": a.url}).status_code == 204
            assert [browser.get(f"{server.url}/v1/me").status_code for server in (a, b)] == [401, 200]
