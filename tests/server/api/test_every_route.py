"""Every route with every scope: which are allowed, which refused, and that other owners' resources are not found."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from rvc_train.schemas.access import Scope, TokenCreate
from server.api.authorization import OWNED_PARAMS, UNOWNED_PARAMS, check_access, required_scope, requires
from server.app import create_app
from server.settings import ServerSettings

READ, SUBMIT, WORK, ADMIN = "read", "submit", "work", "admin"
FIRST = "the-first-token-of-all"
OPEN = "open"

WANTED = {
    "GET /": OPEN,
    "GET /jobs/{job_id}": OPEN,
    "GET /new": OPEN,
    "GET /server": OPEN,
    "GET /sign-in": OPEN,
    "GET /voices/{name:path}": OPEN,
    "GET /shared/{secret}": OPEN,
    "GET /v1/shared/{secret}": OPEN,
    "GET /v1/shared/{secret}/files/{name}": OPEN,
    "GET /v1/shared/{secret}/previews/{name}": OPEN,
    "GET /docs": OPEN,
    "GET /problems/{code}": OPEN,
    "GET /openapi.json": OPEN,
    "HEAD /openapi.json": OPEN,
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": "any token but a worker's",
    "POST /v1/session": OPEN,
    "POST /v1/session/code": READ,
    "DELETE /v1/session": READ,
    "GET /v1/me": READ,
    "GET /v1/system": READ,
    "GET /v1/config-schema": READ,
    "GET /v1/queue": READ,
    "GET /v1/workers": READ,
    "POST /v1/workers/{worker_id}/drain": ADMIN,
    "GET /v1/weights": READ,
    "GET /v1/weights/{weights_id}": READ,
    "POST /v1/weights/{weights_id}/fetch": ADMIN,
    "POST /v1/weights:import": SUBMIT,
    "POST /v1/base-weights": SUBMIT,
    "GET /v1/base-weights": READ,
    "GET /v1/base-weights/{base_weights_id}": READ,
    "DELETE /v1/base-weights/{base_weights_id}": SUBMIT,
    "POST /v1/voices/{name:path}/conversions": SUBMIT,
    "PUT /v1/voices/{name:path}/conversions/content": SUBMIT,
    "GET /v1/conversions": READ,
    "GET /v1/conversions/{conversion_id}": READ,
    "DELETE /v1/conversions/{conversion_id}": SUBMIT,
    "POST /v1/conversions/{conversion_id}/cancel": SUBMIT,
    "GET /v1/conversions/{conversion_id}/events": READ,
    "GET /v1/conversions/{conversion_id}/audio": READ,
    "GET /v1/conversions/{conversion_id}/audio.zip": READ,
    "GET /v1/conversions/{conversion_id}/recordings/{number}": READ,
    "GET /v1/voices": READ,
    "POST /v1/voices": SUBMIT,
    "GET /v1/voices/{name:voice}": READ,
    "PATCH /v1/voices/{name:voice}": SUBMIT,
    "DELETE /v1/voices/{name:voice}": SUBMIT,
    "GET /v1/voices/{name:path}/versions": READ,
    "GET /v1/voices/{name:path}/bundle.zip": READ,
    "POST /v1/voices/{name:path}/links": SUBMIT,
    "GET /v1/voices/{name:path}/links": READ,
    "GET /v1/voices/{name:path}/links/{link_id}": READ,
    "DELETE /v1/voices/{name:path}/links/{link_id}": SUBMIT,
    "OPTIONS /v1/uploads": OPEN,
    "OPTIONS /v1/uploads/{upload_id}": OPEN,
    "POST /v1/uploads": SUBMIT,
    "HEAD /v1/uploads/{upload_id}": READ,
    "PATCH /v1/uploads/{upload_id}": SUBMIT,
    "DELETE /v1/uploads/{upload_id}": SUBMIT,
    "PUT /v1/datasets/{name:path}/content": SUBMIT,
    "POST /v1/datasets": SUBMIT,
    "GET /v1/datasets": READ,
    "GET /v1/datasets/{dataset_id}": READ,
    "GET /v1/datasets/{dataset_id}/report": READ,
    "GET /v1/datasets/{dataset_id}/recordings/{number}": READ,
    "PUT /v1/datasets/{dataset_id}/consent": SUBMIT,
    "DELETE /v1/datasets/{dataset_id}/consent": SUBMIT,
    "GET /v1/datasets/{dataset_id}/consent/document": READ,
    "DELETE /v1/datasets/{dataset_id}": SUBMIT,
    "POST /v1/jobs": SUBMIT,
    "GET /v1/jobs": READ,
    "GET /v1/jobs/{job_id}": READ,
    "DELETE /v1/jobs/{job_id}": SUBMIT,
    "PATCH /v1/jobs/{job_id}": SUBMIT,
    "POST /v1/jobs:estimate": READ,
    "POST /v1/jobs/{job_id}/cancel": SUBMIT,
    "POST /v1/jobs/{job_id}/pause": SUBMIT,
    "POST /v1/jobs/{job_id}/resume": SUBMIT,
    "POST /v1/jobs/{job_id}/retry": SUBMIT,
    "GET /v1/jobs/{job_id}/events": READ,
    "GET /v1/events": READ,
    "GET /v1/jobs/{job_id}/logs": READ,
    "GET /v1/jobs/{job_id}/metrics": READ,
    "GET /v1/jobs/{job_id}/checkpoints": READ,
    "GET /v1/jobs/{job_id}/previews": READ,
    "GET /v1/jobs/{job_id}/previews/{name}": READ,
    "GET /v1/jobs/{job_id}/artifacts": READ,
    "GET /v1/jobs/{job_id}/artifacts.zip": READ,
    "GET /v1/jobs/{job_id}/artifacts/{name}": READ,
    "POST /v1/webhooks": SUBMIT,
    "GET /v1/webhooks": READ,
    "GET /v1/webhooks/{webhook_id}": READ,
    "PATCH /v1/webhooks/{webhook_id}": SUBMIT,
    "DELETE /v1/webhooks/{webhook_id}": SUBMIT,
    "POST /v1/webhooks/{webhook_id}/rotate-secret": SUBMIT,
    "POST /v1/webhooks/{webhook_id}/test": SUBMIT,
    "GET /v1/webhooks/{webhook_id}/deliveries": READ,
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": SUBMIT,
    "GET /v1/retention": ADMIN,
    "PUT /v1/retention": ADMIN,
    "POST /v1/retention/run": ADMIN,
    "GET /v1/owners": ADMIN,
    "PUT /v1/owners/{owner}/quota": ADMIN,
    "DELETE /v1/owners/{owner}/quota": ADMIN,
    "GET /v1/audit": ADMIN,
    "GET /v1/worker/server": WORK,
    "GET /v1/worker/queue": WORK,
    "POST /v1/worker/statuses": WORK,
    "GET /v1/worker/calibration": WORK,
    "PUT /v1/worker/calibration": WORK,
    "POST /v1/worker/workers": WORK,
    "DELETE /v1/worker/workers/{worker_id}": WORK,
    "POST /v1/worker/workers/{worker_id}/hand-back": WORK,
    "POST /v1/worker/workers/{worker_id}/heartbeat": WORK,
    "PUT /v1/worker/workers/{worker_id}/gpus": WORK,
    "GET /v1/worker/workers/{worker_id}/never-claimed": WORK,
    "POST /v1/worker/workers/{worker_id}/claims": WORK,
    "POST /v1/worker/workers/{worker_id}/conversion-claims": WORK,
    "POST /v1/worker/leases/{lease_id}/renew": WORK,
    "GET /v1/worker/leases/{lease_id}/inputs": WORK,
    "GET /v1/worker/leases/{lease_id}/recordings/{name}": WORK,
    "GET /v1/worker/leases/{lease_id}/start/{name}": WORK,
    "GET /v1/worker/leases/{lease_id}/checkpoints": WORK,
    "GET /v1/worker/leases/{lease_id}/checkpoints/{name}": WORK,
    "POST /v1/worker/leases/{lease_id}/checkpoints": WORK,
    "GET /v1/worker/leases/{lease_id}/files/{sha256}": WORK,
    "PUT /v1/worker/leases/{lease_id}/files/{sha256}": WORK,
    "PUT /v1/worker/leases/{lease_id}/engine": WORK,
    "POST /v1/worker/leases/{lease_id}/events": WORK,
    "POST /v1/worker/leases/{lease_id}/log": WORK,
    "POST /v1/worker/leases/{lease_id}/finish": WORK,
    "GET /v1/worker/conversions/{lease_id}/voice/{name}": WORK,
    "GET /v1/worker/conversions/{lease_id}/recordings/{number}": WORK,
    "GET /v1/worker/conversions/{lease_id}/files/{sha256}": WORK,
    "PUT /v1/worker/conversions/{lease_id}/files/{sha256}": WORK,
    "POST /v1/worker/conversions/{lease_id}/heartbeat": WORK,
    "POST /v1/worker/conversions/{lease_id}/finish": WORK,
    "POST /v1/worker/conversions/{lease_id}/fail": WORK,
    "POST /v1/worker/conversions/{lease_id}/release": WORK,
    "POST /v1/tokens": ADMIN,
    "GET /v1/tokens": ADMIN,
    "GET /v1/tokens/{token_id}": ADMIN,
    "DELETE /v1/tokens/{token_id}": ADMIN,
}
"""The scope of each route. A new route must be added here."""
BUT_WORKERS = WANTED["GET /metrics"]
ALLOWS = {None: {OPEN}, READ: {OPEN, BUT_WORKERS, READ}, SUBMIT: {OPEN, BUT_WORKERS, READ, SUBMIT}, WORK: {OPEN, WORK}}
ALLOWS[ADMIN] = ALLOWS[SUBMIT] | {WORK, ADMIN}


def routes_of(app: Any) -> dict[str, Any]:
    """Every method and path of the app, including undocumented ones, with its function."""
    found = {}
    for context in iter_route_contexts(app.routes):
        if context.path == "/static":
            continue  # a folder of files; test_pages has it
        found |= {f"{method} {context.path}": context.endpoint for method in context.methods or ()}
    return found


def test_every_route_is_listed_with_its_scope(tmp_path: Path) -> None:
    routes = routes_of(create_app(ServerSettings(data_folder=tmp_path)))
    assert set(routes) == set(WANTED)
    declared = {route: required_scope(endpoint) for route, endpoint in routes.items()}
    guarded = {route: wanted for route, wanted in WANTED.items() if wanted in {READ, SUBMIT, WORK, ADMIN}}
    assert {route: declared[route] for route in guarded} == guarded


def test_of_every_part_of_a_path_it_is_known_whose_it_is(tmp_path: Path) -> None:
    parts = {part for route in WANTED for part in re.findall(r"\{(\w+)\}", route)}
    assert parts <= set(OWNED_PARAMS) | UNOWNED_PARAMS
    alone = {part: {WANTED[route] for route in WANTED if f"{{{part}}}" in route} for part in ("worker_id", "token_id")}
    assert alone == {"worker_id": {ADMIN, WORK}, "token_id": {ADMIN}}


@pytest.mark.parametrize("scope", [None, READ, SUBMIT, WORK, ADMIN])
def test_each_scope_opens_just_its_doors(guarded: Any, holder: Callable[..., httpx.Client], scope: str | None) -> None:
    with guarded.client() if scope is None else holder("tester", scope) as client:
        for route, wanted in WANTED.items():
            method, pattern = route.split(" ")
            answer = client.request(method, path_of(pattern), headers={"Tus-Resumable": "1.0.0"})
            if wanted in ALLOWS[scope]:
                assert answer.status_code not in {401, 403}, route
                continue
            expected = (401, "unauthorized") if scope is None else (403, "scope_missing")
            problem = {} if method == "HEAD" else answer.json()
            assert (answer.status_code, problem.get("code", expected[1])) == expected, route
            assert scope is None or method == "HEAD" or wanted == BUT_WORKERS or wanted in problem["detail"], route


def path_of(pattern: str, **ids: str) -> str:
    """A path of this pattern; parameters that are not in `ids` name nothing that exists."""
    ids = {"upload_id": "upl_" + "0" * 32, "number": "1"} | ids
    return re.sub(r"\{(\w+)\}", lambda part: ids.get(part[1], "nothing"), pattern)


BODIES = {
    "PUT /v1/datasets/{dataset_id}/consent": {"speaker": "Anna", "statement": "For the guide.", "date": "2026-11-28"},
    "PATCH /v1/jobs/{job_id}": {"labels": {"a": "b"}},
    "POST /v1/jobs/{job_id}/retry": {},
    "PATCH /v1/webhooks/{webhook_id}": {"is_enabled": False},
}
TUS = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}


OWNED_ROUTES = [
    route for route, wanted in WANTED.items() if wanted != OPEN and any(f"{{{part}}}" in route for part in OWNED_PARAMS)
]


@pytest.mark.parametrize("route", OWNED_ROUTES)
def test_another_owners_thing_is_not_there_whatever_is_asked_of_it(
    route: str, annas_resources: dict[str, str], holder: Callable[..., httpx.Client]
) -> None:
    """The answer is the same as for an id that does not exist, except for the id."""
    bob = holder("bob", SUBMIT)
    method, pattern = route.split(" ")
    answers = []
    for ids in (annas_resources, {part: an_id[:-8] + "0" * 8 for part, an_id in annas_resources.items()}):
        headers = TUS if "upload_id" in route else {}
        body = {"json": BODIES[route]} if route in BODIES else {}
        answer = bob.request(method, path_of(pattern, **ids), headers=headers, **body)
        assert answer.status_code == 404, route
        text = answer.text.replace(answer.headers["x-request-id"], "")
        for part, an_id in ids.items():
            text = text.replace(an_id, part)
        answers.append(text)
    assert answers[0] == answers[1]


def test_the_page_of_a_job_is_one_shell_for_every_id(guarded: Any, annas_resources: dict[str, str]) -> None:
    with guarded.client() as anyone:
        pages = [anyone.get(f"/jobs/{an_id}").text for an_id in (annas_resources["job_id"], "nothing")]
    assert len({re.sub(r'name="style-nonce" content="[^"]+"', "", page) for page in pages}) == 1


@pytest.fixture(scope="module")
def annas_resources(guarded: Any) -> dict[str, str]:
    """Ids of one resource of each kind that has an owner."""
    with guarded.client(Authorization="Bearer the-first-token-of-all") as administrator:
        secret = administrator.post("/v1/tokens", json={"owner": "anna"}).json()["secret"]
    with guarded.client(Authorization=f"Bearer {secret}") as anna:
        dataset_id = anna.put("/v1/datasets/mine/content", content=b"RIFFone").json()["id"]
        job_id = anna.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset_id}).json()["id"]
        begun = anna.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5"})
        return {
            "dataset_id": dataset_id,
            "job_id": job_id,
            "link_id": anna.post("/v1/voices/anna/links").json()["id"],
            "webhook_id": anna.post("/v1/webhooks", json={"url": "https://93.184.216.34/"}).json()["id"],
            "upload_id": begun.headers["location"].rpartition("/")[2],
        }


def test_a_route_that_does_not_say_its_scope_or_whose_its_things_are_is_refused(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "rvc-train.db")
    app = create_app(ServerSettings(data_folder=tmp_path, token=FIRST))
    careless = APIRouter(prefix="/v1", dependencies=[Depends(check_access)])

    @careless.get("/silent")
    def route_without_scope() -> str:
        return "a secret"

    @careless.get("/of/{stranger_id}")
    @requires(Scope.READ)
    def route_with_unknown_parameter(stranger_id: str) -> str:
        return stranger_id

    app.include_router(careless)
    _, secret = app.state.context.tokens.create(TokenCreate(owner="anna"))
    http = TestClient(app, "http://localhost", headers={"Authorization": f"Bearer {FIRST}"})
    assert http.get("/v1/silent").json()["code"] == "forbidden"
    assert http.get("/v1/of/nobody").text == '"nobody"'
    refused = http.get("/v1/of/nobody", headers={"Authorization": f"Bearer {secret}"})
    assert (refused.status_code, "cannot be checked" in refused.json()["detail"]) == (403, True)
    app.state.context.engine.dispose()
