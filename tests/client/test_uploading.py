"""What is sent when a user points at recordings."""

import io
import zipfile
from urllib.parse import unquote

import pytest

from client.errors import BadInput, ServerSaysNo

DATASET = {
    "id": "ds_1",
    "name": "anna",
    "status": "validating",
    "reason": None,
    "sha256": "0" * 64,
    "size": 1,
    "num_files": 1,
    "num_usable": None,
    "seconds": None,
    "notes": [],
    "created_at": "2026-11-22T12:00:00Z",
    "validated_at": None,
}


@pytest.fixture
def accepting(server):
    server.answer = lambda request: request.send_json(DATASET, 201)
    return server


def names_in(body: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        return archive.namelist()


def test_a_folder_goes_as_one_zip_with_the_files_own_names(accepting, client, tmp_path):
    folder = tmp_path / "Анна's voice"
    (folder / "day 1").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"1")
    (folder / "day 1" / "b é.flac").write_bytes(b"2")
    (folder / ".DS_Store").write_bytes(b"3")
    client.upload_dataset([folder])
    method, path, headers, body = accepting.seen[0]
    assert (method, unquote(path)) == ("PUT", "/v1/datasets/Анна's voice/content")
    assert int(headers["Content-Length"]) == len(body)
    assert names_in(body) == ["a.wav", "day 1/b é.flac"]


def test_files_of_the_same_name_from_two_folders_both_arrive(accepting, client, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(folder.encode())
    client.upload_dataset([tmp_path / "one" / "a.wav", tmp_path / "two" / "a.wav"], name="both")
    assert names_in(accepting.seen[0][3]) == ["a.wav", "a (2).wav"]


@pytest.mark.parametrize(("file", "name"), [("anna.zip", "anna"), ("anna.flac", "anna.flac")])
def test_a_single_file_goes_as_it_is(accepting, client, tmp_path, file, name):
    (tmp_path / file).write_bytes(b"bytes as they are")
    client.upload_dataset([tmp_path / file])
    assert accepting.seen[0][1] == f"/v1/datasets/{name}/content"
    assert accepting.seen[0][3] == b"bytes as they are"


def test_progress_is_told_up_to_the_last_byte(accepting, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x" * 3_000_000)
    told = []
    client.upload_dataset([tmp_path / "a.wav"], progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 3_000_000)
    assert told[-1] == (3_000_000, 3_000_000)
    assert len(told) > 2


def test_what_does_not_exist_or_is_empty_is_told_before_anything_is_sent(accepting, client, tmp_path):
    with pytest.raises(BadInput, match="no such file or folder"):
        client.upload_dataset([tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="holds no files"):
        client.upload_dataset([tmp_path])
    assert accepting.seen == []


def test_a_refused_upload_is_told_in_the_servers_words(server, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1")
    server.answer = lambda request: request.send_problem(413, "upload_too_large", "at most 4 GiB are taken")
    with pytest.raises(ServerSaysNo, match="at most 4 GiB") as caught:
        client.upload_dataset([tmp_path / "a.wav"])
    assert caught.value.problem.code == "upload_too_large"


def test_an_answer_that_is_no_problem_of_ours_says_to_check_the_address(server, client):
    server.answer = lambda request: request.send(502, b"<html>proxy</html>", "text/html")
    with pytest.raises(ServerSaysNo, match="check the server's address"):
        client.queue()


def test_fields_at_fault_are_named(server, client):
    errors = [{"detail": "must be at least 1", "pointer": "/config/batch_size"}]
    server.answer = lambda request: request.send_problem(422, "invalid_request", "the request is wrong", errors=errors)
    with pytest.raises(ServerSaysNo, match=r"the request is wrong \(config\.batch_size: must be at least 1\)"):
        client.queue()
