"""A server behind TLS with a certificate of the user's own authority, on this machine."""

import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from rvc_train.client import connect
from rvc_train.errors import ConnectionFailed, UsageError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform == "win32" and shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem")
    names = ("-days", "2", "-out", "own.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    subprocess.run(["openssl", "req", "-x509", *key, *names], cwd=folder, check=True, capture_output=True)
    return folder / "own.pem"


@pytest.fixture
def address(server, certificate):
    """Address of the server of these tests, with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answer = lambda request: request.send_json({"owner": "anna", "scopes": [], "token_id": None})
    return server.url.replace("http://127.0.0.1", "https://localhost")


def test_the_file_in_ssl_cert_file_is_trusted_on_this_machine_too(address, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    with connect(address, "") as http:
        assert http.get("/v1/me").status_code == 200


def test_a_certificate_that_is_not_trusted_has_a_sentence_of_its_own(address, server, make_client):
    client = make_client(address, "")
    with pytest.raises(ConnectionFailed, match=r"certificate of https://localhost.* set SSL_CERT_FILE") as refused:
        client.queue()
    with pytest.raises(ConnectionFailed, match="set SSL_CERT_FILE"):
        next(client.follow_events("job_x", reconnect_seconds=1))
    assert "rvc-train up" not in str(refused.value)
    assert server.seen == []


def test_a_file_of_certificates_that_is_not_there_is_named(monkeypatch, tmp_path, make_client):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        make_client("https://localhost:1", "")


@pytest.mark.parametrize("end", ["/v1", "/v1/", "/"])
def test_an_address_may_end_in_v1(server, end):
    server.answer = lambda request: request.send_json({})
    with connect(server.url + end, "") as http:
        http.get("/v1/me")
    assert server.seen[0][1] == "/v1/me"
