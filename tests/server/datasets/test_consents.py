"""Consents of speakers over HTTP: given, replaced, removed, inherited, kept by jobs, and asked for by the server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_train import Client, connect
from rvc_train.schemas.access import Scope
from rvc_train.schemas.datasets import ConsentCreate
from server.datasets.consents import MAX_DOCUMENT_BYTES

ANNA = {"speaker": "Anna Ito", "statement": "My voice may be trained\nfor the audio guide.", "date": "2026-11-28"}


@pytest.fixture
def dataset(http: httpx.Client, zipped: Callable[..., bytes], request: pytest.FixtureRequest) -> str:
    content = zipped({"1.wav": b"RIFF" + request.node.name.encode(), "2.wav": b"RIFFtwo"})
    made = http.put("/v1/datasets/anna/content", content=content).json()
    assert made["consent"] is None
    return str(made["id"])


def upload(http: httpx.Client, content: bytes) -> str:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))}
    headers |= {"Content-Type": "application/offset+octet-stream"}
    answer = http.post("/v1/uploads", content=content, headers=headers)
    return answer.headers["Location"].rpartition("/")[2]


def used(http: httpx.Client) -> int:
    return int(http.get("/v1/me").json()["usage"]["bytes"])


def test_a_consent_is_set_replaced_and_removed_with_its_document(http: httpx.Client, live: Any, dataset: str) -> None:
    path = f"/v1/datasets/{dataset}/consent"
    before = used(http)
    with_form = ANNA | {"upload_id": upload(http, b"%PDF a signed form"), "document_name": "form.pdf"}
    answer = http.put(path, json=with_form)
    assert answer.status_code == 200, answer.text
    consent = answer.json()["consent"]
    assert {key: consent[key] for key in ANNA} == ANNA
    assert (consent["document"]["name"], consent["document"]["size_bytes"]) == ("form.pdf", 18)
    assert http.put(path, json=with_form).json()["consent"] == consent, "repeated after a lost answer"
    assert http.get(f"/v1/datasets/{dataset}").json()["consent"] == consent
    assert used(http) == before + 18
    document = http.get(f"{path}/document")
    assert document.content == b"%PDF a signed form"
    assert "form.pdf" in document.headers["Content-Disposition"]
    assert document.headers["ETag"] == f'"{consent["document"]["sha256"]}"'

    stolen = http.put(path, json=ANNA | {"speaker": "Eve", "upload_id": "upl_" + "0" * 32})
    assert (stolen.status_code, stolen.json()["errors"][0]["pointer"]) == (422, "/upload_id")
    other = http.put(path, json=ANNA | {"statement": "For the guide of 2027 too."}).json()["consent"]
    assert other["document"] is None
    assert used(http) == before
    assert list(live.context.storage.consent_folder(dataset).glob("*")) == []
    assert http.get(f"{path}/document").status_code == 404
    given = http.get("/v1/audit", params={"target": dataset, "action": "dataset.consent_given"}).json()["data"]
    assert [entry["detail"]["before"] for entry in given] == [consent, None]
    assert given[0]["detail"]["consent"] == other

    assert http.delete(path).status_code == 204
    assert http.get(f"/v1/datasets/{dataset}").json()["consent"] is None
    assert http.delete(path).status_code == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speaker", " "),
        ("speaker", "a\nb"),
        ("speaker", "a" * 201),
        ("statement", "\n"),
        ("statement", "a\0b"),
        ("date", "28.11.2026"),
        ("date", "2026-02-30"),
        ("witness", "Bob"),
    ],
)
def test_a_consent_that_says_nothing_is_refused(http: httpx.Client, dataset: str, field: str, value: str) -> None:
    answer = http.put(f"/v1/datasets/{dataset}/consent", json=ANNA | {field: value})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/{field}")


def test_a_document_is_at_most_ten_megabytes_and_is_used_once(http: httpx.Client, dataset: str) -> None:
    path = f"/v1/datasets/{dataset}/consent"
    large = upload(http, bytes(MAX_DOCUMENT_BYTES + 1))
    answer = http.put(path, json=ANNA | {"upload_id": large})
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert "at most 10 MB" in answer.json()["detail"]
    form = upload(http, b"form")
    assert http.put(path, json=ANNA | {"upload_id": form}).status_code == 200
    assert http.put(path, json=ANNA).status_code == 200
    assert http.put(path, json=ANNA | {"upload_id": form}).status_code == 409


def test_a_dataset_is_made_with_a_consent_which_those_derived_from_it_inherit(
    http: httpx.Client, live: Any, zipped: Callable[..., bytes]
) -> None:
    recordings = upload(http, zipped({"1.wav": b"RIFFx", "2.wav": b"RIFFy"}))
    body = {"name": "anna", "upload_id": recordings, "consent": ANNA | {"upload_id": upload(http, b"a form")}}
    made = http.post("/v1/datasets", json=body)
    assert made.status_code == 201, made.text
    consent = made.json()["consent"]
    assert consent["speaker"] == "Anna Ito"
    assert http.post("/v1/datasets", json=body).json()["consent"] == consent
    source = {"dataset_id": made.json()["id"], "without": ["2.wav"]}
    derived = http.post("/v1/datasets", json={"name": "less", **source}).json()
    assert derived["consent"] == consent
    assert http.delete(f"/v1/datasets/{made.json()['id']}").status_code == 204
    assert not live.context.storage.consent_folder(made.json()["id"]).exists()
    assert http.get(f"/v1/datasets/{derived['id']}/consent/document").content == b"a form"


def test_a_job_keeps_the_consent_that_it_was_submitted_under(http: httpx.Client, live: Any, dataset: str) -> None:
    path = f"/v1/datasets/{dataset}/consent"
    consent = http.put(path, json=ANNA).json()["consent"]
    job = http.post("/v1/jobs", json={"name": "anna", "dataset_id": dataset}).json()
    assert job["consent"] == consent
    refused = http.delete(path)
    assert refused.status_code == 409
    assert job["id"] in refused.json()["detail"]
    http.put(path, json=ANNA | {"speaker": "Anna I."})
    assert http.get(f"/v1/jobs/{job['id']}").json()["consent"] == consent
    http.post(f"/v1/jobs/{job['id']}/cancel")
    retried = http.post(f"/v1/jobs/{job['id']}/retry", json={"from": "start"}).json()
    assert retried["consent"]["speaker"] == "Anna I.", "a retry is submitted under the present one"
    for each in (retried, job):
        http.post(f"/v1/jobs/{each['id']}/cancel")
        assert http.delete(f"/v1/jobs/{each['id']}").status_code == 204
    assert http.delete(path).status_code == 204


def test_anothers_consent_is_not_found(http: httpx.Client, live: Any, dataset: str) -> None:
    path = f"/v1/datasets/{dataset}/consent"
    http.put(path, json=ANNA | {"upload_id": upload(http, b"form")})
    scopes = [Scope.READ, Scope.SUBMIT]
    token = http.post("/v1/tokens", json={"owner": "bob", "name": "b", "scopes": scopes}).json()["secret"]
    with live.client() as bob:
        bob.headers["Authorization"] = f"Bearer {token}"
        for method, address in (("PUT", path), ("DELETE", path), ("GET", f"{path}/document")):
            body = {"json": ANNA} if method == "PUT" else {}
            assert bob.request(method, address, **body).status_code == 404


@pytest.fixture
def strict(serve: Callable[..., Any], tmp_path: Path) -> Iterator[httpx.Client]:
    with serve(tmp_path, require_consent=True) as server, server.client() as client:
        yield client


def test_a_server_that_asks_for_consent_takes_no_job_without(strict: httpx.Client) -> None:
    assert strict.get("/v1/system").json()["requires_consent"] is True
    dataset = strict.put("/v1/datasets/anna/content", content=b"RIFF" + bytes(200)).json()["id"]
    body = {"name": "anna", "dataset_id": dataset}
    refused = strict.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "consent_required")
    assert f"PUT /v1/datasets/{dataset}/consent" in refused.json()["detail"]
    assert refused.json()["detail"] in strict.post("/v1/jobs:estimate", json=body).json()["warnings"]
    strict.put(f"/v1/datasets/{dataset}/consent", json=ANNA)
    assert strict.post("/v1/jobs", json=body).status_code == 202


def test_the_client_records_consents(live: Any, tmp_path: Path) -> None:
    recording, form = tmp_path / "anna.wav", tmp_path / "form.pdf"
    recording.write_bytes(b"RIFF of the client")
    form.write_bytes(b"%PDF of the client")
    with Client(connect(live.url, token=live.context.settings.token.get_secret_value()), tmp_path / "memory") as client:
        made = client.upload_dataset([recording], consent=ConsentCreate(**ANNA), consent_document=form)
        assert made.consent is not None
        assert made.consent.document is not None
        assert made.consent.document.name == "form.pdf"
        assert client.consent_document(made.id) == form.read_bytes()
        changed = client.set_consent(made.id, ConsentCreate(**ANNA | {"speaker": "A. Ito"}))
        assert changed.consent is not None
        assert (changed.consent.speaker, changed.consent.document) == ("A. Ito", None)
        client.delete_consent(made.id)
        assert client.dataset(made.id).consent is None
