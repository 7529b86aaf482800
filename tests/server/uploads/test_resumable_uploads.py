import base64
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.uploads import receive

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture
def recording(zipped: Callable[..., bytes]) -> bytes:
    return zipped({f"{time.monotonic_ns()}.wav": b"RIFF" + bytes(range(256)) * 40}, 0)


def begin(http: httpx.Client, length: int, **headers: str) -> str:
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)} | headers)
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.headers["location"]


def send(http: httpx.Client, address: str, offset: int, piece: bytes, **headers: str) -> httpx.Response:
    return http.patch(address, content=piece, headers=PIECE | {"Upload-Offset": str(offset)} | headers)


def offset_of(http: httpx.Client, address: str) -> int:
    answer = http.head(address, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def checksum(piece: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, piece).digest()).decode()}"


def test_pieces_become_a_dataset_once_all_are_here(http: httpx.Client, recording: bytes) -> None:
    address = begin(http, len(recording), **{"Upload-Metadata": "filename YS56aXA="})
    assert offset_of(http, address) == 0
    assert send(http, address, 0, recording[:1000]).headers["upload-offset"] == "1000"
    request = {"name": "in pieces", "upload_id": address.rpartition("/")[2]}
    early = http.post("/v1/datasets", json=request)
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    assert "1000 of its" in early.json()["detail"]
    assert send(http, address, 1000, recording[1000:]).status_code == 204
    made = http.post("/v1/datasets", json=request)
    assert made.status_code == 201
    assert made.json()["sha256"] == hashlib.sha256(recording).hexdigest()
    again = http.post("/v1/datasets", json=request)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert http.head(address, headers=TUS).headers["upload-metadata"] == "filename YS56aXA="


def test_a_piece_at_the_wrong_place_is_told_the_true_one(http: httpx.Client) -> None:
    address = begin(http, 100)
    send(http, address, 0, b"a" * 40)
    answer = send(http, address, 10, b"b" * 10)
    assert (answer.status_code, answer.headers["upload-offset"]) == (409, "40")
    assert answer.json()["code"] == "offset_mismatch"


def test_a_damaged_piece_does_not_count(http: httpx.Client) -> None:
    address = begin(http, 100)
    assert send(http, address, 0, b"a" * 40, **{"Upload-Checksum": checksum(b"a" * 40, "sha1")}).status_code == 204
    answer = send(http, address, 40, b"c" * 20, **{"Upload-Checksum": checksum(b"b" * 20)})
    assert (answer.status_code, answer.json()["code"]) == (460, "checksum_mismatch")
    assert offset_of(http, address) == 40
    assert send(http, address, 40, b"b" * 20, **{"Upload-Checksum": checksum(b"b" * 20)}).status_code == 204
    assert offset_of(http, address) == 60


@pytest.mark.parametrize("header", ["sha256", "sha256 !!!", "crc32 AAAA"])
def test_a_checksum_that_makes_no_sense_is_refused(http: httpx.Client, header: str) -> None:
    answer = send(http, begin(http, 100), 0, b"a", **{"Upload-Checksum": header})
    assert answer.status_code in {400, 422, 460}


def test_more_than_was_announced_is_refused(http: httpx.Client) -> None:
    address = begin(http, 10)
    assert send(http, address, 0, b"a" * 11).status_code == 409
    assert offset_of(http, address) <= 10


def test_an_upload_can_be_taken_back(http: httpx.Client, live: Any) -> None:
    address = begin(http, 10)
    send(http, address, 0, b"a" * 5)
    file = live.context.uploads.path(address.rpartition("/")[2])
    assert file.read_bytes() == b"a" * 5
    assert http.delete(address, headers=TUS).status_code == 204
    assert http.head(address, headers=TUS).status_code == 404
    assert not file.exists()


def test_another_version_or_type_is_told_what_is_spoken(http: httpx.Client) -> None:
    address = begin(http, 10)
    assert http.head(address, headers={"Tus-Resumable": "0.2.2"}).headers["tus-version"] == "1.0.0"
    assert http.post("/v1/uploads", headers={"Upload-Length": "5"}).status_code == 412
    assert send(http, address, 0, b"a", **{"Content-Type": "text/plain"}).status_code == 415


def test_an_upload_beyond_the_limit_is_refused_at_once(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, max_upload_bytes=10) as server, server.client() as http:
        answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": "11"})
        assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
        assert http.options("/v1/uploads").headers["tus-max-size"] == "10"


def test_an_upload_left_alone_is_gone(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, upload_expire_hours=1e-5) as server, server.client() as http:  # 36 ms
        address = begin(http, 10)
        file = server.context.uploads.path(address.rpartition("/")[2])
        time.sleep(0.1)
        assert http.head(address, headers=TUS).status_code == 410
        assert server.context.uploads.expire() == 1
        assert http.head(address, headers=TUS).status_code == 404
        assert not file.exists()


def test_an_upload_whose_file_is_in_use_is_deleted_later_and_keeps_no_other_one(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """Windows deletes no file that a program has open. Here a folder is in its place, which is not deleted either."""
    with serve(tmp_path) as server, server.client() as http:
        addresses = [begin(http, 10), begin(http, 10)]
        for address in addresses:
            assert send(http, address, 0, b"a").status_code == 204
        used, other = (server.context.uploads.path(address.rpartition("/")[2]) for address in addresses)
        used.unlink()
        used.mkdir()
        assert [http.delete(address, headers=TUS).status_code for address in addresses] == [204, 204]
        assert [http.head(address, headers=TUS).status_code for address in addresses] == [404, 404]
        assert not other.exists()
        used.rmdir()
        used.touch()
        server.context.uploads.expire()
        assert not used.exists()


def half_a_piece(http: httpx.Client, address: str, announced: int, sent: bytes, **headers: str) -> socket.socket:
    """A connection that announces a piece and sends part of it, with the client's token."""
    host, port = http.base_url.host, http.base_url.port or 80
    connection = socket.create_connection((host, port))
    lines = PIECE | {"Host": f"{host}:{port}", "Upload-Offset": "0", "Content-Length": str(announced)} | headers
    lines |= {"Authorization": http.headers["Authorization"]}
    head = f"PATCH {address} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    connection.sendall(head.encode() + b"\r\n" + sent)
    return connection


def test_an_upload_that_is_being_received_does_not_expire(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.uploads.receive.WATCH_SECONDS", 0.1)
    with serve(tmp_path, upload_expire_hours=1 / 3600) as server, server.client() as http:
        address = begin(http, 100)
        connection = half_a_piece(http, address, 100, b"a" * 10)
        for _ in range(8):
            time.sleep(0.25)
            connection.sendall(b"a")
        assert server.context.uploads.expire() == 0
        connection.sendall(b"a" * 82)
        assert b" 204 " in connection.recv(65536)
        connection.close()


def test_a_disk_that_is_slow_to_write_back_keeps_nobody_else_waiting(
    live: Any, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(_path: Path) -> None:
        begun.set()
        release.wait(20)

    monkeypatch.setattr("server.uploads.receive.sync_file", slow)
    put = threading.Thread(
        target=lambda: http.put("/v1/datasets/anna.wav/content", content=b"RIFF" + bytes(1000), timeout=30)
    )
    put.start()
    try:
        assert begun.wait(10)
        assert httpx.get(f"{live.url}/livez", timeout=10).status_code == 200  # while the disk is still at it
    finally:  # a thread that is left would fail the next test
        release.set()
        put.join()


def test_an_upload_counts_as_whole_only_once_it_is_stored(
    http: httpx.Client, recording: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release, finish = threading.Event(), threading.Event(), receive._finish

    def slow(*arguments: Any) -> None:
        begun.set()
        release.wait(20)
        finish(*arguments)

    monkeypatch.setattr(receive, "_finish", slow)
    address = begin(http, len(recording))
    sender = threading.Thread(target=send, args=(http, address, 0, recording))
    sender.start()
    try:
        assert begun.wait(10)
        threading.Timer(0.5, release.set).start()
        assert offset_of(http, address) == len(recording)
        made = http.post("/v1/datasets", json={"name": "slow disk", "upload_id": address.rpartition("/")[2]})
        assert made.status_code == 201, made.text
    finally:
        release.set()
        sender.join()


@pytest.fixture
def upload(http: httpx.Client) -> Iterator[str]:
    address = begin(http, 5_000_000)
    yield address
    http.delete(address, headers=TUS)


def size_on_disk(live: Any, address: str) -> int:
    path = live.context.uploads.path(address.rpartition("/")[2])
    return path.stat().st_size if path.exists() else 0


def test_what_came_before_a_broken_connection_is_kept(
    http: httpx.Client, live: Any, upload: str, eventually: Callable[..., None]
) -> None:
    half_a_piece(http, upload, 5_000_000, b"a" * 3_000_000).close()
    eventually(lambda: size_on_disk(live, upload) == 3_000_000)
    assert offset_of(http, upload) == 3_000_000
    assert send(http, upload, 3_000_000, b"b" * 2_000_000).status_code == 204


def test_what_came_of_a_piece_with_a_checksum_before_a_break_is_not(
    http: httpx.Client, live: Any, upload: str, eventually: Callable[..., None]
) -> None:
    whole = {"Upload-Checksum": checksum(b"a" * 5_000_000)}
    half_a_piece(http, upload, 5_000_000, b"a" * 3_000_000, **whole).close()
    eventually(lambda: size_on_disk(live, upload) == 3_000_000)
    assert offset_of(http, upload) == 0


def test_a_dead_connection_makes_way_for_a_new_one(
    http: httpx.Client, live: Any, upload: str, eventually: Callable[..., None]
) -> None:
    with half_a_piece(http, upload, 5_000_000, b"a" * 2_500_000):  # open, and silent
        eventually(lambda: offset_of(http, upload) == 2_500_000)  # with bytes that are not on disk yet
        assert send(http, upload, 2_500_000, b"b").headers["upload-offset"] == "2500001"


def test_a_body_that_stops_coming_is_given_up(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path, upload_idle_seconds=0.2) as server, server.client() as http:
        address = begin(http, 100)
        with half_a_piece(http, address, 100, b"a" * 30) as connection:
            assert b" 408 " in connection.recv(100)
        assert offset_of(http, address) == 30


def test_an_upload_that_trickles_holds_its_place_for_some_minutes_and_no_longer(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.uploads.receive.PACE_SECONDS", 0.5)
    with serve(tmp_path) as server, server.client() as http:
        address = begin(http, 10_000)
        with half_a_piece(http, address, 10_000, b"a" * 30) as connection:
            connection.settimeout(0.05)
            answer, deadline = b"", time.monotonic() + 15
            while not answer and time.monotonic() < deadline:
                connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    answer = connection.recv(1000)
        assert b" 408 " in answer
        assert offset_of(http, address) >= 31  # what came is kept


def test_an_upload_goes_on_after_the_server_was_started_again(serve: Callable[..., Any], tmp_path: Path) -> None:
    with serve(tmp_path) as server, server.client() as http:
        address = begin(http, 100)
        send(http, address, 0, b"a" * 30)
    with serve(tmp_path) as server, server.client() as http:
        assert offset_of(http, address) == 30


def test_bytes_that_are_here_need_not_be_sent(http: httpx.Client, live: Any, recording: bytes) -> None:
    sha256 = hashlib.sha256(recording).hexdigest()
    assert http.post("/v1/datasets", json={"name": "first", "sha256": sha256}).status_code == 404
    first = http.put("/v1/datasets/first/content", content=recording).json()
    assert http.post("/v1/datasets", json={"name": "first", "sha256": sha256}).json()["id"] == first["id"]
    second = http.post("/v1/datasets", json={"name": "second", "sha256": sha256})
    assert second.status_code == 201
    file = live.context.storage.dataset_folder(second.json()["id"]) / "000001.wav"
    assert file.stat().st_nlink == 2  # stored once
    assert http.put("/v1/datasets/third/content", content=recording).status_code == 201
    assert file.stat().st_nlink == 3
    assert http.delete(f"/v1/datasets/{first['id']}").status_code == 204
    assert file.read_bytes().startswith(b"RIFF")


@pytest.mark.parametrize("body", [{"name": "a"}, {"name": "a", "upload_id": "upl_x", "sha256": "0" * 64}])
def test_a_dataset_is_made_of_one_thing(http: httpx.Client, body: dict[str, str]) -> None:
    assert http.post("/v1/datasets", json=body).status_code == 422


def test_two_pieces_at_once_leave_one_of_them_whole(http: httpx.Client, live: Any, upload: str) -> None:
    answers: list[int] = []

    def patch(letter: bytes) -> None:
        with live.client() as own:
            answers.append(send(own, upload, 0, letter * 2_000_000).status_code)

    threads = [threading.Thread(target=patch, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) in ([204, 409], [409, 409])
    size = offset_of(http, upload)
    content = live.context.uploads.path(upload.rpartition("/")[2]).read_bytes()
    assert len(content) == size
