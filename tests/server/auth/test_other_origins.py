"""Pages of other origins: none by default, those of the setting with a token, none with a cookie."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from server.settings import ServerSettings

STUDIO = "https://studio.example.org"
PREFLIGHT = {"Origin": STUDIO, "Access-Control-Request-Method": "PATCH"}
PREFLIGHT |= {"Access-Control-Request-Headers": "authorization, tus-resumable, upload-offset"}


@pytest.fixture(scope="module")
def shared(serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve_for_module(tmp_path_factory.mktemp("shared"), cors_origins=f"{STUDIO}, http://localhost:5173") as server:
        yield server


def test_a_page_of_an_allowed_origin_may_ask_and_read(shared: Any, authorized: dict[str, str]) -> None:
    answer = httpx.options(f"{shared.url}/v1/uploads/upl_x", headers=PREFLIGHT)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, STUDIO)
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "tus-resumable" in answer.headers["access-control-allow-headers"]
    for headers in (authorized, {}):  # a refusal is readable too
        answer = httpx.get(f"{shared.url}/v1/me", headers={"Origin": STUDIO, **headers})
        assert answer.headers["access-control-allow-origin"] == STUDIO
        exposed = answer.headers["access-control-expose-headers"]
        assert {"Location", "Upload-Offset", "Link", "ETag", "X-Request-ID"} <= set(exposed.split(", "))
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_another_origin_may_not(shared: Any, authorized: dict[str, str]) -> None:
    evil = {"Origin": "https://evil.example"}
    assert httpx.options(f"{shared.url}/v1/jobs", headers=PREFLIGHT | evil).status_code == 400
    answer = httpx.get(f"{shared.url}/v1/me", headers=authorized | evil)
    assert "access-control-allow-origin" not in answer.headers


def test_by_default_no_origin_is_allowed_and_options_need_no_token(live: Any) -> None:
    answer = httpx.options(f"{live.url}/v1/jobs", headers=PREFLIGHT)
    assert answer.status_code == 204
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("text", ["*", "studio.example.org", "https://a.example/path", "null"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        ServerSettings(cors_origins=text)


def test_a_wrong_token_is_told_from_none(live: Any) -> None:
    wrong = httpx.get(f"{live.url}/v1/me", headers={"Authorization": "Bearer rvc_wrong"})
    assert wrong.headers["www-authenticate"] == 'Bearer realm="rvc-train", error="invalid_token"'
    assert httpx.get(f"{live.url}/v1/me").headers["www-authenticate"] == 'Bearer realm="rvc-train"'


def test_probes_are_never_limited(serve: Callable[..., Any], tmp_path: Path) -> None:
    limits = {"requests_per_minute": 2.0, "refusals_per_minute": 2.0}
    with serve(tmp_path, token="a-token-with-limits", **limits) as server:
        wrong = {"Authorization": "Bearer rvc_wrong"}
        assert 429 in {httpx.get(f"{server.url}/v1/me", headers=wrong).status_code for _ in range(5)}
        for headers in ({}, wrong, {"Authorization": "Bearer a-token-with-limits"}):
            for path in ("/livez", "/readyz"):
                assert {httpx.head(server.url + path, headers=headers).status_code for _ in range(10)} == {200}
