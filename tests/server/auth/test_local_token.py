"""A server without RVC_TRAIN_TOKEN has a local token, made once, which the client of the same user finds."""

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import httpx
import pytest

from rvc_train.client import Client, connect
from rvc_train.errors import AuthError
from rvc_train.http.authorization import local_token
from rvc_train.local_servers import local_servers_file, read_local_servers
from server.auth.local_token import provide_local_token, release_address
from server.auth.tokens import LOCAL_TOKEN_ID, TokenService
from server.database.tables import LOCAL_OWNER
from tests.systems import IS_WINDOWS, modes, named_pipes

BEFORE = Path(__file__).parents[1] / "storage" / "installation_da175a3"
HERE, THERE = "127.0.0.1:8000", "127.0.0.1:8001"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of local servers of a user who has none yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return local_servers_file()


@pytest.fixture
def tokens(engine, clock):
    made = TokenService(engine, clock, None, session_hours=2)
    made.instance_id = "ins_1"
    return made


@pytest.fixture
def client_at():
    """`client_at(url, token)`: a client, closed at the end; without a token it finds the local one."""
    with contextlib.ExitStack() as stack:
        yield lambda url, token=None: Client(stack.enter_context(connect(url, token)))


def provided(tokens, address=HERE):
    """The token after a start at this address, and what the start printed."""
    printed = list(provide_local_token(tokens, address))
    return local_token(f"http://{address}"), printed


def test_the_first_start_makes_it_and_every_other_start_keeps_it(tokens, file):
    made, printed = provided(tokens)
    assert made is not None
    assert printed == []
    principal = tokens.authenticate(made)
    assert (principal.owner, principal.scopes, principal.token_id) == (LOCAL_OWNER, {"admin"}, LOCAL_TOKEN_ID)
    session_id, _ = tokens.open_session(made)
    assert provided(tokens) == (made, [])
    assert provided(tokens, THERE) == (made, [])
    assert local_token(f"http://{HERE}") == made
    assert tokens.authenticate_session(session_id) is not None


@modes
def test_the_file_is_the_users_alone_and_the_database_has_only_a_hash(tokens, file):
    before = os.umask(0o077)  # as the server sets it
    try:
        made, _ = provided(tokens)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (row,) = tokens.list(after=None, limit=10)[0]
    assert made not in row.model_dump_json()


def test_two_data_folders_that_take_turns_on_one_port_keep_their_tokens(tokens, file, empty_database, tmp_path, clock):
    from server.database.engine import create_engine

    shutil.copy(empty_database, tmp_path / "other.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    other = TokenService(engine, clock, None, session_hours=2)
    other.instance_id = "ins_2"
    first, _ = provided(tokens)
    second, _ = provided(other)
    assert first != second
    assert provided(tokens) == (first, [])
    assert provided(other) == (second, [])
    engine.dispose()


def test_a_token_that_was_revoked_or_lost_is_replaced_at_the_next_start_and_ends_its_sessions(tokens, file):
    made, _ = provided(tokens)
    tokens.revoke(LOCAL_TOKEN_ID)
    assert tokens.authenticate(made) is None
    again, _ = provided(tokens)
    assert again != made
    session_id, _ = tokens.open_session(again)
    file.unlink()
    third, _ = provided(tokens)
    assert tokens.authenticate(third) is not None
    assert tokens.authenticate(again) is None
    assert tokens.authenticate_session(session_id) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ins_1": {"token": "short"}}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_kept_aside_and_a_new_one_is_made(tokens, file, content):
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert local_token(f"http://{HERE}") is None
    made, printed = provided(tokens)
    assert made is not None
    assert printed == []
    assert file.with_name("local-servers.json.bak").read_bytes() == content


@named_pipes
def test_a_pipe_in_place_of_the_file_stops_nobody(tokens, file):
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    assert local_token(f"http://{HERE}") is None
    assert provided(tokens)[0] is not None


def test_without_a_folder_to_write_to_the_token_is_printed_once_with_a_warning(tokens, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("a file, where no folder can be made")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    _, (sentence,) = provided(tokens)
    assert "cannot be recorded in" in sentence
    secret = sentence.rpartition(" ")[2]
    assert tokens.authenticate(secret) is not None
    _, (again,) = provided(tokens)
    assert "the present one stays valid" in again
    assert secret not in again
    assert tokens.authenticate(secret) is not None


@pytest.mark.skipif(IS_WINDOWS, reason="each user of Windows has a folder")
def test_a_user_without_a_home_folder_gets_no_folder_named_like_one(tokens, tmp_path, monkeypatch):
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)  # a user who is in no list, as in some containers
    _, (sentence,) = provided(tokens)
    assert "this user has no home folder" in sentence
    assert [path.name for path in tmp_path.iterdir() if path.name == "~"] == []


def test_a_server_with_a_token_of_its_own_takes_the_address_from_the_one_before(tokens, file):
    made, _ = provided(tokens)
    provided(tokens, THERE)
    release_address(HERE)
    assert local_token(f"http://{HERE}") is None
    assert local_token(f"http://{THERE}") == made
    content = file.read_bytes()
    release_address("127.0.0.1:9")
    assert file.read_bytes() == content


def test_servers_that_start_at_the_same_time_leave_a_whole_file(tokens, file):
    starts = [threading.Thread(target=provided, args=(tokens, f"127.0.0.1:{port}")) for port in range(8000, 8010)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    servers = read_local_servers(file)
    assert set(servers.root) == {"ins_1"}
    assert sorted(servers.root["ins_1"].addresses) == [f"127.0.0.1:{port}" for port in range(8000, 8010)]
    assert tokens.has_local_token(servers.root["ins_1"].token)


@pytest.fixture
def local_station(tmp_path, file, open_station):
    """A real server without RVC_TRAIN_TOKEN, to be started."""
    station = open_station(tmp_path, None)
    yield station
    station.close()


def stop(server):
    server.terminate()
    assert server.wait(60) == 0 or IS_WINDOWS  # where it is killed


def test_a_real_server_keeps_token_and_sessions_over_a_restart_and_limits_no_rate_from_loopback(local_station):
    local_station.environment["RVC_TRAIN_REQUESTS_PER_MINUTE"] = "50"
    server = local_station.start_server()
    url = local_station.url
    first = local_token(url.replace("127.0.0.1", "localhost"))
    with httpx.Client(base_url=url) as browser:
        assert browser.get("/v1/jobs").status_code == 401
        assert browser.post("/v1/session", json={"token": first}).status_code == 204
        assert [browser.get("/v1/me").status_code for _ in range(60)] == [200] * 60
        stop(server)
        local_station.start_server()
        assert local_token(url) == first
        assert browser.get("/v1/me").json()["token_id"] == LOCAL_TOKEN_ID
    assert first not in (local_station.folder / "server.log").read_text()


def test_a_real_server_without_a_home_prints_the_token_once_and_works(local_station, client_at, tmp_path):
    obstacle = tmp_path / "nowhere"
    obstacle.touch()
    local_station.environment |= {"HOME": str(obstacle), "XDG_CONFIG_HOME": str(obstacle / "config")}
    server = local_station.start_server()
    log = local_station.folder / "server.log"
    (sentence,) = [line for line in log.read_text().splitlines() if "cannot be recorded" in line]
    secret = sentence.rpartition(" ")[2]
    assert client_at(local_station.url, secret).access.me().owner == LOCAL_OWNER
    stop(server)
    local_station.start_server()
    assert log.read_text().count(secret) == 1
    assert client_at(local_station.url, secret).access.me().owner == LOCAL_OWNER


def test_the_local_token_opens_everything_that_was_the_local_users_before_an_upgrade(serve, file, tmp_path, client_at):
    shutil.copytree(BEFORE / "files", tmp_path / "data")
    with sqlite3.connect(tmp_path / "data" / "rvc-train.db") as connection:
        connection.executescript((BEFORE / "rvc-train.sql").read_text())
    connection.close()
    with serve(tmp_path / "data", token=None, database_url=None) as server:
        provided(server.context.tokens, server.url.removeprefix("http://"))
        client = client_at(server.url)
        jobs = {job.name: job for job in client.jobs()}
        assert {job.owner for job in jobs.values()} == {LOCAL_OWNER}
        assert {"anna", "waiting"} <= set(jobs)
        assert client.cancel(jobs["waiting"].id).status == "cancelled"
        with pytest.raises(AuthError, match="requires a token"):
            client_at(server.url, "").job(jobs["anna"].id)


def test_the_list_of_tokens_shows_it_and_it_can_be_revoked(serve, tmp_path, file, client_at):
    with serve(tmp_path, token=None) as server:
        provided(server.context.tokens, server.url.removeprefix("http://"))
        client = client_at(server.url)
        (token,) = client.access.tokens()
        assert (token.id, token.owner, [str(scope) for scope in token.scopes]) == (LOCAL_TOKEN_ID, "local", ["admin"])
        client.access.revoke_token(token.id)
        with pytest.raises(AuthError, match=r"the token that was sent is from .*local-servers\.json"):
            client.access.me()
    assert json.loads(file.read_text())
