"""What tus 1.0.0 demands of a server, word by word, as clients of other people meet it."""

import base64
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
UNKNOWN = "/v1/uploads/upl_" + "0" * 32


def create(http: httpx.Client, length: int = 10, **headers: str) -> str:
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)} | headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def send(http: httpx.Client, address: str, offset: int, chunk: bytes, **headers: str) -> httpx.Response:
    return http.patch(address, content=chunk, headers=CHUNK | {"Upload-Offset": str(offset)} | headers)


def offset_of(http: httpx.Client, address: str) -> int:
    answer = http.head(address, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def refused(http: httpx.Client, **headers: str) -> tuple[int, str]:
    answer = http.post("/v1/uploads", headers=TUS | headers)
    return answer.status_code, answer.json()["detail"]


def test_a_method_in_a_header_counts_in_place_of_post(http: httpx.Client) -> None:
    address = create(http)
    override = CHUNK | {"Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert http.post(address, content=b"01234", headers=override).headers["upload-offset"] == "5"
    answer = http.post(address, headers=TUS | {"X-HTTP-Method-Override": "HEAD"})
    assert (answer.status_code, answer.headers["upload-offset"], answer.content) == (200, "5", b"")
    assert http.post(address, headers=TUS | {"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert http.head(address, headers=TUS).status_code == 404


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
@pytest.mark.parametrize("version", [{}, {"Tus-Resumable": "0.2.2"}])
def test_another_version_is_refused_before_anything_else(live: Any, method: str, version: dict[str, str]) -> None:
    path = "/v1/uploads" if method == "POST" else UNKNOWN  # without a token, and without any other header
    answer = httpx.request(method, live.url + path, headers=version)
    assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")


def test_every_answer_but_that_to_options_has_the_version(http: httpx.Client, live: Any) -> None:
    address = create(http)
    answers = [
        httpx.post(f"{live.url}/v1/uploads", headers=TUS),
        http.post("/v1/uploads", headers=TUS),
        http.get(UNKNOWN),
        http.delete(UNKNOWN, headers=TUS),
        http.delete("/v1/uploads/not/there", headers=TUS),
        send(http, address, 0, b"a", **{"Content-Type": "text/plain"}),
        send(http, address, 1, b"a"),
        http.patch(address, headers={"Tus-Resumable": "2.0.0"}),
        http.delete(address, headers=TUS),
    ]
    assert [answer.status_code for answer in answers] == [401, 422, 405, 404, 404, 415, 409, 412, 204]
    assert {answer.headers["tus-resumable"] for answer in answers} == {"1.0.0"}


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/uploads/", UNKNOWN])
def test_options_tell_what_there_is_to_anyone(live: Any, path: str) -> None:
    answer = httpx.options(live.url + path, headers={"Tus-Resumable": "0.2.2"})
    assert answer.status_code == 204
    assert "tus-resumable" not in answer.headers
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,checksum,expiration,termination"
    assert answer.headers["tus-max-size"] == str(live.context.settings.max_upload_bytes)
    assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1,md5"


def test_an_unknown_checksum_algorithm_is_400(http: httpx.Client) -> None:
    answer = send(http, create(http), 0, b"a", **{"Upload-Checksum": "crc32 AAAA"})
    assert (answer.status_code, answer.json()["code"]) == (400, "unsupported_checksum")


def test_what_is_longer_than_the_limit_is_413_whatever_the_disk_has(http: httpx.Client) -> None:
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(10**15)})
    assert (answer.status_code, answer.json()["retryable"]) == (413, False)


def test_an_address_with_a_slash_at_its_end_is_the_same(http: httpx.Client) -> None:
    answer = http.post("/v1/uploads/", headers=TUS | {"Upload-Length": "5"})
    assert answer.status_code == 201
    assert http.head(answer.headers["location"] + "/", headers=TUS).headers["upload-offset"] == "0"


def test_extensions_that_are_not_there_are_refused_by_name_at_the_first_request(http: httpx.Client) -> None:
    status, detail = refused(http, **{"Upload-Concat": "partial", "Upload-Length": "5"})
    assert (status, "set parallelUploads to 1" in detail) == (400, True)
    status, detail = refused(http, **{"Upload-Concat": "final;/v1/uploads/a /v1/uploads/b"})
    assert (status, "set parallelUploads to 1" in detail) == (400, True)
    status, detail = refused(http, **{"Upload-Defer-Length": "1"})
    assert (status, "set uploadLengthDeferred to false" in detail) == (400, True)


def test_an_empty_file_has_a_sentence_of_its_own(http: httpx.Client) -> None:
    assert refused(http, **{"Upload-Length": "0"}) == (422, "the file is empty; choose one with recordings")


@pytest.mark.parametrize("metadata", ["", "is_confidential", "filename 5aOwLnppcA==,b YQ=="])
def test_metadata_come_back_word_for_word(http: httpx.Client, metadata: str) -> None:
    address = create(http, **{"Upload-Metadata": metadata})
    assert http.head(address, headers=TUS).headers.get("upload-metadata", "") == metadata


@pytest.mark.parametrize("metadata", [b"filename  d,,x", b"a !!!notbase64", b"a YQ==,a Yg==", "näme YQ==".encode()])
def test_metadata_of_another_form_are_refused(http: httpx.Client, metadata: bytes) -> None:
    headers = [(b"Tus-Resumable", b"1.0.0"), (b"Upload-Length", b"1"), (b"Upload-Metadata", metadata)]
    answer = http.post("/v1/uploads", headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["header"]) == (422, "Upload-Metadata")


def test_an_address_of_another_form_is_404(http: httpx.Client) -> None:
    assert http.head("/v1/uploads/nonsense", headers=TUS).status_code == 404


def test_the_first_bytes_may_come_with_the_creation(http: httpx.Client) -> None:
    headers = CHUNK | {"Upload-Length": "10"}
    answer = http.post("/v1/uploads", content=b"0123456", headers=headers)
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "7")
    assert send(http, answer.headers["location"], 7, b"789").headers["upload-offset"] == "10"


def test_a_creation_whose_bytes_are_refused_leaves_no_upload(http: httpx.Client, live: Any) -> None:
    digest = base64.b64encode(bytes(20)).decode()
    headers = CHUNK | {"Upload-Length": "10", "Upload-Checksum": f"sha1 {digest}"}
    before = set(live.context.storage.entries("uploads"))
    assert http.post("/v1/uploads", content=b"0123456", headers=headers).status_code == 460
    assert http.post("/v1/uploads", content=b"0" * 11, headers=CHUNK | {"Upload-Length": "10"}).status_code == 409
    assert http.post("/v1/uploads", content=b"0", headers=TUS | {"Upload-Length": "10"}).status_code == 415
    assert set(live.context.storage.entries("uploads")) == before


def test_answers_without_content_have_no_content_type(http: httpx.Client) -> None:
    made = http.post("/v1/uploads", headers=TUS | {"Upload-Length": "5"})
    assert (made.status_code, made.content) == (201, b"")
    done = [send(http, made.headers["location"], 0, b"a"), http.delete(made.headers["location"], headers=TUS)]
    assert [answer.status_code for answer in done] == [204, 204]
    assert not any("content-type" in answer.headers for answer in [made, *done])


def test_chunks_may_have_the_media_type_that_other_programs_know(http: httpx.Client) -> None:
    answer = send(http, create(http), 0, b"abc", **{"Content-Type": "application/octet-stream"})
    assert answer.headers["upload-offset"] == "3"


@pytest.mark.parametrize("scope", ["read", "submit"])
def test_asking_for_the_offset_ends_no_chunk_under_way(
    guarded: Any, administrator: httpx.Client, holder: Callable[..., httpx.Client], scope: str, eventually: Any
) -> None:
    sender, other = holder(f"anna-{scope}", "submit"), holder(f"anna-{scope}", scope)
    address = create(sender, 2_000_000)
    url = httpx.URL(guarded.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"PATCH {address} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 2000000\r\nUpload-Offset: 0\r\n"
        lines = {**CHUNK, "Authorization": sender.headers["authorization"]}
        connection.sendall((head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode())
        connection.sendall(bytes(500_000))
        eventually(lambda: offset_of(other, address) == 500_000)
        connection.sendall(bytes(1_500_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 204")
    assert offset_of(other, address) == 2_000_000


def test_small_chunks_are_limited_by_bytes_and_not_by_their_number(serve: Callable[..., Any], tmp_path: Path) -> None:
    limits = {"writes_per_minute": 5.0, "requests_per_minute": 20.0}
    header = {"Authorization": "Bearer a-token-with-limits"}
    with serve(tmp_path, token="a-token-with-limits", **limits) as server, server.client(**header) as http:
        size, count = 16 << 10, 40
        address = create(http, size * count)
        for number in range(count):
            assert send(http, address, size * number, bytes(size)).status_code == 204
        assert offset_of(http, address) == size * count
    for chunk in (b"", bytes(size)):  # what brings no bytes counts as any other request
        with serve(tmp_path, token="a-token-with-limits", **limits) as server, server.client(**header) as http:
            assert 429 in {send(http, address, 1, chunk).status_code for _ in range(40)}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_sends_a_file_in_one_request(live: Any, http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "recording.wav"
    file.write_bytes(bytes(100_000))
    lines = TUS | {"Upload-Length": "100000", "Authorization": http.headers["authorization"]}
    lines |= {"Content-Type": "application/octet-stream"}
    flags = [word for name, value in lines.items() for word in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "-D", "-", "--data-binary", f"@{file}", *flags, f"{live.url}/v1/uploads/"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.lower()
    assert "upload-offset: 100000" in answer
