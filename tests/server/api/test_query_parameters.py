"""Unknown query parameters are refused, as unknown fields of a body are."""

import re
from typing import Any

import httpx
import pytest

TUS = {"Tus-Resumable": "1.0.0"}


def test_an_unknown_query_parameter_is_refused_by_every_route_but_pages(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path, item in document["paths"].items():
        for method in item:
            answer = http.request(method, re.sub(r"\{\w+\}", "nothing", path) + "?statuss=failed", headers=TUS)
            assert answer.status_code == 422, (method, path, answer.text)
            if method != "head":
                (fault,) = answer.json()["errors"]
                assert (fault["parameter"], fault["pointer"]) == ("statuss", ""), (method, path)
    for path in ("/", "/new?retry=x", "/sign-in", "/docs"):
        assert http.get(path, params={"statuss": "failed"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/jobs?statuss=failed", "did you mean 'status'?"),
        ("/v1/jobs?labels.a=b", "did you mean 'label.'?"),
        ("/v1/jobs/nothing/events?Limit=3", "did you mean 'limit'?"),
        ("/v1/jobs/nothing/logs?zzz=1", "known are follow, offset, tail"),
        ("/v1/me?zzz=1", "this address takes none"),
    ],
)
def test_the_refusal_names_the_nearest_known_parameter(http: httpx.Client, path: str, words: str) -> None:
    problem: dict[str, Any] = http.get(path).json()
    assert (problem["code"], words in problem["detail"]) == ("refused", True), problem["detail"]


def test_known_parameters_are_taken(http: httpx.Client) -> None:
    known = (
        "status=failed&status=succeeded&label.a=b&label.c=d&dataset=x&name=y&id_prefix=z&search=s&limit=1&owner=local"
    )
    assert http.get(f"/v1/jobs?{known}").status_code == 200
    assert http.post("/v1/retention/run?dry_run=true").status_code == 200


def test_a_fault_of_a_parameter_or_a_header_is_in_a_field_of_its_own(http: httpx.Client) -> None:
    (fault,) = http.get("/v1/jobs?limit=none").json()["errors"]
    assert (fault["parameter"], fault["header"], fault["pointer"]) == ("limit", None, "")
    (fault,) = http.post("/v1/jobs", json={}, headers={"Idempotency-Key": "x" * 300}).json()["errors"][:1]
    assert (fault["parameter"], fault["header"], fault["pointer"]) == (None, "idempotency-key", "")
    pointers = [fault["pointer"] for fault in http.post("/v1/jobs", json={"name": "a"}).json()["errors"]]
    assert pointers == ["/dataset_id"]
