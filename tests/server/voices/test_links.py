"""Links to voices: made, used without a token, ended; what they show, and what is learned by trying: nothing."""

import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import structlog

from rvc_engine.events import PreviewReady, QualityScored
from rvc_train.schemas.jobs import JobCreate
from server.database.engine import write_session
from server.database.result_tables import VoiceLink
from server.results.evaluations import PreviewFiles
from tests.server.conftest import Running, publish, running, settings_for


def version(server: Running, name: str) -> str:
    """A job that succeeded, with a preview."""
    bench, context = server.bench, server.context
    job_id = bench.jobs.submit(JobCreate(name=name, dataset_id=bench.dataset(), priority=100)).job_id
    lease = bench.claim()
    assert lease.job_id == job_id
    publish(context, lease, job_id.encode(), f"{name}.pth")
    stored = []
    for content in (b"fLaC converted", b"picture", b"fLaC recorded"):
        source = context.storage.workspace(job_id) / "made"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        stored.append(context.storage.store_artifact(job_id, lease.token, source))
    event = PreviewReady(
        step=10, epoch=5, clip=1, seconds=2.0, scores={"eval/mel": 0.5}, audio="a", picture="p", recording="r"
    )
    bench.jobs.publish_preview(lease, event, PreviewFiles(*stored))
    values = {"quality/similarity": 0.71, "quality/similarity/floor": 0.55, "quality/similarity/ceiling": 0.88}
    bench.jobs.record_events(lease, [QualityScored(step=10, epoch=5, values=values, seconds=1.0)])
    bench.jobs.succeed(lease)
    return job_id


@pytest.fixture
def http(live: Running) -> Iterator[httpx.Client]:
    with live.client() as client:
        yield client


@pytest.fixture
def stranger(live: Running) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=live.url, timeout=20) as client:
        yield client


def link(http: httpx.Client, name: str, **wanted: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/voices/{name}/links", json=wanted)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def end(live: Running, link_id: str) -> None:
    with write_session(live.context.engine) as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(sa.update(VoiceLink).where(VoiceLink.id == link_id).values(expires_at=past))


def test_a_link_shows_one_voice_to_listen_and_to_download_without_a_token(
    live: Running, http: httpx.Client, stranger: httpx.Client
) -> None:
    job_id = version(live, "anna")
    made = link(http, "anna", note="for Bert")
    assert made["url"] == f"{live.url}/shared/{made['secret']}"
    assert (len(made["secret"]), made["begins"]) == (43, made["secret"][:9])
    week = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert week == timedelta(days=7)
    answer = stranger.get(f"/v1/shared/{made['secret']}")
    assert answer.status_code == 200, answer.text
    voice = answer.json()
    assert (voice["name"], voice["version"], voice["scores"]) == ("anna", 1, {})
    assert voice["quality"] == [{"metric": "similarity", "value": 0.71, "floor": 0.55, "ceiling": 0.88}]
    assert [file["name"] for file in voice["files"]] == ["anna.pth"]
    file = stranger.get(voice["files"][0]["url"])
    assert file.content == job_id.encode()
    assert file.headers["ETag"] == f'"{voice["files"][0]["sha256"]}"'
    part = stranger.get(voice["files"][0]["url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, job_id.encode()[4:8])
    clip = voice["clips"][0]
    assert stranger.get(clip["audio_url"]).content == b"fLaC converted"
    assert stranger.get(clip["recording_url"]).content == b"fLaC recorded"
    for each in (answer, file, part, stranger.get(f"/shared/{made['secret']}")):
        assert each.headers["Referrer-Policy"] == "no-referrer"
        assert each.headers["X-Robots-Tag"] == "noindex"
    assert file.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["Cache-Control"] == "no-store"
    listed = http.get("/v1/voices/anna/links").json()["data"]
    assert [(each["id"], each["note"], each["num_uses"]) for each in listed] == [(made["id"], "for Bert", 1)]
    assert made["secret"] not in json.dumps(listed)
    assert listed[0]["last_used_at"] is not None
    live.context.links.write_uses()
    assert http.get(f"/v1/voices/anna/links/{made['id']}").json()["num_uses"] == 1


def test_the_address_of_a_link_is_the_one_that_a_proxy_was_called_by(
    started: Callable[..., Any], authorized: dict[str, str]
) -> None:
    _, url = started(FORWARDED_ALLOW_IPS="127.0.0.1")
    proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "voices.example", "X-Forwarded-Prefix": "/rvc"}
    with httpx.Client(base_url=url, headers=authorized, timeout=20) as http:
        recording = (Path(__file__).parents[3] / "samples" / "ss-noservice.flac").read_bytes()
        dataset = http.put("/v1/datasets/recordings/content", content=recording).json()
        http.post("/v1/jobs", json={"name": "nora", "dataset_id": dataset["id"]}).raise_for_status()
        made = http.post("/v1/voices/nora/links", headers=proxy).json()
    assert made["url"] == f"https://voices.example/rvc/shared/{made['secret']}"


def test_a_link_for_listening_only_has_no_files(live: Running, http: httpx.Client, stranger: httpx.Client) -> None:
    version(live, "berta")
    secret = link(http, "berta", downloads=False)["secret"]
    assert stranger.get(f"/v1/shared/{secret}").json()["files"] == []
    refused = stranger.get(f"/v1/shared/{secret}/files/berta.pth")
    assert refused.status_code == 404
    assert "listening only" in refused.json()["detail"]


def test_a_link_follows_the_current_version_or_stays_with_one(
    live: Running, http: httpx.Client, stranger: httpx.Client
) -> None:
    first = version(live, "clara")
    current, one = link(http, "clara")["secret"], link(http, "clara", job_id=first)["secret"]
    second = version(live, "clara")
    for secret, number, job_id in ((current, 2, second), (one, 1, first)):
        voice = stranger.get(f"/v1/shared/{secret}").json()
        assert voice["version"] == number
        assert stranger.get(voice["files"][0]["url"]).content == job_id.encode()
    http.patch("/v1/voices/clara", json={"current": first})
    assert stranger.get(f"/v1/shared/{current}").json()["version"] == 1
    http.delete(f"/v1/jobs/{first}")
    assert stranger.get(f"/v1/shared/{one}").status_code == 404, "its version is deleted"
    assert stranger.get(f"/v1/shared/{current}").json()["version"] == 2
    for body in ({"job_id": second[:-1]}, {"job_id": live.bench.job(name="clara").id}):
        assert http.post("/v1/voices/clara/links", json=body).json()["errors"][0]["pointer"] == "/job_id"


def test_what_ended_was_deleted_or_guessed_gets_one_answer(
    live: Running, http: httpx.Client, stranger: httpx.Client
) -> None:
    for name in ("dora", "doris"):
        version(live, name)
    ended, deleted, of_deleted_voice = link(http, "dora"), link(http, "dora"), link(http, "doris")
    end(live, ended["id"])
    assert http.delete(f"/v1/voices/dora/links/{deleted['id']}").status_code == 204
    assert http.delete(f"/v1/voices/dora/links/{deleted['id']}").status_code == 404
    http.delete("/v1/voices/doris")
    answers = set()
    for secret in (ended["secret"], deleted["secret"], of_deleted_voice["secret"], "x" * 43, "%00", "é"):
        for part in ("", "/files/dora.pth", "/previews/e5_s10_1.flac"):
            answer = stranger.get(f"/v1/shared/{secret}{part}")
            problem = answer.json()
            assert problem["instance"] == "/v1/shared/..."
            answers.add((answer.status_code, problem["code"], problem["detail"]))
    assert len(answers) == 1, answers
    assert answers.pop()[:2] == (404, "not_found")
    assert http.get("/v1/voices/dora/links").json()["data"][0]["has_ended"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "tomorrow"}, "/expires_at"),
        ({"expires_at": "2027-01-01T00:00:00"}, "/expires_at"),
        ({"expires_in_seconds": 366 * 86_400}, "/expires_in_seconds"),
        ({"expires_in_seconds": 60, "expires_at": "2027-01-01T00:00:00Z"}, ""),
        ({"days": 3}, "/days"),
    ],
)
def test_an_end_that_is_not_possible_is_refused(
    live: Running, http: httpx.Client, body: dict[str, Any], pointer: str
) -> None:
    if http.get("/v1/voices/emma").status_code == 404:
        version(live, "emma")
    answer = http.post("/v1/voices/emma/links", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"] or "") == (422, pointer)


def test_the_secret_is_in_no_log_and_no_message(live: Running, http: httpx.Client, stranger: httpx.Client) -> None:
    version(live, "fanny")
    secret = link(http, "fanny")["secret"]
    written = io.StringIO()
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(written), cache_logger_on_first_use=False)
    try:
        for method, path in (
            ("GET", f"/v1/shared/{secret}"),
            ("GET", f"/v1/shared/{secret}/files/none"),
            ("GET", f"/v1/shared/{secret}/other"),
            ("GET", f"/v1/shared/{secret}/"),
            ("POST", f"/v1/shared/{secret}"),
            ("GET", f"/v1//shared/{secret}"),
            ("GET", f"/V1/Shared/{secret}"),
            ("GET", f"/shared/{secret}/x"),
            ("POST", f"/shared/{secret}"),
            ("GET", f"/v1/shared/{secret}?x=1"),
            ("GET", f"/v1/shared/{secret}\0"),
        ):
            answer = stranger.request(method, path.replace("\0", "%00"))
            assert answer.status_code == 200 or secret not in answer.text, path
        wrong = stranger.get(f"/v1/shared/{secret}", headers={"Authorization": "Bearer wrong"})
        assert (wrong.status_code, secret in wrong.text) == (401, False)
    finally:
        structlog.configure(**before)
    assert "/shared/..." in written.getvalue()
    assert secret not in written.getvalue()
    assert secret not in http.get("/v1/audit", params={"limit": 100}).text
    assert secret not in http.get("/metrics").text
    with live.context.engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.select(sa.text("*")).select_from(sa.table(table))).all()
            assert secret not in repr(rows), table


def test_a_repeated_request_under_a_key_does_not_repeat_the_secret(live: Running, http: httpx.Client) -> None:
    version(live, "gina")
    headers = {"Idempotency-Key": "once"}
    made = http.post("/v1/voices/gina/links", json={}, headers=headers)
    again = http.post("/v1/voices/gina/links", json={}, headers=headers)
    assert (made.status_code, again.status_code, again.json()["code"]) == (201, 409, "already_done")
    assert len(http.get("/v1/voices/gina/links").json()["data"]) == 1


def test_guesses_are_limited_as_wrong_tokens_are_and_a_right_link_still_opens(tmp_path: Path) -> None:
    token = "the-token-of-a-server-with-limits"
    with (
        running(settings_for(tmp_path, token=token, refusals_per_minute=5)) as server,
        server.client(Authorization=f"Bearer {token}") as http,
        httpx.Client(base_url=server.url, timeout=20) as stranger,
    ):
        version(server, "anna")
        secret = link(http, "anna")["secret"]
        answers = [stranger.get(f"/v1/shared/{number}").status_code for number in range(8)]
        assert answers == [404] * 5 + [429] * 3
        assert stranger.get(f"/v1/shared/{secret}").status_code == 200
        entries = http.get("/v1/audit", params={"action": "token.refused"}).json()["data"]
        assert {entry["target"] for entry in entries} == {"/v1/shared/..."}


def test_another_owner_and_a_reader_can_neither_see_nor_make_links(live: Running, http: httpx.Client) -> None:
    version(live, "hanna")
    made = link(http, "hanna")
    for scope, listed, deleted in (("submit", 404, 404), ("read", 404, 403)):
        secret = http.post("/v1/tokens", json={"owner": "bert", "scopes": [scope]}).json()["secret"]
        with live.client(Authorization=f"Bearer {secret}") as bert:
            assert bert.get("/v1/voices/hanna/links").status_code == listed
            assert bert.get(f"/v1/voices/hanna/links/{made['id']}").status_code == 404
            assert bert.delete(f"/v1/voices/hanna/links/{made['id']}").status_code == deleted


def test_an_ended_link_takes_no_longer_than_a_guess(live: Running, http: httpx.Client) -> None:
    version(live, "ida")
    ended = link(http, "ida")
    end(live, ended["id"])

    def seconds(secret: str) -> float:
        started = time.perf_counter()
        for _ in range(50):
            assert live.context.links.find(secret) is None
        return time.perf_counter() - started

    seconds("x" * 43)
    ratios = sorted(seconds(ended["secret"]) / seconds("x" * 43) for _ in range(5))
    assert 0.5 < ratios[2] < 2
