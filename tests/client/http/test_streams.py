"""Followers lose nothing and see nothing twice, whatever the connection does."""

import pytest

from rvc_train.errors import ConnectionFailed, NotFound


def test_a_stream_that_breaks_goes_on_after_the_last_event_that_came(server, client):
    def answer(request):
        last = int(request.headers.get("Last-Event-ID", 0))
        request.send_events(range(last + 1, min(last + 3, 8)), ends=last + 3 >= 8)

    server.answer = answer
    assert [event.seq for event in client.follow_events("job_1")] == [1, 2, 3, 4, 5, 6, 7]
    assert [headers.get("Last-Event-ID") for _, _, headers, _ in server.seen] == [None, "2", "4", "6"]


def test_an_event_that_is_sent_again_is_given_once(server, client):
    tries = iter([(range(1, 4), False), (range(1, 6), True)])

    def answer(request):
        seqs, ends = next(tries)
        request.send_events(seqs, ends=ends)

    server.answer = answer
    assert [event.seq for event in client.follow_events("job_1")] == [1, 2, 3, 4, 5]


def test_a_server_that_comes_up_again_is_waited_for(server, client):
    tries = iter(["cut", "busy", "cut", "fine"])
    sentences = []

    def answer(request):
        match next(tries):
            case "cut":
                request.cut()
            case "busy":
                request.send_problem(503, "unavailable", "coming up")
            case "fine":
                request.send_events(range(1, 3), ends=True)

    server.answer = answer
    assert [event.seq for event in client.follow_events("job_1", on_wait=sentences.append)] == [1, 2]
    assert len(sentences) == 1, "one outage is reported once"
    assert "connection lost" in sentences[0]


def test_coming_back_after_the_end_gives_nothing_more(server, client):
    server.answer = lambda request: request.send(204)
    assert list(client.follow_events("job_1", after=9)) == []
    assert server.seen[0][2]["Last-Event-ID"] == "9"


def test_a_job_that_does_not_exist_is_an_error_at_once(server, client):
    server.answer = lambda request: request.send_problem(404, "not_found", "there is no job job_1")
    with pytest.raises(NotFound, match="there is no job job_1"):
        list(client.follow_events("job_1"))


def test_reconnecting_to_a_dead_server_has_an_end(server, client):
    server.answer = lambda request: request.cut()
    with pytest.raises(ConnectionFailed, match="check that it is running"):
        list(client.follow_events("job_1", reconnect_seconds=0.5))


def test_every_request_carries_the_token(server, client):
    server.answer = lambda request: request.send_events(range(1, 2), ends=True)
    list(client.follow_events("job_1"))
    assert server.seen[0][2]["Authorization"] == "Bearer the-token-of-the-test"


def test_an_empty_line_of_a_log_is_a_line_and_a_comment_is_none(server, client):
    def answer(request):
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        request.wfile.write(
            b"retry: 1000\n\nid: 6\ndata: first\n\n: still here\n\nid: 7\ndata:\n\nid: 12\ndata: last\n\n"
        )
        request.wfile.write(b"event: end\ndata: {}\n\n")
        request.close_connection = True

    server.answer = answer
    assert list(client.follow_logs("job_1")) == ["first", "", "last"]
