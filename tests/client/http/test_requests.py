"""Bodies of requests: only what was set, so that a server of another version keeps its own defaults."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from rvc_engine.config import TrainingConfig
from rvc_train import Client
from rvc_train.errors import ApiError
from rvc_train.schemas.access import Quota, TokenCreate
from rvc_train.schemas.administration import RetentionPolicy
from rvc_train.schemas.jobs import JobCreate
from rvc_train.schemas.queue import EstimateRequest
from rvc_train.schemas.webhooks import WebhookCreate


@pytest.mark.parametrize(
    ("send", "body"),
    [
        (lambda c: c.submit(JobCreate(name="anna", dataset_id="ds_1")), {"name": "anna", "dataset_id": "ds_1"}),
        (
            lambda c: c.submit(JobCreate(name="a", dataset_id="d", config=TrainingConfig(total_epochs=3))),
            {"name": "a", "dataset_id": "d", "config": {"total_epochs": 3}},
        ),
        (
            lambda c: c.submit(JobCreate(name="a", dataset_id="d", webhook=WebhookCreate(url="https://a.example/"))),
            {"name": "a", "dataset_id": "d", "webhook": {"url": "https://a.example/"}},
        ),
        (lambda c: c.estimate(EstimateRequest(dataset_id="d")), {"dataset_id": "d"}),
        (lambda c: c.retry("job_1"), {"from": "checkpoint"}),
        (lambda c: c.edit("job_1", labels={"a": None}), {"labels": {"a": None}}),
        (lambda c: c.webhooks.create(WebhookCreate(url="https://a.example/")), {"url": "https://a.example/"}),
        (lambda c: c.webhooks.change("whk_1", is_enabled=False), {"is_enabled": False}),
        (lambda c: c.access.create_token(TokenCreate(owner="bob")), {"owner": "bob"}),
        (lambda c: c.access.set_quota("bob", Quota(max_jobs=1)), {"max_jobs": 1}),
        (lambda c: c.retention.set(RetentionPolicy(keep_days=1)), {"keep_days": 1.0}),
    ],
)
def test_a_request_has_only_what_was_set(
    server: Any, client: Client, send: Callable[[Client], object], body: dict[str, object]
) -> None:
    received: list[bytes] = []

    def refuse(request: Any) -> None:
        received.append(request.body if request.command != "PATCH" else request.rfile.read(_length(request)))
        request.send_problem(422, "refused", "no")

    server.answer = refuse
    with pytest.raises(ApiError):
        send(client)
    assert json.loads(received[0]) == body


def _length(request: Any) -> int:
    return int(request.headers["Content-Length"])
