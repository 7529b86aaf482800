"""The OpenAPI document, as validators and generators of clients read it."""

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from rvc_engine import events as engine_events
from rvc_engine.errors import FailureCode
from rvc_train.schemas.events import EventType
from rvc_train.schemas.webhooks import WebhookEvent
from server.results.evaluations import PreviewFiles
from server.storage.local import StoredFile


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def test_the_document_is_valid_and_names_server_and_license(document: dict[str, Any]) -> None:
    validate(document)  # raises
    assert document["servers"]
    assert document["info"]["license"]["identifier"] == "MIT"


def test_a_patch_has_no_defaults_of_a_creation(document: dict[str, Any]) -> None:
    """A generated client sends a field's default: it switched a webhook on again that was to get another address."""
    patches = {name: schema for name, schema in document["components"]["schemas"].items() if name.endswith("Patch")}
    assert {"JobPatch", "WebhookPatch"} <= patches.keys()
    for name, schema in patches.items():
        assert not [field for field, value in schema["properties"].items() if "default" in value], name
        assert "required" not in schema, name


def test_tags_and_parameters_are_described(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert set(operation["tags"]) <= described, name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])


def test_files_and_streams_have_a_schema(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                assert content.get("schema") or media_type == "application/json", (name, status, media_type)


def test_operations_and_schemas_have_the_names_of_a_good_client(document: dict[str, Any]) -> None:
    ids = {name: operation["operationId"] for name, operation in operations(document)}
    assert len(set(ids.values())) == len(ids)
    assert [an_id for an_id in ids.values() if not re.fullmatch("[a-z]+(_[a-z]+)+", an_id)] == []
    assert ids["post /v1/jobs"] == "jobs_create"
    assert ids["get /v1/jobs/{job_id}"] == "jobs_get"
    assert ids["put /v1/datasets/{name}/content"] == "datasets_upload"
    schemas = document["components"]["schemas"]
    assert {"Job", "JobList", "Dataset", "DatasetList", "Webhook", "Event", "EventList"} <= schemas.keys()
    assert [name for name in schemas if "Public" in name or "_" in name] == []
    assert [name for name, schema in schemas.items() if schema.get("title") != name] == []


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def test_each_event_of_a_job_fits_the_schema_of_its_type(
    document: dict[str, Any], http: httpx.Client, live: Any, finished: Callable[..., str]
) -> None:
    bench = live.bench
    first = bench.job(priority=100)
    lease = bench.claim()
    assert lease.job_id == first.id
    bench.jobs.fail(lease, FailureCode.ENGINE_CRASHED, "it crashed")
    job_id = finished(b"voice")
    second = bench.job(priority=100)
    lease = bench.claim()
    assert lease.job_id == second.id
    at = {"step": 10, "epoch": 1}
    bench.jobs.record_events(
        lease,
        [
            engine_events.StageChanged(stage="train", state="started"),
            engine_events.Progress(stage="train", stage_progress=0.5, progress=0.5, **at),
            engine_events.Metric(values={"loss/mel": float("nan"), "loss/kl": 1.0}, **at),
            engine_events.Warned(message="a file is unreadable"),
            engine_events.CheckpointSaved(path="/somewhere", **at),
            engine_events.Evaluated(
                values={"eval/mel": 1.0}, held_out=True, is_best=True, num_clips=8, seconds=1.5, **at
            ),
            engine_events.TrainingEnded(reason="max_epochs", **at),
            engine_events.QualityScored(values={"quality/similarity": 0.7}, seconds=2.0, **at),
        ],
    )
    file = StoredFile("jobs/preview", 1, "00")
    preview = engine_events.PreviewReady(clip=1, seconds=4.0, scores={}, audio="", picture="", recording="", **at)
    bench.jobs.publish_preview(lease, preview, PreviewFiles(file, file, file))
    bench.jobs.fail(lease, FailureCode.INVALID_CONFIG, "it does not fit")
    check, types = validator(document, "Event"), set()
    for an_id in (first.id, job_id, second.id):
        for event in http.get(f"/v1/jobs/{an_id}/events").json()["data"]:
            check.validate(event)
            types.add(event["type"])
    assert set(EventType) - types == {
        EventType.PAUSE_REQUESTED,
        EventType.PAUSED,
        EventType.RESUMED,
        EventType.CANCEL_REQUESTED,
        EventType.CANCELLED,
        EventType.WORKER_LOST,
    }
    mapping = document["components"]["schemas"]["Event"]["discriminator"]["mapping"]
    assert mapping.keys() == set(EventType)
    stream = document["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    of_all = document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    for each in (stream, of_all):
        assert each["x-itemSchema"]["properties"]["data"]["contentSchema"] == {"$ref": "#/components/schemas/Event"}


def test_the_messages_to_webhooks_are_described(document: dict[str, Any]) -> None:
    assert document["webhooks"].keys() == {*get_args(WebhookEvent), "ping"}
    for name, item in document["webhooks"].items():
        assert {each["name"] for each in item["post"]["parameters"]} == {
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        }, name
        body = item["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert body.rpartition("/")[2] == ("PingMessage" if name == "ping" else "JobMessage")
