"""Origin of a write behind a proxy that calls the server by another host than its visitors call the proxy."""

import httpx
import pytest

ORIGIN = {"Origin": "https://voices.example:8481"}
FROM_PROXY = {"Host": "127.0.0.1:8000", "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}


@pytest.mark.parametrize(("trusted", "status"), [("127.0.0.1", 204), ("10.0.0.1", 403)])
def test_the_host_that_a_trusted_proxy_names_is_the_servers_own(started, authorized, trusted, status):
    _, url = started(FORWARDED_ALLOW_IPS=trusted)
    token = {"token": authorized["Authorization"].removeprefix("Bearer ")}
    host = {"X-Forwarded-Host": "voices.example:8481"}
    with httpx.Client(base_url=url, headers=FROM_PROXY) as http:
        assert http.post("/v1/session", json=token, headers=ORIGIN | host).status_code == status
        evil = http.post("/v1/session", json=token, headers={"Origin": "https://evil.example"} | host)
        unnamed = http.post("/v1/session", json=token, headers=ORIGIN)
    assert (evil.status_code, unnamed.status_code) == (403, 403)
    assert "'https://evil.example'" in evil.json()["detail"]
    assert "https://voices.example:8481" in unnamed.json()["detail"]
    assert "127.0.0.1:8000'" in unnamed.json()["detail"]
    assert "hand on Host with its port" in unnamed.json()["detail"]
