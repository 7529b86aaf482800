"""Voices over HTTP: jobs of one name as versions, the current one, notes and labels, deletion."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlmodel import col

from rvc_train.schemas.jobs import JobCreate
from server.database.engine import write_session
from server.database.result_tables import Evaluation, VoiceLink
from server.database.tables import Job
from server.voices.queries import VoiceFilter
from tests.server.conftest import Running, finished_job, publish, running, settings_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(settings_for(tmp_path)) as server:
        yield server


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def version(
    server: Running, name: str = "anna", dataset: str | None = None, mel: float | None = None, **config: Any
) -> str:
    """A job that succeeded, on a dataset, with the score of its best save."""
    bench = server.bench
    request = JobCreate(name=name, dataset_id=dataset or bench.dataset(), config=config, priority=100)
    job_id = bench.jobs.submit(request).job_id
    lease = bench.claim()
    assert lease.job_id == job_id
    publish(server.context, lease, job_id.encode(), f"{name}.pth")
    bench.jobs.succeed(lease)
    if mel is not None:
        row = Evaluation(
            job_number=lease.job_number,
            step=10,
            epoch=5,
            values={"eval/mel": mel},
            held_out=True,
            num_clips=2,
            is_best=True,
            created_at=datetime.now(UTC),
        )
        with write_session(server.context.engine) as session:
            session.add(row)
    return job_id


def current(http: httpx.Client, name: str = "anna") -> tuple[str | None, str | None]:
    voice = http.get(f"/v1/voices/{name}").json()
    return voice["current"] and voice["current"]["job_id"], voice["current_reason"]


def test_the_jobs_of_a_name_are_the_versions_of_a_voice(server: Running, http: httpx.Client) -> None:
    assert http.get("/v1/voices").json()["data"] == []
    first = version(server)
    waiting = server.bench.job(name="anna")
    other = version(server, "bob")
    page = http.get("/v1/voices").json()
    assert [(voice["name"], voice["num_versions"]) for voice in page["data"]] == [("bob", 1), ("anna", 2)]
    anna = page["data"][1]
    assert (anna["newest"]["job_id"], anna["newest"]["status"], anna["newest"]["version"]) == (waiting.id, "queued", 2)
    assert (anna["current"]["job_id"], anna["current_reason"]) == (first, "newest")
    assert (anna["url"], anna["next_version"]) == ("/v1/voices/anna", 3)
    whole = http.get(anna["url"]).json()
    assert [(each["version"], each["job_id"], each["is_current"]) for each in whole["versions"]] == [
        (2, waiting.id, False),
        (1, first, True),
    ]
    file = whole["versions"][1]["files"][0]
    assert (file["name"], file["kind"]) == ("anna.pth", "voice")
    assert http.get(file["url"]).content == first.encode()
    assert http.get("/v1/voices/carl").status_code == 404
    assert current(http, "bob") == (other, "newest")


def test_pages_of_voices_and_versions_have_each_once(server: Running, http: httpx.Client) -> None:
    for name in ("anna", "bob", "anna", "carl", "anna"):
        version(server, name)
    for path, key, wanted in (
        ("/v1/voices", "name", ["anna", "carl", "bob"]),
        ("/v1/voices/anna/versions", "version", [3, 2, 1]),
    ):
        found: list[Any] = []
        page: dict[str, Any] = {"next_cursor": None, "has_more": True}
        while page["has_more"]:
            params = {"limit": 1} | ({"after": page["next_cursor"]} if page["next_cursor"] else {})
            page = http.get(path, params=params).json()
            found += [each[key] for each in page["data"]]
        assert found == wanted


def test_numbers_of_versions_stay_when_another_is_deleted(server: Running, http: httpx.Client) -> None:
    first, second, third = (version(server) for _ in range(3))
    assert http.delete(f"/v1/jobs/{first}").status_code == 204
    assert http.delete(f"/v1/jobs/{third}").status_code == 204
    voice = http.get("/v1/voices/anna").json()
    assert [each["version"] for each in voice["versions"]] == [2]
    assert voice["next_version"] == 4
    fourth = version(server)
    assert [each["version"] for each in http.get("/v1/voices/anna").json()["versions"]] == [4, 2]
    for job_id in (second, fourth):
        http.delete(f"/v1/jobs/{job_id}")
    assert http.get("/v1/voices/anna").status_code == 404
    version(server)
    assert http.get("/v1/voices/anna").json()["newest"]["version"] == 1, "a voice of its own"


def test_the_current_version_is_the_best_of_those_that_compare_unless_one_is_chosen(
    server: Running, http: httpx.Client
) -> None:
    dataset = server.bench.dataset()
    best = version(server, dataset=dataset, mel=0.5)
    assert current(http) == (best, "newest")
    worse = version(server, dataset=dataset, mel=0.7)
    assert current(http) == (best, "best")
    unscored = version(server, dataset=dataset)
    assert current(http) == (unscored, "newest"), "what is not evaluated compares with nothing"
    http.delete(f"/v1/jobs/{unscored}")
    elsewhere = version(server, mel=0.9)
    assert current(http) == (elsewhere, "newest"), "scores on other recordings do not compare"
    http.delete(f"/v1/jobs/{elsewhere}")
    other_rate = version(server, dataset=dataset, mel=0.9, sample_rate="48k")
    assert current(http) == (other_rate, "newest"), "nor do those at another sample rate"
    assert http.patch("/v1/voices/anna", json={"current": worse}).json()["current_reason"] == "set"
    assert current(http) == (worse, "set")
    assert http.patch("/v1/voices/anna", json={"notes": "x"}).json()["current"]["job_id"] == worse
    assert http.patch("/v1/voices/anna", json={"current": None}).json()["current"]["job_id"] == other_rate
    http.patch("/v1/voices/anna", json={"current": worse})
    http.delete(f"/v1/jobs/{worse}")
    assert current(http) == (other_rate, "newest"), "a version that is deleted is chosen no more"


def test_only_a_version_that_succeeded_can_be_chosen(server: Running, http: httpx.Client) -> None:
    version(server)
    waiting, other = server.bench.job(name="anna").id, version(server, "bob")
    for job_id, part in ((waiting, "is queued"), (other, "has no version"), ("job_x", "has no version")):
        answer = http.patch("/v1/voices/anna", json={"current": job_id})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/current")
        assert part in answer.json()["detail"]


def test_notes_and_labels_are_kept_and_found_and_guarded_by_a_tag(server: Running, http: httpx.Client) -> None:
    version(server)
    version(server, "bob")
    before = http.get("/v1/voices/anna")
    made = http.patch("/v1/voices/anna", json={"notes": "for the game", "labels": {"kind": "song", "a.b/c": "1"}})
    assert made.status_code == 200, made.text
    assert (made.json()["notes"], made.json()["labels"]) == ("for the game", {"kind": "song", "a.b/c": "1"})
    for query, names in (
        ({"label.kind": "song"}, ["anna"]),
        ({"label.kind": "song", "label.a.b/c": "1"}, ["anna"]),
        ({"label.kind": "talk"}, []),
        ({"search": "O"}, ["bob"]),
        ({"name": "bob"}, ["bob"]),
    ):
        assert [each["name"] for each in http.get("/v1/voices", params=query).json()["data"]] == names
    stale = http.patch("/v1/voices/anna", json={"notes": "y"}, headers={"If-Match": before.headers["ETag"]})
    assert stale.status_code == 412
    fresh = http.get("/v1/voices/anna")
    assert http.get("/v1/voices/anna", headers={"If-None-Match": fresh.headers["ETag"]}).status_code == 304
    left = http.patch(
        "/v1/voices/anna", json={"labels": {"kind": None}}, headers={"If-Match": fresh.headers["ETag"]}
    ).json()
    assert (left["labels"], left["notes"]) == ({"a.b/c": "1"}, "for the game")
    entries = http.get("/v1/audit", params={"action": "voice.edited"}).json()["data"]
    assert [entry["target"] for entry in entries] == ["anna", "anna"]
    too_many = {f"k{i}": "v" for i in range(40)}
    assert http.patch("/v1/voices/anna", json={"labels": too_many}).status_code == 422


def test_deleting_a_voice_deletes_its_jobs_and_files_but_not_while_one_is_live(
    server: Running, http: httpx.Client
) -> None:
    jobs = [version(server) for _ in range(2)]
    http.patch("/v1/voices/anna", json={"notes": "x"})
    live = server.bench.job(name="anna").id
    refused = http.delete("/v1/voices/anna")
    assert (refused.status_code, live in refused.json()["detail"]) == (409, True)
    assert http.get("/v1/voices/anna").json()["num_versions"] == 3
    http.post(f"/v1/jobs/{live}/cancel")
    folders = [server.context.storage.job_home(job_id) for job_id in jobs]
    assert all(folder.is_dir() for folder in folders)
    assert http.delete("/v1/voices/anna").status_code == 204
    assert not any(folder.exists() for folder in folders)
    assert http.get("/v1/voices").json()["data"] == []
    assert http.delete("/v1/voices/anna").status_code == 404
    version(server)
    assert http.get("/v1/voices/anna").json()["notes"] == "", "nothing is left of the other one"


@pytest.mark.parametrize("name", ["ä ö", "a/b", "100% 音色", "?#"])
def test_a_voice_of_any_name_has_an_address(server: Running, http: httpx.Client, name: str) -> None:
    finished_job(server, b"x", name=name)
    url = http.get("/v1/voices").json()["data"][0]["url"]
    assert http.get(url).json()["name"] == name
    assert http.get(f"{url}/versions").json()["data"][0]["version"] == 1


def test_another_owners_voice_is_not_there_and_an_administrator_names_the_owner(
    server: Running, http: httpx.Client
) -> None:
    finished_job(server, b"x")
    token = http.post("/v1/tokens", json={"owner": "bert", "scopes": ["submit"]}).json()["secret"]
    request = JobCreate(name="anna", dataset_id=server.bench.dataset())
    theirs = server.context.jobs.submit(request, owner="bert").job_id
    with server.client(Authorization=f"Bearer {token}") as bert:
        assert [voice["newest"]["job_id"] for voice in bert.get("/v1/voices").json()["data"]] == [theirs]
        assert bert.get("/v1/voices/anna").json()["num_versions"] == 1
        assert bert.get("/v1/voices/anna", params={"owner": "local"}).status_code == 403
    both = {voice["owner"]: voice["url"] for voice in http.get("/v1/voices").json()["data"]}
    assert both == {"bert": "/v1/voices/anna?owner=bert", "local": "/v1/voices/anna"}
    assert http.get(both["bert"]).json()["newest"]["job_id"] == theirs


@pytest.mark.sqlite  # whose plans are read
def test_lists_stay_cheap_with_ten_thousand_jobs(server: Running, http: httpx.Client) -> None:
    dataset, now = server.bench.dataset(), datetime.now(UTC)
    rows = [
        {
            "id": f"job_{i:032x}",
            "owner": "local",
            "name": f"voice {i % 50}",
            "dataset_id": dataset,
            "status": "succeeded",
            "config": {"sample_rate": "40k"},
            "progress": 1,
            "created_at": now,
            "finished_at": now,
            "not_before": now,
        }
        for i in range(10_000)
    ]
    with write_session(server.context.engine) as session:
        session.execute(sa.insert(Job), rows)
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if threading.get_ident() == own:
            statements.append((statement, parameters))

    own = threading.get_ident()
    sa.event.listen(server.context.engine, "before_cursor_execute", note)
    voices, _ = server.context.voice_queries.page(VoiceFilter(owner="local"), None, 50)
    sa.event.remove(server.context.engine, "before_cursor_execute", note)
    assert len(voices) == 50
    assert {voice.num_versions for voice in voices} == {200}
    selects = [each for each in statements if each[0].startswith("SELECT")]
    assert len(selects) < 20, "their number is that of the page, not of the voices"
    with server.context.engine.connect() as connection:
        for text, parameters in selects:
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters):
                assert not row[3].startswith("SCAN jobs") or "INDEX" in row[3], text


def test_no_link_is_left_of_a_voice(server: Running, http: httpx.Client) -> None:
    version(server)
    with write_session(server.context.engine) as session:
        now = datetime.now(UTC)
        session.add(
            VoiceLink(
                id="lnk_1",
                owner="local",
                name="anna",
                begins="x",
                sha256="x",
                downloads=True,
                note="",
                created_at=now,
                expires_at=now,
            )
        )
    http.delete("/v1/voices/anna")
    with write_session(server.context.engine) as session:
        assert (
            session.scalar(sa.select(sa.func.count()).select_from(VoiceLink).where(col(VoiceLink.owner) == "local"))
            == 0
        )
