"""Tokens, sessions, quotas, the trail, rate limits; and owners who do not see each other."""

import contextlib
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from rvc_train.schemas.access import Scope
from server.app import _periodic_tasks, _tasks_on_every_server, create_app
from server.auth.audit import AuditTrail
from server.auth.authentication import REJECTION_ENTRIES_PER_MINUTE, AuthThrottle
from server.auth.tokens import TokenService
from server.database.engine import read_session, write_session
from server.database.tables import BrowserSession, Token
from server.errors import TooManyRequests
from server.http.rate_limit import RateLimit, network_of
from server.settings import ServerSettings

FIRST = "the-first-token-of-all"
READ, SUBMIT, ADMIN = "read", "submit", "admin"


def upload(client: httpx.Client, content: bytes, name: str = "mine") -> dict[str, Any]:
    answer = client.put(f"/v1/datasets/{name}/content", content=b"RIFF" + content)
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def submit(client: httpx.Client, dataset: dict[str, Any], **more: Any) -> httpx.Response:
    return client.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset["id"], **more})


def test_owners_do_not_see_each_other(holder: Callable[..., httpx.Client], administrator: httpx.Client) -> None:
    anna, bob = holder("anna", SUBMIT), holder("bob", SUBMIT)
    dataset = upload(anna, b"one")
    job = submit(anna, dataset).json()
    hook = anna.post("/v1/webhooks", json={"url": "https://93.184.216.34/"}).json()
    tus = {"Tus-Resumable": "1.0.0"}
    begun = anna.post("/v1/uploads", headers=tus | {"Upload-Length": "5"}).headers["location"]
    for path in (
        f"/v1/jobs/{job['id']}",
        f"/v1/jobs/{job['id']}/events",
        f"/v1/jobs/{job['id']}/logs",
        f"/v1/jobs/{job['id']}/artifacts.zip",
        f"/v1/datasets/{dataset['id']}",
        f"/v1/webhooks/{hook['id']}/deliveries",
    ):
        theirs, unknown = bob.get(path), bob.get(path.replace(job["id"], "job_0").replace(dataset["id"], "ds_0"))
        assert theirs.status_code == 404, path
        assert theirs.json()["detail"].startswith("there is no "), path
        assert unknown.status_code == 404 or "webhooks" in path
        assert anna.get(path).status_code != 404 or path.endswith(".zip")
        assert administrator.get(path).status_code != 404 or path.endswith(".zip")
    assert bob.head(begun, headers=tus).status_code == 404
    assert bob.post(f"/v1/jobs/{job['id']}/cancel").status_code == 404
    assert bob.delete(f"/v1/datasets/{dataset['id']}").status_code == 404
    for path in ("/v1/jobs", "/v1/datasets", "/v1/webhooks"):
        assert bob.get(path).json()["data"] == [], path
        assert len(anna.get(path).json()["data"]) == 1, path
    refused = submit(bob, dataset)
    assert (refused.status_code, "there is no dataset" in refused.json()["detail"]) == (422, True)
    assert submit(bob, {"id": "ds_0"}).json()["detail"].replace("ds_0", dataset["id"]) == refused.json()["detail"]
    upload_id = begun.rpartition("/")[2]
    assert bob.post("/v1/datasets", json={"name": "x", "upload_id": upload_id}).status_code == 404
    assert bob.post("/v1/datasets", json={"name": "x", "sha256": dataset["sha256"]}).status_code == 404
    assert upload(bob, b"one")["id"] != dataset["id"]
    assert job["id"] in {each["id"] for each in administrator.get("/v1/jobs").json()["data"]}
    queue = bob.get("/v1/queue").json()
    assert job["id"] not in str(queue)


def test_the_same_idempotency_key_of_two_owners_makes_two_jobs(holder: Callable[..., httpx.Client]) -> None:
    ids = set()
    for owner in ("carl", "dora"):
        client = holder(owner, SUBMIT)
        request = {"name": "anna", "dataset_id": upload(client, b"two")["id"]}
        answers = [client.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
        ids.add(answers[0].json()["id"])
    assert len(ids) == 2


def test_a_token_is_told_once_and_kept_as_a_hash(administrator: httpx.Client, guarded: Any) -> None:
    made = administrator.post("/v1/tokens", json={"owner": "erik", "name": "laptop"}).json()
    listed = next(each for each in administrator.get("/v1/tokens").json()["data"] if each["id"] == made["id"])
    assert made["secret"].startswith(listed["begins"])
    assert "secret" not in listed
    assert "sha256" not in listed
    database = guarded.context.storage.root
    stored = b"".join(path.read_bytes() for path in database.glob("rvc-train.db*"))
    assert made["secret"].encode() not in stored
    assert FIRST.encode() not in stored


def test_a_revoked_or_expired_token_opens_nothing(administrator: httpx.Client, guarded: Any) -> None:
    made = administrator.post("/v1/tokens", json={"owner": "frida"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    with guarded.client(**headers) as http:
        assert http.get("/v1/me").json()["scopes"] == ["submit"]
        assert administrator.delete(f"/v1/tokens/{made['id']}").status_code == 204
        assert http.get("/v1/me").status_code == 401
    short = administrator.post("/v1/tokens", json={"owner": "frida", "expires_in_days": 1e-9}).json()
    with guarded.client(Authorization=f"Bearer {short['secret']}") as http:
        assert http.get("/v1/me").status_code == 401
    assert administrator.delete("/v1/tokens/tok_none").status_code == 404


def test_the_trail_tells_who_did_what(holder: Callable[..., httpx.Client], administrator: httpx.Client) -> None:
    client = holder("jana", SUBMIT)
    dataset = upload(client, b"five")
    job = submit(client, dataset).json()
    client.post(f"/v1/jobs/{job['id']}/cancel", headers={"X-Request-ID": "the-cancel"})
    client.delete(f"/v1/jobs/{job['id']}")
    client.delete(f"/v1/datasets/{dataset['id']}")
    trail = administrator.get("/v1/audit", params={"actor": "jana"}).json()["data"]
    assert [each["action"] for each in trail] == [
        "dataset.deleted",
        "job.deleted",
        "job.cancelled",
        "job.submitted",
        "dataset.admitted",
    ]
    assert all(each["token_id"].startswith("tok_") and each["address"] == "127.0.0.1" for each in trail)
    assert trail[2]["request_id"] == "the-cancel"
    mine = administrator.get("/v1/audit", params={"action": "token.created", "limit": 1}).json()
    assert mine["data"][0]["actor"] == "local"
    after = administrator.get("/v1/audit", params={"actor": "jana", "limit": 2}).json()
    rest = administrator.get("/v1/audit", params={"actor": "jana", "after": after["next_cursor"]}).json()
    assert [each["number"] for each in after["data"] + rest["data"]] == [each["number"] for each in trail]


def test_what_was_refused_is_not_in_the_trail_as_done(
    holder: Callable[..., httpx.Client], administrator: httpx.Client
) -> None:
    client = holder("karl", SUBMIT)
    job = submit(client, upload(client, b"six")).json()
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 409
    actions = [each["action"] for each in administrator.get("/v1/audit", params={"actor": "karl"}).json()["data"]]
    assert actions == ["job.submitted", "dataset.admitted"]


def test_a_browser_signs_in_by_a_cookie_that_other_sites_cannot_use(guarded: Any, administrator: httpx.Client) -> None:
    made = administrator.post("/v1/tokens", json={"owner": "lena"}).json()
    with guarded.client() as http:
        assert http.post("/v1/session", json={"token": "wrong"}).status_code == 401
        answer = http.post("/v1/session", json={"token": made["secret"]})
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/"))
        assert made["secret"].lower() not in cookie
        assert http.get("/v1/me").json()["owner"] == "lena"
        own, other = {"Origin": guarded.url}, {"Origin": "https://evil.example"}
        assert http.put("/v1/datasets/a/content", content=b"RIFF", headers=other).status_code == 403
        assert http.put("/v1/datasets/a/content", content=b"RIFF").status_code == 403
        assert http.put("/v1/datasets/a/content", content=b"RIFF", headers=own).status_code == 201
        (name, stolen), *others = http.cookies.items()
        assert (name, others) == (guarded.context.tokens.cookie, [])
        assert http.delete("/v1/session", headers=own).status_code == 204
        http.cookies.set(name, stolen)
        assert http.get("/v1/me").status_code == 401


def test_revoking_a_token_ends_its_sessions(guarded: Any, administrator: httpx.Client) -> None:
    made = administrator.post("/v1/tokens", json={"owner": "mona"}).json()
    with guarded.client() as http:
        http.post("/v1/session", json={"token": made["secret"]})
        assert http.get("/v1/me").status_code == 200
        administrator.delete(f"/v1/tokens/{made['id']}")
        assert http.get("/v1/me").status_code == 401


def test_whoever_asks_too_often_is_told_when_to_come_again(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST, requests_per_minute=30, refusals_per_minute=3) as server:
        with server.client(Authorization=f"Bearer {FIRST}") as http:
            answers = [http.get("/v1/me") for _ in range(32)]
            assert [answer.status_code for answer in answers[:30]] == [200] * 30
            assert (answers[31].status_code, answers[31].json()["code"]) == (429, "too_many_requests")
            assert 1 <= int(answers[31].headers["retry-after"]) <= 60
        with server.client(Authorization="Bearer wrong") as http:
            assert [http.get("/v1/me").status_code for _ in range(5)] == [401, 401, 401, 429, 429]


def test_a_bucket_fills_with_time_and_no_further() -> None:
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.take("a") for _ in range(60)] == [0] * 60
    assert limit.take("a") == pytest.approx(1)
    assert limit.take("b") == 0
    now[0] = 2
    assert [limit.take("a") for _ in range(2)] == [0, 0]
    assert limit.take("a") > 0
    now[0] = 10_000
    assert [limit.take("a") for _ in range(60)] == [0] * 60
    assert limit.take("a") > 0


def test_a_server_without_a_token_knows_tokens_all_the_same(live: Any) -> None:
    with live.client() as http:
        assert http.get("/v1/me").json()["owner"] == "local"
        made = http.post("/v1/tokens", json={"owner": "nina", "scopes": ["read"]}).json()
        with live.client(Authorization=f"Bearer {made['secret']}") as nina:
            assert nina.get("/v1/me").json()["owner"] == "nina"
            assert nina.put("/v1/datasets/a/content", content=b"RIFF").status_code == 403
        with live.client(Authorization="Bearer wrong") as other:
            assert other.get("/v1/me").status_code == 401


@pytest.mark.parametrize(
    "body", [{"owner": "Anna"}, {"owner": "a b"}, {"owner": "a", "scopes": []}, {"owner": "a", "scopes": ["root"]}]
)
def test_a_token_that_cannot_be_is_refused(administrator: httpx.Client, body: dict[str, Any]) -> None:
    assert administrator.post("/v1/tokens", json=body).status_code == 422


def test_scopes_are_few() -> None:
    assert {str(scope) for scope in Scope} == {READ, SUBMIT, "work", ADMIN}


def test_an_administrator_sees_everyones_things_or_one_owners(
    holder: Callable[..., httpx.Client], administrator: httpx.Client
) -> None:
    olga, pia = holder("olga", SUBMIT), holder("pia", SUBMIT)
    for client in (olga, pia):
        submit(client, upload(client, b"ten"))
        client.post("/v1/webhooks", json={"url": "https://93.184.216.34/"})
    for path in ("/v1/jobs", "/v1/datasets"):
        owners = {each["owner"] for each in administrator.get(path, params={"limit": 100}).json()["data"]}
        assert owners >= {"olga", "pia"}
        assert {each["owner"] for each in administrator.get(path, params={"owner": "pia"}).json()["data"]} == {"pia"}
        assert len(olga.get(path, params={"owner": "olga"}).json()["data"]) == 1
    assert len(administrator.get("/v1/webhooks", params={"owner": "pia"}).json()["data"]) == 1
    for path in ("/v1/jobs", "/v1/datasets", "/v1/webhooks"):
        refused = [olga.get(path, params={"owner": owner}) for owner in ("pia", "nobody")]
        assert [answer.status_code for answer in refused] == [403, 403]
        assert refused[0].json()["detail"] == refused[1].json()["detail"]
    theirs = pia.get("/v1/jobs").json()["data"][0]["id"]
    assert olga.get("/v1/jobs", params={"after": theirs}).status_code == 422  # an id is no cursor


def test_guessing_at_the_sign_in_is_limited_and_told_like_guessing_anywhere(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    with serve(tmp_path, token=FIRST, refusals_per_minute=4) as server, server.client() as http:
        guesses = [http.post("/v1/session", json={"token": f"guess {i}"}) for i in range(3)]
        assert [answer.json()["code"] for answer in guesses] == ["unauthorized"] * 3
        assert http.get("/v1/me", headers={"Authorization": "Bearer guess"}).status_code == 401
        refused = http.post("/v1/session", json={"token": "guess"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert http.post("/v1/session", json={"token": FIRST}).status_code == 204  # the right one is let in
        trail = http.get("/v1/audit").json()["data"]
        assert [each["action"] for each in trail] == ["session.opened"] + ["token.refused"] * 4
        assert [each["target"] for each in trail[1:]] == ["/v1/me"] + ["/v1/session"] * 3
        assert {each["address"] for each in trail} == {"127.0.0.1"}
        assert "guess" not in str(trail)


def test_guesses_from_many_addresses_do_not_fill_the_trail(engine: sa.Engine) -> None:
    throttle = AuthThrottle(None, AuditTrail(engine, lambda: datetime.now(UTC)), lambda _: False)

    async def guess() -> None:
        for i in range(REJECTION_ENTRIES_PER_MINUTE + 10):
            await throttle.reject(f"10.0.{i}.1", "/v1/me", "r")

    anyio.run(guess)
    lines, _ = AuditTrail(engine, lambda: datetime.now(UTC)).list(
        actor=None, action=None, target=None, after=None, limit=1000
    )
    assert REJECTION_ENTRIES_PER_MINUTE <= len(lines) <= REJECTION_ENTRIES_PER_MINUTE + 2


def test_an_ipv6_host_cannot_guess_from_each_of_its_addresses(engine: sa.Engine) -> None:
    throttle = AuthThrottle(2, AuditTrail(engine, lambda: datetime.now(UTC)), lambda _: False)

    async def guess() -> None:
        for i in range(2):
            await throttle.reject(f"2001:db8:1:2::{i}", "/v1/me", "r")
        await throttle.reject("2001:db8:1:3::1", "/v1/me", "r")
        with pytest.raises(TooManyRequests):
            await throttle.reject("2001:db8:1:2::9", "/v1/me", "r")

    anyio.run(guess)


def test_whoever_shows_no_token_is_limited_by_address(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST, requests_per_minute=5) as server, server.client() as http:
        assert [http.get("/sign-in").status_code for _ in range(7)] == [200] * 5 + [429] * 2
        for path in ("/livez", "/readyz"):
            assert {http.get(path, headers={"Authorization": word}).status_code for word in ("Bearer old", "")} == {200}
        assert http.get("/v1/me", headers={"Authorization": f"Bearer {FIRST}"}).status_code == 200


class Statements:
    """Statements that a server's database executes."""

    def __init__(self, engine: sa.Engine) -> None:
        self.texts: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", lambda _c, _cursor, text, *_: self.texts.append(text))

    def count(self, part: str) -> int:
        return sum(part in text for text in self.texts)


def test_an_address_over_the_limit_of_wrong_tokens_costs_no_look_up(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST, refusals_per_minute=3) as server, server.client() as http:
        first = {"Authorization": f"Bearer {FIRST}"}
        made, old = (http.post("/v1/tokens", json={"owner": name}, headers=first).json() for name in ("anna", "bob"))
        with write_session(server.context.engine) as session:
            session.get_one(Token, old["id"]).expires_at = datetime.now(UTC)
        statements = Statements(server.context.engine)
        guesses = [http.get("/v1/me", headers={"Authorization": f"Bearer guess{i}"}).status_code for i in range(30)]
        guesses += [http.post("/v1/session", json={"token": f"guess{i}"}).status_code for i in range(30)]
        assert guesses == [401] * 3 + [429] * 57
        assert http.get("/v1/me", headers={"Authorization": f"Bearer {old['secret']}"}).status_code == 429
        assert statements.count("FROM tokens") == 3 + 1  # each look-up below the limit, and one for all tokens above it
        for secret in (FIRST, made["secret"]):  # valid, and never used before
            assert http.get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
            assert httpx.post(f"{server.url}/v1/session", json={"token": secret}).status_code == 204


def test_a_session_that_is_none_costs_no_look_up_above_the_limit(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST, requests_per_minute=5) as server, server.client() as http:
        assert http.post("/v1/session", json={"token": FIRST}).status_code == 204
        statements, cookie = Statements(server.context.engine), next(iter(http.cookies))
        for number in range(20):
            httpx.get(f"{server.url}/v1/me", headers={"Cookie": f"{cookie}=guess{number}"})
        assert statements.count("FROM sessions") <= 4 + 1
        assert http.get("/v1/me").status_code == 200


def test_readiness_is_checked_at_most_once_a_second(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, token=FIRST) as server, server.client() as http:
        statements, began = Statements(server.context.engine), time.monotonic()
        for _ in range(20):
            assert http.get("/readyz").json()["status"] == "ok"
        assert statements.count("UPDATE alembic_version") <= 1 + (time.monotonic() - began)


def test_one_caller_has_no_more_than_so_many_streams_and_uploads(
    serve: Callable[..., Any], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with serve(tmp_path, token=FIRST, max_streams=2, max_uploads=1) as server, contextlib.ExitStack() as opened:
        http = opened.enter_context(server.client(Authorization=f"Bearer {FIRST}"))
        bob = http.post("/v1/tokens", json={"owner": "bob", "scopes": ["admin"]}).json()["secret"]
        path, accept = f"/v1/jobs/{server.bench.job().id}/events", {"Accept": "text/event-stream"}

        def follow(secret: str = FIRST) -> httpx.Response:
            headers = accept | {"Authorization": f"Bearer {secret}"}
            with http.stream("GET", path, headers=headers) as answer:
                if answer.status_code != 200:
                    answer.read()
                return answer

        streams = [http.send(http.build_request("GET", path, headers=accept), stream=True) for _ in range(2)]
        refused = follow()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert "2 streams at the same time" in refused.json()["detail"]
        assert follow(bob).status_code == 200
        streams[0].close()
        eventually(lambda: follow().status_code == 200)  # one that has ended counts no more
        streams[1].close()

        slow = opened.enter_context(socket.create_connection((http.base_url.host, http.base_url.port)))
        head = f"PUT /v1/datasets/a/content HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {FIRST}\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\nRIFF".encode())
        eventually(lambda: server.context.open_uploads._num_open["local"] == 1)
        refused = http.put("/v1/datasets/b/content", content=b"RIFF")
        assert (refused.status_code, "1 of your uploads" in refused.json()["detail"]) == (429, True)
        slow.close()
        eventually(lambda: http.put("/v1/datasets/b/content", content=b"RIFF").status_code != 429)


def test_the_addresses_of_one_ipv6_host_are_one() -> None:
    same = {network_of(each) for each in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:0db8:1:2:0::9%eth0")}
    assert same == {"2001:db8:1:2::/64"}
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("") == ""


def test_a_caller_with_many_addresses_drops_nobody_elses_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.rate_limit.MAX_BUCKETS", 5)
    now = [0.0]
    limit = RateLimit(2, lambda: now[0])
    assert [limit.take("guesser") for _ in range(2)] == [0, 0]
    for number in range(20):
        limit.take(f"address {number}")
    assert limit.take("guesser") > 0
    assert limit.take("address 0") == 0
    assert limit.take("yet another") > 0  # those for whom no bucket is left share one
    assert len(limit._buckets) == 6
    now[0] = 61
    assert limit.take("yet another") == 0
    assert len(limit._buckets) == 1  # full ones mean nothing


def test_writes_are_limited_more_strictly_than_looks(serve: Callable[..., Any], tmp_path: Path) -> None:
    limits = {"requests_per_minute": 100, "writes_per_minute": 2}
    with serve(tmp_path, token=FIRST, **limits) as server, server.client(Authorization=f"Bearer {FIRST}") as http:
        assert [http.put("/v1/retention", json={}).status_code for _ in range(4)] == [200, 200, 429, 429]
        assert http.get("/v1/retention").status_code == 200


def test_a_tokens_last_use_is_told_at_once_and_written_down_later(live: Any) -> None:
    with live.client() as http:
        made = http.post("/v1/tokens", json={"owner": "rosa"}).json()
        with live.client(Authorization=f"Bearer {made['secret']}") as rosa:
            rosa.get("/v1/me")
        response = next(each for each in http.get("/v1/tokens").json()["data"] if each["id"] == made["id"])
        assert response["last_used_at"] is not None
        with read_session(live.context.engine) as session:
            assert session.get_one(Token, made["id"]).last_used_at is None
        live.context.tokens.clean_up()
        with read_session(live.context.engine) as session:
            assert session.get_one(Token, made["id"]).last_used_at is not None


def test_sessions_end_by_themselves_and_are_forgotten(engine: sa.Engine, clock: Any) -> None:
    job_service = TokenService(engine, clock, FIRST, session_hours=2)
    opened = job_service.open_session(FIRST)
    assert opened is not None
    assert job_service.authenticate_session(opened[0]) is not None
    clock.advance(2 * 3600)
    assert job_service.authenticate_session(opened[0]) is None
    job_service.clean_up()
    with read_session(engine) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(BrowserSession)).scalar() == 0


def test_another_first_token_ends_the_sessions_of_the_one_before(engine: sa.Engine, clock: Any) -> None:
    opened = TokenService(engine, clock, FIRST, session_hours=2).open_session(FIRST)
    assert opened is not None
    assert TokenService(engine, clock, FIRST, session_hours=2).authenticate_session(opened[0]) is not None
    assert TokenService(engine, clock, "another-first-token", session_hours=2).authenticate_session(opened[0]) is None


def test_the_cookie_is_for_tls_alone_where_there_is_tls(engine: sa.Engine, tmp_path: Path) -> None:
    app = create_app(ServerSettings(data_folder=tmp_path, database_url=str(engine.url), token=FIRST))
    for scheme in ("http", "https"):
        answer = TestClient(app, f"{scheme}://voices.example").post("/v1/session", json={"token": FIRST})
        assert ("Secure" in answer.headers["set-cookie"]) == (scheme == "https")
        assert ("strict-transport-security" in answer.headers) == (scheme == "https")
    app.state.context.engine.dispose()


def test_the_trail_is_kept_for_so_many_days(engine: sa.Engine, clock: Any) -> None:
    trail = AuditTrail(engine, clock)
    for day in range(3):
        trail.record_rejected_token("", f"/{day}", "")
        clock.advance(86_400)
    trail.delete_old(2.5)
    lines, _ = trail.list(actor=None, action=None, target=None, after=None, limit=10)
    assert [line.target for line in lines] == ["/2", "/1"]


def test_housekeeping_does_what_tokens_sizes_and_the_trail_need(tmp_path: Path) -> None:
    app = create_app(ServerSettings(data_folder=tmp_path))
    chores = [*_periodic_tasks(app.state.context), *_tasks_on_every_server(app.state.context)]
    names = {getattr(chore, "__qualname__", getattr(chore, "func", None)) for _, chore in chores}
    assert {"TokenService.clean_up", "JobSizes.measure"} < names
    assert app.state.context.audit.delete_old in names
    app.state.context.engine.dispose()


def test_a_database_that_is_away_is_no_fault_of_the_token(tmp_path: Path) -> None:
    (tmp_path / "rvc-train.db").mkdir()  # SQLite's error is that of a file on a disk that is gone
    app = create_app(ServerSettings(data_folder=tmp_path, token=FIRST))
    answer = TestClient(app).get("/v1/me", headers={"Authorization": "Bearer rvct_of-someone"})
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "unavailable", True)
    assert answer.headers["retry-after"]
    app.state.context.engine.dispose()


def test_everything_that_is_done_to_a_job_is_in_the_trail(
    holder: Callable[..., httpx.Client], administrator: httpx.Client, eventually: Callable[..., None]
) -> None:
    client = holder("sara", SUBMIT)
    job_id = submit(client, upload(client, b"eleven")).json()["id"]
    eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued")
    for step in ("pause", "resume", "cancel", "retry"):
        answer = client.post(f"/v1/jobs/{job_id}/{step}", json={"from": "start"} if step == "retry" else None)
        assert answer.status_code == (202 if step == "retry" else 200), answer.text
    client.patch(f"/v1/jobs/{job_id}", json={"labels": {"a": "b"}})
    administrator.put("/v1/retention", json={})
    administrator.put("/v1/owners/sara/quota", json={"max_jobs": 7})
    trail = administrator.get("/v1/audit", params={"actor": "sara", "limit": 100}).json()["data"]
    done = ["edited", "submitted", "cancelled", "resumed", "paused", "submitted"]
    assert [each["action"] for each in trail][:6] == [f"job.{word}" for word in done]
    assert trail[1]["detail"]["retry_of"] == job_id
    by_keeper = administrator.get("/v1/audit", params={"actor": "local", "limit": 2}).json()["data"]
    assert [(each["action"], each["target"]) for each in by_keeper] == [
        ("quota.changed", "sara"),
        ("retention.changed", "retention"),
    ]
    assert by_keeper[0]["detail"]["max_jobs"] == 7
