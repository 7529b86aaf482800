"""Streams on a real server: no event lost, none sent twice, and an end that differs from a broken connection."""

import json
import threading
import time

import pytest
from httpx_sse import connect_sse

from rvc_engine.errors import FailureCode
from rvc_engine.events import Warned

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def running_job(live):
    """The lease on a running job, which ends with the test."""
    job = live.bench.job(priority=100)
    lease = live.bench.claim()
    assert lease.job_id == job.id
    yield lease
    live.context.jobs.cancel(job.id)
    live.context.jobs.release(lease, "the test is over")


def messages(http, path, last_id=None, stop_after=None, found=None):
    """(id, data) of a stream's messages, up to `end` or up to `stop_after` messages; `found`: a list to fill."""
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    found = [] if found is None else found
    with connect_sse(http, "GET", path, headers=headers) as source:
        assert source.response.status_code == 200, source.response.status_code
        for message in source.iter_sse():
            if message.event == "end":
                return [*found, ("end", message.data)]
            found.append((int(message.id), message.data))
            if len(found) == stop_after:
                return found
    return found


def test_a_follower_sees_every_event_of_a_finished_job_and_then_the_end(http, finished):
    job_id = finished(b"voice")
    found = messages(http, f"/v1/jobs/{job_id}/events")
    listed = http.get(f"/v1/jobs/{job_id}/events").json()
    assert [json.loads(data) for _, data in found[:-1]] == listed["data"]
    assert [an_id for an_id, _ in found[:-1]] == list(range(1, listed["last_seq"] + 1))
    assert found[-1] == ("end", '{"status": "succeeded"}')


@pytest.mark.parametrize("what", ["events", "logs"])
def test_a_stream_ends_with_its_token(serve, tmp_path, what):
    admin = {"Authorization": "Bearer " + "a" * 32}
    with serve(tmp_path, token="a" * 32, keep_alive_seconds=0.2) as server, server.client() as http:
        made = http.post("/v1/tokens", json={"owner": "bob", "scopes": ["submit"]}, headers=admin).json()
        bob = {"Authorization": f"Bearer {made['secret']}"}
        dataset = http.put("/v1/datasets/a/content", content=b"RIFF", headers=bob).json()
        job = http.post("/v1/jobs", json={"name": "a", "dataset_id": dataset["id"]}, headers=bob).json()
        with http.stream("GET", f"/v1/jobs/{job['id']}/{what}", headers=bob | STREAM, timeout=10) as stream:
            lines = stream.iter_lines()
            while "still here" not in next(lines):
                pass
            assert http.delete(f"/v1/tokens/{made['id']}", headers=admin).status_code == 204
            assert "event: end" not in list(lines)


def test_a_list_of_events_can_be_of_some_types_alone(http, finished):
    path = f"/v1/jobs/{finished(b'voice')}/events"
    params = {"type": ["created", "succeeded"], "limit": 1}
    first = http.get(path, params=params).json()
    assert ([event["type"] for event in first["data"]], first["has_more"]) == (["created"], True)
    rest = http.get(path, params=params | {"after": first["data"][0]["seq"]}).json()
    assert ([event["type"] for event in rest["data"]], rest["has_more"]) == (["succeeded"], False)
    assert http.get(path, params={"type": "nothing"}).status_code == 422
    assert http.get(path, params={"type": "created"}, headers=STREAM).status_code == 422


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream;q=0", "application/json"),
        ("application/json, Text/Event-Stream; q=0.5", "application/json"),
        ("application/json;q=0.1, text/event-stream; q=0.5", "text/event-stream"),
        ("*/*", "application/json"),
    ],
)
def test_the_weights_of_accept_choose_between_a_stream_and_json(http, finished, accept, kind):
    path = f"/v1/jobs/{finished(b'voice')}/events"
    assert http.get(path, headers={"Accept": accept}).headers["content-type"].startswith(kind)


def test_a_reconnect_after_the_end_gets_204_and_one_before_it_gets_the_rest(http, finished):
    path = f"/v1/jobs/{finished(b'voice')}/events"
    last = http.get(path).json()["last_seq"]
    assert http.get(path, headers=STREAM | {"Last-Event-ID": str(last)}).status_code == 204
    assert [an_id for an_id, _ in messages(http, path, last - 2)] == [last - 1, last, "end"]


@pytest.mark.parametrize("what", ["events", "logs?follow=true"])
def test_whether_there_is_a_job_is_said_before_the_stream_begins(http, what):
    answer = http.get(f"/v1/jobs/job_none/{what}", headers=STREAM)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("an_id", ["x", "-1", "9" * 19, "9" * 5000], ids=["a word", "negative", "large", "very large"])
@pytest.mark.parametrize("what", ["events", "logs"])
def test_a_last_event_id_that_is_no_number_of_ours_is_refused(http, finished, what, an_id):
    answer = http.get(f"/v1/jobs/{finished(b'voice')}/{what}", headers=STREAM | {"Last-Event-ID": an_id})
    assert answer.status_code == 422


def test_followers_who_lose_their_line_again_and_again_miss_nothing_and_see_nothing_twice(http, live, running_job):
    """Events are written while a follower disconnects after every third event and reconnects with its last id."""
    total = 62  # with the four events before, whole batches of three

    def talk():
        for i in range(total):
            live.context.jobs.record_events(running_job, [Warned(message=f"{i}")])
            time.sleep(0.005)

    writer = threading.Thread(target=talk)
    writer.start()
    path, seen = f"/v1/jobs/{running_job.job_id}/events", []
    while len(seen) < total + 4:
        seen += messages(http, path, seen[-1][0] if seen else None, stop_after=3)
    writer.join()
    assert [an_id for an_id, _ in seen[: total + 4]] == list(range(1, total + 5))
    assert [json.loads(data)["message"] for _, data in seen[4 : total + 4]] == [str(i) for i in range(total)]


def test_a_silent_stream_says_that_it_is_still_there_and_no_reader_takes_that_for_an_event(tmp_path, serve):
    with serve(tmp_path, keep_alive_seconds=0.05) as server, server.client() as http:
        job = server.bench.job()
        with http.stream("GET", f"/v1/jobs/{job.id}/events", headers=STREAM) as response:
            lines = response.iter_lines()
            assert ": still here" in (next(lines) for _ in range(50))
        ending = threading.Timer(0.5, server.context.jobs.cancel, [job.id])
        ending.start()
        assert [an_id for an_id, _ in messages(http, f"/v1/jobs/{job.id}/events")] == [1, 2, 3, 4, "end"]
        ending.join()


def test_streams_end_when_the_server_stops_and_go_on_where_they_were_after_its_restart(tmp_path, serve):
    with serve(tmp_path) as server:
        job = server.bench.job()
        lease = server.bench.claim()
        seen = []

        def follow():
            with server.client() as http:
                messages(http, f"/v1/jobs/{job.id}/events", found=seen)

        follower = threading.Thread(target=follow)
        follower.start()
        while len(seen) < 4 and follower.is_alive():
            time.sleep(0.02)
        started = time.monotonic()
    follower.join(5)
    assert time.monotonic() - started < 3
    assert [an_id for an_id, _ in seen] == [1, 2, 3, 4]  # and no end
    with serve(tmp_path) as server, server.client() as http:
        server.context.jobs.fail(lease, FailureCode.DIVERGED, "NaN")
        assert [an_id for an_id, _ in messages(http, f"/v1/jobs/{job.id}/events", 4)] == [5, "end"]


def test_a_stream_ends_when_its_job_is_deleted(http, live, finished):
    job = live.bench.job()
    with connect_sse(http, "GET", f"/v1/jobs/{job.id}/events") as source:
        stream = source.iter_sse()
        next(stream)
        live.context.jobs.cancel(job.id)
        live.context.jobs.delete(job.id)
        assert [message.event for message in stream][-1] == "end"


def test_the_list_of_events_goes_on_behind_a_number(http, finished):
    path = f"/v1/jobs/{finished(b'voice')}/events"
    first = http.get(path, params={"limit": 2}).json()
    assert ([event["seq"] for event in first["data"]], first["has_more"]) == ([1, 2], True)
    rest = http.get(path, params={"after": 2}).json()
    assert (rest["data"][0]["seq"], rest["has_more"], rest["data"][-1]["type"]) == (3, False, "succeeded")


def test_many_followers_of_one_job_all_see_its_end(http, live):
    job = live.bench.job()
    ends = []

    def follow():
        with live.client() as client:
            ends.append(messages(client, f"/v1/jobs/{job.id}/events")[-1][0])

    followers = [threading.Thread(target=follow) for _ in range(30)]
    for follower in followers:
        follower.start()
    live.context.jobs.cancel(job.id)
    for follower in followers:
        follower.join(20)
    assert ends == ["end"] * 30


# Logs


def write_log(live, job_id, text):
    path = live.context.storage.job_log(job_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode())


@pytest.fixture
def log_of(http, live, finished):
    """`log_of(text)`: path of a finished job's log with that text."""

    def made(text):
        job_id = finished(b"voice")
        write_log(live, job_id, text)
        return f"/v1/jobs/{job_id}/logs"

    return made


def test_a_log_is_plain_text_whole_by_tail_by_offset_or_by_range(http, log_of):
    text = "".join(f"line {i} ünï\n" for i in range(1, 5001))
    path = log_of(text)
    whole = http.get(path)
    assert (whole.text, whole.headers["content-type"]) == (text, "text/plain; charset=utf-8")
    assert http.get(path, params={"tail": 2}).text == "line 4999 ünï\nline 5000 ünï\n"
    assert http.get(path, params={"tail": 0}).text == ""
    assert http.get(path, params={"tail": 4999}).text == text.split("\n", 1)[1]
    assert http.get(path, params={"tail": 9999}).text == text
    assert http.get(path, params={"offset": 14}).text == text.encode()[14:].decode()
    part = http.get(path, headers={"Range": "bytes=0-5"})
    assert (part.status_code, part.text) == (206, "line 1")
    assert http.get(path, params={"offset": 10**9}).status_code == 416
    assert http.get(path, params={"offset": 1, "tail": 1}).status_code == 422


def test_a_job_that_has_said_nothing_yet_has_an_empty_log(http, live):
    job = live.bench.job()
    answer = http.get(f"/v1/jobs/{job.id}/logs")
    assert (answer.status_code, answer.text) == (200, "")
    live.context.jobs.cancel(job.id)


def test_a_followed_log_comes_line_by_line_with_a_last_line_that_has_no_end(http, log_of):
    found = messages(http, log_of("one\n\ndrei é\nlast"), None)
    assert [data for _, data in found[:-1]] == ["one", "", "drei é", "last"]
    assert [an_id for an_id, _ in found[:-1]] == [4, 5, 13, 17]


def test_a_followed_log_goes_on_at_the_last_id_and_ends_with_204(http, log_of):
    path = log_of("one\ntwo\nthree\n")
    assert messages(http, path + "?follow=true", 4)[0] == (8, "two")
    assert messages(http, path + "?tail=1")[0] == (14, "three")
    assert http.get(path, headers=STREAM | {"Last-Event-ID": "14"}).status_code == 204


def test_half_a_line_waits_for_its_other_half(http, live, running_job):
    write_log(live, running_job.job_id, "whole\nha")
    with connect_sse(http, "GET", f"/v1/jobs/{running_job.job_id}/logs") as source:
        stream = source.iter_sse()
        assert next(stream).data == "whole"
        time.sleep(0.1)
        write_log(live, running_job.job_id, "lf\n")
        assert next(stream).data == "half"
