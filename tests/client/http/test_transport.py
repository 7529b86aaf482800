"""Requests that are retried, and requests that are not."""

import pytest

from rvc_train.errors import ApiError, ConnectionFailed, NotFound
from rvc_train.http.transport import HTTP_RETRIES
from rvc_train.schemas.administration import RetentionPolicy
from rvc_train.schemas.webhooks import WebhookCreate

RETENTION = {"policy": {}, "plan": {"removals": [], "freed_bytes": 0}}


pytestmark = pytest.mark.usefixtures("pauses")


def failing(times, then):
    """Cut the connection `times` times, then answer."""
    left = [times]

    def answer(request):
        if left[0]:
            left[0] -= 1
            request.cut()
        else:
            then(request)

    return answer


def test_reading_is_tried_again(server, client):
    server.answer = failing(HTTP_RETRIES.max_attempts - 1, lambda request: request.send_json(RETENTION))
    assert client.retention.get().plan.removals == []
    assert len(server.seen) == HTTP_RETRIES.max_attempts


def test_retries_have_an_end(server, client):
    server.answer = lambda request: request.cut()
    with pytest.raises(ConnectionFailed, match="no answer from the server"):
        client.retention.get()
    assert len(server.seen) == HTTP_RETRIES.max_attempts


def test_a_busy_server_gets_the_request_again_after_the_pause_that_it_names(server, client, pauses):
    replies = [lambda r: r.send(429, Retry_After="7"), lambda r: r.send(503), lambda r: r.send_json(RETENTION)]
    server.answer = lambda request: replies.pop(0)(request)  # noqa: PLW0108 (another one each time)
    client.retention.set(RetentionPolicy())
    assert pauses[0] == 7
    assert 0 <= pauses[1] <= 5


def test_the_error_of_a_server_that_stays_busy_has_its_message(server, client):
    server.answer = lambda request: request.send_problem(503, "unavailable", "the database is away")
    with pytest.raises(ApiError, match="the database is away"):
        client.queue()
    assert len(server.seen) == HTTP_RETRIES.max_attempts


def test_a_quota_is_an_error_at_once_and_not_retried(server, client):
    server.answer = lambda request: request.send_problem(429, "quota_exceeded", "anna may have 1 job")
    with pytest.raises(ApiError, match="anna may have 1 job"):
        client.queue()
    assert len(server.seen) == 1


def test_what_could_be_done_twice_is_sent_once(server, client):
    server.answer = lambda request: request.cut()
    with pytest.raises(ConnectionFailed):
        client.webhooks.create(WebhookCreate(url="https://a.example"))
    assert len(server.seen) == 1


def test_a_deletion_whose_answer_was_lost_is_done(server, client):
    server.answer = failing(1, lambda request: request.send_problem(404, "not_found", "there is no such job"))
    client.delete_job("job_1")
    server.answer = lambda request: request.send_problem(404, "not_found", "there is no such job")
    with pytest.raises(NotFound):
        client.delete_job("job_1")


def test_a_refused_request_is_not_retried(server, client):
    server.answer = lambda request: request.send_problem(422, "refused", "no")
    with pytest.raises(ApiError):
        client.queue()
    assert len(server.seen) == 1
