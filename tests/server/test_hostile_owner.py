"""An owner with a valid token takes no more than a share of what the server has, also with many requests at once."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, select

from rvc_train.schemas.access import Scope
from rvc_train.schemas.webhooks import WebhookCreate
from server.auth.principal import Principal
from server.auth.quotas import Quotas
from server.auth.tokens import TokenService
from server.database.clock import utc_now
from server.database.engine import create_engine, migrate, read_session, write_session
from server.database.tables import Delivery, Token, Upload, Webhook
from server.errors import Conflict, QuotaExceeded
from server.settings import ServerSettings
from server.storage.local import Storage
from server.storage.reservations import Reservations
from server.uploads.service import UploadService
from server.webhooks.service import MAX_PENDING_PINGS, MAX_WEBHOOKS, WebhookService, new_webhook

URL = "http://8.8.8.8/"
AT_ONCE = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database of each kind."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'rvc-train.db'}" if is_sqlite else request.getfixturevalue("postgres").new_database()
    engine = create_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


def at_once(action: Callable[[], object], refusal: type[Exception]) -> Counter[str]:
    """Results of the action, done by several at once."""

    def act(_number: int) -> str:
        try:
            action()
        except refusal as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return Counter(threads.map(act, range(AT_ONCE)))


def number(engine: sa.Engine, table: Any) -> int:
    with read_session(engine) as session:
        return int(session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def add(session: Session, *rows: object) -> None:
    for row in rows:
        session.add(row)


def test_of_many_webhooks_created_at_once_none_is_one_too_many(database: sa.Engine) -> None:
    service = WebhookService(database, utc_now)
    request = WebhookCreate(url=URL)
    with write_session(database) as session:
        add(session, *(new_webhook("anna", request, None, utc_now()) for _ in range(MAX_WEBHOOKS - 2)))
    results = at_once(lambda: service.create("anna", request), QuotaExceeded)
    assert results.pop("done") == 2, results
    assert "anna has 100 webhooks, and may have no more" in next(iter(results))
    assert number(database, Webhook) == MAX_WEBHOOKS
    assert service.create("bella", request).owner == "bella"


def test_test_messages_of_a_webhook_do_not_pile_up(database: sa.Engine) -> None:
    service = WebhookService(database, utc_now)
    webhook = service.create("anna", WebhookCreate(url=URL))
    for _ in range(MAX_PENDING_PINGS - 1):
        service.ping("anna", webhook.id)
    results = at_once(lambda: service.ping("anna", webhook.id), Conflict)
    assert results.pop("done") == 1, results
    assert number(database, Delivery) == MAX_PENDING_PINGS


def test_of_many_uploads_begun_at_once_none_is_one_too_many_and_a_finished_one_makes_room(
    database: sa.Engine, tmp_path: Path
) -> None:
    settings = ServerSettings(data_folder=tmp_path, max_unfinished_uploads=3, disk_reserve_bytes=0)
    storage = Storage(tmp_path)
    reservations, quotas = Reservations(storage, settings, utc_now), Quotas(database, settings, utc_now)
    uploads = UploadService(database, storage, settings, reservations, quotas)
    results = at_once(lambda: uploads.create("anna", 10, ""), QuotaExceeded)
    assert results.pop("done") == 3, results
    assert "anna has 3 unfinished uploads" in next(iter(results))
    assert number(database, Upload) == 3
    uploads.create("bella", 10, "")
    uploads.create("anna", 10, "", is_resumable=False)  # the body of one request, which ends with it
    with read_session(database) as session:
        first = session.exec(select(Upload.id).where(Upload.owner == "anna", col(Upload.is_resumable))).first()
    uploads.delete("anna", str(first))
    uploads.create("anna", 10, "")


def test_expired_uploads_do_not_count(engine: sa.Engine, tmp_path: Path, clock: Any) -> None:
    settings = ServerSettings(data_folder=tmp_path, max_unfinished_uploads=1, disk_reserve_bytes=0)
    storage = Storage(tmp_path)
    services = Reservations(storage, settings, clock), Quotas(engine, settings, clock)
    uploads = UploadService(engine, storage, settings, *services, clock)
    uploads.create("anna", 10, "")
    clock.advance(25 * 3600)
    uploads.create("anna", 10, "")


def test_one_upload_too_many_is_answered_with_429_and_what_to_do(serve: Any, tmp_path: Path) -> None:
    with serve(tmp_path, max_unfinished_uploads=1) as server, server.client(**{"Tus-Resumable": "1.0.0"}) as http:
        length = {"Upload-Length": "10"}
        assert http.post("/v1/uploads", headers=length).status_code == 201
        answer = http.post("/v1/uploads", headers=length)
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (429, "quota_exceeded", False)
    assert answer.json()["detail"].endswith("complete one and make a dataset of it, or delete one")


def test_a_token_has_so_many_sessions_and_codes_and_the_newest_stay(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.auth.tokens.MAX_SESSIONS", 5)
    now = utc_now()
    clock = iter(now + timedelta(seconds=number) for number in range(10**6))
    tokens = TokenService(engine, lambda: next(clock), "the-first-token-of-all", 1000)
    with write_session(engine) as session:
        row = {"owner": "anna", "name": "", "begins": "", "scopes": ["read"], "created_at": now}
        add(session, Token(id="tok_1", sha256="1", **row), Token(id="tok_2", sha256="2", **row))
    other = Principal("anna", frozenset({Scope.READ}), "tok_2")
    ours = Principal("anna", frozenset({Scope.READ}), "tok_1")

    def sign_in(principal: Principal) -> str:
        opened = tokens.open_session_with_code(tokens.create_code(principal)[0])
        assert opened is not None
        return opened[0]

    others, first_token = sign_in(other), tokens.open_session("the-first-token-of-all")
    sessions = [sign_in(ours) for _ in range(5 + 3)]
    codes = [tokens.create_code(ours)[0] for _ in range(5 + 1)]
    is_open = [tokens.authenticate_session(each) is not None for each in sessions]
    assert is_open == [False] * 3 + [True] * 5
    assert tokens.authenticate_session(others) is not None
    assert first_token is not None
    assert tokens.authenticate_session(first_token[0]) is not None
    assert [tokens.open_session_with_code(code) is not None for code in (codes[0], codes[1], codes[-1])] == [
        False,
        True,
        True,
    ]


def test_a_query_with_more_labels_than_a_job_has_is_refused(http: httpx.Client) -> None:
    query = "&".join(f"label.k{number}=v" for number in range(2000))
    answer = http.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "label.")
    assert "the query has 2000 labels; at most 32" in answer.json()["detail"]


@pytest.mark.parametrize("url", ["http://8.8.8.8/\u0001", "http://8.8.8.8/a b", "http://8.8.8.8/\u202e"])
def test_a_webhooks_url_with_characters_that_no_request_can_have_is_refused(http: httpx.Client, url: str) -> None:
    answer = http.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "refused")


def test_a_message_that_cannot_be_sent_is_a_failed_attempt_and_not_repeated_at_once(
    serve: Any, tmp_path: Path, eventually: Any
) -> None:
    """A URL of a version that accepted more: the HTTP library refuses it."""
    with serve(tmp_path, webhook_poll_seconds=0.02) as server, server.client() as http:
        webhook = http.post("/v1/webhooks", json={"url": URL}).json()["id"]
        with write_session(server.context.engine) as session:
            session.execute(sa.update(Webhook).values(url="http://[v1.x]/"))
        http.post(f"/v1/webhooks/{webhook}/test")
        log = f"/v1/webhooks/{webhook}/deliveries"
        eventually(lambda: http.get(log).json()["data"][0]["num_tries"] == 1)
        message = http.get(log).json()["data"][0]
        assert message["last_error"]
        assert message["status"] == "pending"
        time.sleep(0.2)  # ten polls
        assert http.get(log).json()["data"][0]["num_tries"] == 1


def test_a_reason_phrase_is_kept_in_part(serve: Any, tmp_path: Path, eventually: Any) -> None:
    import socketserver
    import threading

    class Verbose(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 500 " + b"x" * 30_000 + b"\r\nContent-Length: 0\r\n\r\n")

    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Verbose) as receiver,
        serve(tmp_path, outbound_networks="127.0.0.1", webhook_poll_seconds=0.02) as server,
        server.client() as http,
    ):
        threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{receiver.server_address[1]}/"
        webhook = http.post("/v1/webhooks", json={"url": url}).json()["id"]
        http.post(f"/v1/webhooks/{webhook}/test")
        log = f"/v1/webhooks/{webhook}/deliveries"
        eventually(lambda: http.get(log).json()["data"][0]["last_error"])
        error = http.get(log).json()["data"][0]["last_error"]
        receiver.shutdown()
    assert error.startswith("returned 500 xxx")
    assert len(error) == 200


def test_downloads_that_are_not_read_hold_only_so_many_connections_of_their_owner_and_none_of_others(
    serve: Any, tmp_path: Path
) -> None:
    first = {"Authorization": "Bearer the-first-token-of-all"}
    with serve(tmp_path, token="the-first-token-of-all", max_open_requests=3) as server:
        log = server.context.storage.job_log(server.bench.job().id)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(bytes(64 << 20))
        job = f"/v1/jobs/{log.parent.name}/logs"
        with httpx.Client(base_url=server.url, timeout=20) as http, contextlib.ExitStack() as opened:
            made = http.post("/v1/tokens", json={"owner": "bella"}, headers=first).json()
            for _ in range(3):
                opened.enter_context(http.stream("GET", job, headers=first))
            refused = http.get("/v1/jobs", headers=first)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
            assert refused.headers["Retry-After"] == "10"
            others = {"Authorization": f"Bearer {made['secret']}"}
            assert http.get("/v1/jobs", headers=others).status_code == 200
            assert http.get("/").status_code == 200
            assert http.get("/livez", headers=first).status_code == 200


def test_a_label_with_a_nul_which_would_break_the_queries_of_others_is_refused(live: Any, http: httpx.Client) -> None:
    job = live.bench.job()
    request = {"name": "anna", "dataset_id": live.bench.dataset(), "labels": {"a": "b\0"}}
    assert http.post("/v1/jobs", json=request).status_code == 422
    assert http.patch(f"/v1/jobs/{job.id}", json={"labels": {"a": "b\0"}}).status_code == 422
    assert http.patch(f"/v1/jobs/{job.id}", json={"labels": {"a": "b\n 声"}}).status_code == 200
