"""What is sent again, and what is not."""

import pytest

from rvc_train.errors import ApiError, ConnectionFailed, NotFound
from rvc_train.http import transport
from rvc_train.resources.webhooks import Webhooks
from rvc_train.schemas.administration import RetentionPolicy
from rvc_train.schemas.webhooks import WebhookCreate

RETENTION = {"policy": {}, "plan": {"removals": [], "freed_bytes": 0}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    slept = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    return slept


def failing(times, then):
    """Cut the connection so often, then answer."""
    left = [times]

    def answer(request):
        if left[0]:
            left[0] -= 1
            request.cut()
        else:
            then(request)

    return answer


def test_reading_is_tried_again(server, client):
    server.answer = failing(transport.TRIES - 1, lambda request: request.send_json(RETENTION))
    assert client.retention.get().plan.removals == []
    assert len(server.seen) == transport.TRIES


def test_nobody_tries_for_ever(server, client):
    server.answer = lambda request: request.cut()
    with pytest.raises(ConnectionFailed, match="no answer from the server"):
        client.retention.get()
    assert len(server.seen) == transport.TRIES


def test_a_busy_server_is_asked_again_when_it_says(server, client, impatient):
    replies = [lambda r: r.send(429, Retry_After="7"), lambda r: r.send(503), lambda r: r.send_json(RETENTION)]
    server.answer = lambda request: replies.pop(0)(request)  # noqa: PLW0108 (another one each time)
    client.retention.set(RetentionPolicy())
    assert impatient[0] == 7
    assert 0 <= impatient[1] <= 5


def test_a_server_that_stays_busy_is_told_in_its_words(server, client):
    server.answer = lambda request: request.send_problem(503, "unavailable", "the database is away")
    with pytest.raises(ApiError, match="the database is away"):
        client.queue()
    assert len(server.seen) == transport.TRIES


def test_a_quota_is_told_at_once_and_not_asked_again(server, client):
    server.answer = lambda request: request.send_problem(429, "quota_exceeded", "anna may have 1 job")
    with pytest.raises(ApiError, match="anna may have 1 job"):
        client.queue()
    assert len(server.seen) == 1


def test_what_could_be_done_twice_is_sent_once(server, client):
    server.answer = lambda request: request.cut()
    with pytest.raises(ConnectionFailed):
        client.webhooks.create(WebhookCreate(url="https://a.example"))
    assert len(server.seen) == 1
    assert isinstance(client.webhooks, Webhooks)


def test_a_deletion_whose_answer_was_lost_is_done(server, client):
    server.answer = failing(1, lambda request: request.send_problem(404, "not_found", "there is no such job"))
    client.delete_job("job_1")
    server.answer = lambda request: request.send_problem(404, "not_found", "there is no such job")
    with pytest.raises(NotFound):
        client.delete_job("job_1")


def test_mistakes_of_ours_are_not_repeated(server, client):
    server.answer = lambda request: request.send_problem(422, "refused", "no")
    with pytest.raises(ApiError):
        client.queue()
    assert len(server.seen) == 1
