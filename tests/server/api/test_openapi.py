"""The OpenAPI document, as validators and generators of clients read it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate


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
