"""The codes of errors: each has a description, at the address that a problem has as its type."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rvc_train.schemas.system import ProblemTypePublic
from server import app, errors
from server.http import problem_details
from server.http.problem_types import OTHER, PROBLEM_TYPES


def kinds(base: type[errors.ServerError] = errors.ServerError) -> Iterator[type[errors.ServerError]]:
    """Every class of errors in the server, wherever it is."""
    assert app  # imports every room
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


def test_every_code_of_an_error_has_its_description() -> None:
    found = {(kind.code, status) for kind in kinds() for status in [status_of(kind)]}
    found |= {(code, status) for status, code in problem_details._CODE_OF.items()}
    described = {(code, status) for code, kind in PROBLEM_TYPES.items() for status in kind.statuses}
    assert found == described
    assert OTHER in PROBLEM_TYPES


def status_of(kind: type[errors.ServerError]) -> int:
    return next((problem_details._STATUS_OF[each] for each in kind.__mro__ if each in problem_details._STATUS_OF), 500)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/jobs/job_none", "not_found"),
        ("PATCH", "/v1/queue", "method_not_allowed"),
        ("POST", "/v1/jobs", "invalid_request"),
        ("GET", "/v1/jobs?nothing=1", "refused"),
    ],
)
def test_the_type_of_a_problem_is_an_address_that_describes_it(
    live: Any, http: httpx.Client, method: str, path: str, code: str
) -> None:
    problem = http.request(method, path).json()
    assert (problem["code"], problem["type"]) == (code, f"/problems/{code}")
    anyone = httpx.get(httpx.URL(live.url).join(problem["type"]))
    described = ProblemTypePublic.model_validate_json(anyone.content)
    assert (described.code, described.retryable) == (code, problem["retryable"])
    assert problem["status"] in described.statuses
    page = httpx.get(f"{live.url}{problem['type']}", headers={"Accept": "text/html,application/json;q=0.9"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert described.advice.partition("`")[0] in page.text


def test_a_missing_token_is_described_too(live: Any) -> None:
    problem = httpx.get(f"{live.url}/v1/me").json()
    assert httpx.get(f"{live.url}{problem['type']}").json()["code"] == "unauthorized"


def test_an_unknown_code_is_not_found(live: Any) -> None:
    answer = httpx.get(f"{live.url}/problems/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_document_has_the_meaning_of_each_code(http: httpx.Client) -> None:
    responses = http.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["responses"]
    assert PROBLEM_TYPES["still_running"].meaning in responses["409"]["description"]
    assert PROBLEM_TYPES["quota_exceeded"].meaning in responses["429"]["description"]
