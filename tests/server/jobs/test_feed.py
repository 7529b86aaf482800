"""The events of all jobs: one list and one stream, resumed without a gap, and nobody else's."""

import json
import threading
import time
from base64 import urlsafe_b64encode

import pytest
import sqlalchemy as sa
from httpx_sse import connect_sse

from rvc_engine.events import Warned
from rvc_train.client import Client
from server.database.engine import write_session
from server.database.tables import Event, EventCounter
from server.jobs.event_feed import BEGINNING, EventFilter, align_positions, events_after, newest_place

STREAM = {"Accept": "text/event-stream"}


def of_feed(http, **params):
    """All events of the list, page by page, and the last page."""
    found, page = [], http.get("/v1/events", params=params).raise_for_status().json()
    while page["has_more"]:
        found += page["data"]
        page = http.get("/v1/events", params=params | {"after": page["next_cursor"]}).raise_for_status().json()
    return found + page["data"], page


def streamed(http, number, last_id=None, **params):
    """(id, event) of the first messages of a stream, those without data included."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    found = []
    with connect_sse(http, "GET", "/v1/events", headers=headers, params=params) as source:
        for message in source.iter_sse():
            found.append((message.id, json.loads(message.data) if message.data else None))
            if len(found) == number:
                break
    return found


def test_the_list_has_the_events_of_all_jobs_in_order_and_goes_on_where_it_ended(http, live):
    _, before = of_feed(http)
    first, second = live.bench.job(name="anna"), live.bench.job(name="bella")
    live.context.jobs.cancel(first.id)
    events, page = of_feed(http, after=before["last_cursor"], limit=2)
    seen = [(event["name"], event["type"]) for event in events]
    made = ["created", "validated", "queued"]
    assert seen == [*(("anna", kind) for kind in made), *(("bella", kind) for kind in made), ("anna", "cancelled")]
    assert {event["job_id"] for event in events} == {first.id, second.id}
    of_job = http.get(f"/v1/jobs/{second.id}/events").json()["data"]
    assert of_job == [event for event in events if event["job_id"] == second.id]
    assert http.get("/v1/events", params={"after": page["last_cursor"]}).json()["data"] == []
    chosen = {"after": before["last_cursor"], "type": ["queued", "cancelled"]}
    assert [event["name"] for event in of_feed(http, **chosen)[0]] == ["anna", "bella", "anna"]
    for of_anna in ({"voice": "anna"}, {"job": first.id}):
        assert len(of_feed(http, after=before["last_cursor"], **of_anna)[0]) == 4
    live.context.jobs.cancel(second.id)


def test_a_stream_begins_now_and_loses_nothing_between_two_connections(http, live):
    ((begin, nothing),) = streamed(http, 1)
    assert nothing is None
    job = live.bench.job(name="anna", priority=100)  # while nobody is connected
    found = streamed(http, 3, last_id=begin)
    assert [event["type"] for _, event in found[1:]] == ["created", "validated"]
    lease = live.bench.claim()
    threading.Timer(
        0.5, lambda: live.context.jobs.record_events(lease, [Warned(stage="pitch", message=str(i)) for i in range(3)])
    ).start()
    more = streamed(http, 6, last_id=found[-1][0])
    assert [event["type"] for _, event in more[1:]] == ["queued", "started", "warning", "warning", "warning"]
    assert [event["message"] for _, event in streamed(http, 2, last_id=more[3][0], job=job.id)[1:]] == ["1"]
    live.context.jobs.cancel(job.id)
    live.context.jobs.release(lease, "the test is over")


def test_the_client_follows_all_jobs_from_a_page_of_the_list_on(http, live):
    client = Client(http)
    page = client.all_events()
    while page.has_more:
        page = client.all_events(page.next_cursor)
    job = live.bench.job(name="carla")
    follower = client.follow_all_events(page.last_cursor, names=["carla"], types=["queued", "cancelled"])
    assert (found := next(follower)).type == "queued"
    assert (found.job_id, found.name) == (job.id, "carla")
    live.context.jobs.cancel(job.id)
    assert next(follower).type == "cancelled"
    follower.close()


def test_another_owners_events_are_not_shown(serve, tmp_path):
    admin = {"Authorization": "Bearer " + "a" * 32}
    with serve(tmp_path, token="a" * 32) as server, server.client() as http:
        of = {}
        for owner in ("anna", "bob"):
            made = http.post("/v1/tokens", json={"owner": owner, "scopes": ["submit"]}, headers=admin).json()
            of[owner] = {"Authorization": f"Bearer {made['secret']}"}
            dataset = http.put(f"/v1/datasets/{owner}/content", content=b"RIFF", headers=of[owner]).json()
            http.post("/v1/jobs", json={"name": owner, "dataset_id": dataset["id"]}, headers=of[owner])
        for owner, headers in of.items():
            data = http.get("/v1/events", headers=headers).json()["data"]
            assert {event["name"] for event in data} == {owner}
        assert {event["name"] for event in http.get("/v1/events", headers=admin).json()["data"]} == {"anna", "bob"}
        mine = http.get("/v1/events", params={"owner": "bob"}, headers=admin).json()["data"]
        assert {event["name"] for event in mine} == {"bob"}
        assert http.get("/v1/events", params={"owner": "anna"}, headers=of["bob"]).status_code == 403


@pytest.mark.parametrize("last_id", ["7", "job_1", "WyJldmVudHMiLFs5OTk5OTk5OTksMSwxXV0"])
def test_an_id_that_is_of_no_event_is_refused(http, last_id):
    assert http.get("/v1/events", headers=STREAM | {"Last-Event-ID": last_id}, timeout=5).status_code == 422


@pytest.mark.parametrize("place", [(2**63, 0, 0), (-1, 0, 0), (0, 10**30, 0), (0, 0, -(10**30))])
def test_a_cursor_with_a_number_that_no_database_holds_is_refused(http, place):
    cursor = urlsafe_b64encode(json.dumps(["events", place]).encode()).decode().rstrip("=")
    for headers in ({}, {"Accept": "text/event-stream"}):
        assert http.get("/v1/events", params={"after": cursor}, headers=headers).status_code == 422


def test_a_reader_misses_no_event_of_writers_who_commit_in_another_order(bench):
    """Many write at once, also on PostgreSQL, where a transaction that began earlier may commit later."""
    jobs = [bench.job() for _ in range(4)]
    ended = threading.Event()

    def write(job):
        for _ in range(5):
            bench.jobs.pause(job.id)
            bench.jobs.resume(job.id)

    writers = [threading.Thread(target=write, args=(job,)) for job in jobs]
    found, place = [], BEGINNING

    def read():
        nonlocal place
        while True:
            was_ended = ended.is_set()
            page = events_after(bench.jobs.engine, place, EventFilter(), 7)
            found.extend((row.job_id, row.seq) for row in page.rows)
            place = page.end
            if was_ended and not page.has_more:
                return
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    reader.join()
    expected = {(job.id, seq) for job in jobs for seq in range(1, bench.jobs.get(job.id).last_seq + 1)}
    assert len(found) == len(expected)
    assert set(found) == expected
    for job in jobs:
        numbers = [seq for job_id, seq in found if job_id == job.id]
        assert numbers == sorted(numbers)


def test_one_query_examines_few_events_of_others_and_none_is_missed(bench, monkeypatch):
    """A reader of few events would otherwise hold a thread for seconds, again and again, where others have millions."""
    monkeypatch.setattr("server.jobs.event_feed.MAX_EXAMINED", 3)
    monkeypatch.setattr("server.jobs.event_feed.MAX_SECONDS", -1.0)
    mine, others = bench.job(), bench.job()
    for _ in range(10):
        bench.jobs.pause(others.id)
        bench.jobs.resume(others.id)
    bench.jobs.pause(mine.id)
    wanted, found, pages, place = EventFilter(job_ids=[mine.id]), [], [], BEGINNING
    while not pages or pages[-1].has_more:
        pages.append(events_after(bench.jobs.engine, place, wanted, 100))
        found += [row.seq for row in pages[-1].rows]
        place = pages[-1].end
    assert found == list(range(1, bench.jobs.get(mine.id).last_seq + 1))
    assert len(pages) > 5
    assert [page.has_more for page in pages if not page.rows][:3] == [True] * 3
    monkeypatch.setattr("server.jobs.event_feed.MAX_SECONDS", 10.0)
    assert events_after(bench.jobs.engine, pages[1].end, wanted, 100).rows, "it goes on while it has found nothing"


def test_positions_go_on_above_those_of_a_database_from_elsewhere(bench):
    """On PostgreSQL the numbers of transactions begin anew there."""
    first = bench.job()
    engine = bench.jobs.engine
    if engine.dialect.name == "sqlite":
        pytest.skip("has a counter of its own")
    with write_session(engine) as session:
        session.execute(sa.update(Event).values(position=Event.position + 10**12))
    before = events_after(engine, BEGINNING, EventFilter(), 100)
    assert before.rows == []
    align_positions(engine)
    place = newest_place(engine)
    assert len(events_after(engine, BEGINNING, EventFilter(job_ids=[first.id]), 100).rows) == 3
    second = bench.job()
    assert {row.job_id for row in events_after(engine, place, EventFilter(), 100).rows} == {second.id}
    with write_session(engine) as session:
        assert session.execute(sa.select(EventCounter.position)).scalar_one() > 0
