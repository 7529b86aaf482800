"""Uploads of recordings: packing, resuming, errors."""

import hashlib
import io
import json
import zipfile

import pytest

from rvc_engine.audio.recordings import list_dataset
from rvc_train.errors import ApiError, BadUpload, ConnectionFailed, UsageError
from server.datasets.ingest import UnpackLimits, ingest

LIMITS = UnpackLimits(100, 10**6, 10**6, 200, 10**12)

DATASET = {
    "id": "ds_1",
    "name": "anna",
    "status": "validating",
    "reason": None,
    "sha256": "0" * 64,
    "size": 1,
    "owner": "local",
    "num_files": 1,
    "num_usable": None,
    "seconds": None,
    "notes": [],
    "created_at": "2026-11-22T12:00:00Z",
    "validated_at": None,
}


class UploadServer:
    """Server that receives uploads in pieces."""

    def __init__(self):
        self.bytes = b""
        self.name = None
        self.known = set()
        self.offsets = []
        """Offset of each piece."""
        self.breaks = []
        """Bytes of each piece after which its connection breaks; later pieces are complete."""

    def __call__(self, request):
        match request.command, request.path:
            case "POST", "/v1/datasets":
                self.make(request, json.loads(request.body))
            case "POST", "/v1/uploads":
                self.bytes = b""
                request.send(201, Location="/v1/uploads/upl_1")
            case "HEAD", "/v1/uploads/upl_1":
                request.send_response(200)
                request.send_header("Upload-Offset", str(len(self.bytes)))
                request.end_headers()
            case "PATCH", "/v1/uploads/upl_1":
                self.take(request)
            case _:
                request.send_problem(404, "not_found", "there is nothing")

    def make(self, request, body):
        sha256 = body.get("sha256") or hashlib.sha256(self.bytes).hexdigest()
        if "sha256" in body and sha256 not in self.known:
            request.send_problem(404, "not_found", "these bytes are not here")
            return
        self.name = body["name"]
        request.send_json(DATASET | {"name": self.name, "sha256": sha256}, 201)

    def take(self, request):
        self.offsets.append(int(request.headers["Upload-Offset"]))
        assert self.offsets[-1] == len(self.bytes)
        length = int(request.headers["Content-Length"])
        if self.breaks:
            self.bytes += request.rfile.read(min(self.breaks.pop(0), length))
            request.cut()
            return
        self.bytes += request.rfile.read(length)
        request.send(204)


pytestmark = pytest.mark.usefixtures("pauses")


@pytest.fixture
def upload_server(server):
    server.answer = UploadServer()
    return server.answer


def names_in(body: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        return archive.namelist()


def test_a_folder_goes_as_one_zip_with_the_files_own_names(upload_server, client, tmp_path):
    folder = tmp_path / "Анна's voice"
    (folder / "day 1").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"1")
    (folder / "day 1" / "b é.flac").write_bytes(b"2")
    (folder / ".DS_Store").write_bytes(b"3")
    assert client.upload_dataset([folder]).name == "Анна's voice"
    assert names_in(upload_server.bytes) == ["a.wav", "day 1/b é.flac"]


def test_what_is_left_out_is_named_before_anything_is_sent(upload_server, client, server, tmp_path):
    folder, far = tmp_path / "voice", tmp_path / "far"
    for path in (folder / "...and then.flac", folder / "clip.avi", folder / "notes.txt", far / "b.wav"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    (folder / "part2").symlink_to(far)
    (folder / "broken.wav").symlink_to(tmp_path / "nowhere")
    seen = []
    client.upload_dataset([folder], on_contents=lambda contents: seen.append((contents.left_out, len(server.seen))))
    ((left_out, requests),) = seen
    assert [(other.name, other.reason) for other in left_out] == [
        ("broken.wav", "a link to nothing"),
        ("notes.txt", "a text, a document or subtitles"),
    ]
    assert requests == 0
    assert names_in(upload_server.bytes) == ["...and then.flac", "clip.avi", "part2/b.wav"]


@pytest.mark.parametrize("names", [["notes.txt"], ["notes.txt", "cover.png"]])
def test_files_that_are_no_recordings_are_not_sent(client, server, tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    with pytest.raises(UsageError, match=r"contains no recordings.*'notes.txt' .a text"):
        client.upload_dataset([tmp_path / name for name in names])
    assert server.seen == []


def test_engine_client_and_server_take_the_same_files_of_a_folder(upload_server, client, tmp_path):
    folder = tmp_path / "voice"
    names = ["...and so.flac", ".a.wav", "._a.wav", ".git/a.wav", "__MACOSX/._a.wav", "a.avi", "a.wav.bak", "a.mid"]
    names += ["Thumbs.db", "b/notes.TXT", "b/a.ts", "b/no ending", "c.tar.gz", "d.aup3", "e.qta", "f.json", "g.m3u8"]
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"1")
            archive.write(folder / name, name)
    (tmp_path / "whole.zip").write_bytes(whole.getvalue())
    client.upload_dataset([folder])
    (tmp_path / "packed.zip").write_bytes(upload_server.bytes)
    found = list_dataset(folder)
    assert len(found.recordings) == 7
    for way in ("whole", "packed"):
        ingest(tmp_path / f"{way}.zip", "voice", tmp_path / way, LIMITS)
        stored = list_dataset(tmp_path / way)
        assert [each.name for each in stored.recordings] == [each.name for each in found.recordings]
        assert stored.left_out == (found.left_out if way == "whole" else [])


def test_files_of_the_same_name_from_two_folders_both_arrive(upload_server, client, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(folder.encode())
    client.upload_dataset([tmp_path / "one" / "a.wav", tmp_path / "two" / "a.wav"], name="both")
    assert names_in(upload_server.bytes) == ["a.wav", "a (2).wav"]


def test_several_folders_keep_their_names_because_each_may_be_a_speaker(upload_server, client, tmp_path):
    for folder in ("anna", "bob"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(folder.encode())
    client.upload_dataset([tmp_path / "anna", tmp_path / "bob"], name="both")
    assert names_in(upload_server.bytes) == ["anna/a.wav", "bob/a.wav"]


@pytest.mark.parametrize(("file", "name"), [("anna.zip", "anna"), ("anna.flac", "anna.flac")])
def test_a_single_file_goes_as_it_is(upload_server, client, tmp_path, file, name):
    (tmp_path / file).write_bytes(b"bytes as they are")
    client.upload_dataset([tmp_path / file])
    assert (upload_server.name, upload_server.bytes) == (name, b"bytes as they are")


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(bytes(range(250)) * 12_000)  # three million
    return path


def test_progress_is_reported_up_to_the_last_byte(upload_server, client, recording):
    calls = []
    client.upload_dataset([recording], progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, 3_000_000)
    assert calls[-1] == (3_000_000, 3_000_000)
    assert len(calls) > 2


def test_a_broken_connection_costs_nothing(upload_server, client, recording):
    upload_server.breaks = [1_000_000, 500_000]
    client.upload_dataset([recording])
    assert upload_server.offsets == [0, 1_000_000, 1_500_000]
    assert upload_server.bytes == recording.read_bytes()


def test_a_server_that_takes_nothing_is_given_up_and_the_same_call_goes_on(
    upload_server, client, server, recording, tmp_path, make_client
):
    upload_server.breaks = [1_000_000] + [0] * 20
    with pytest.raises(ConnectionFailed, match="same command again"):
        client.upload_dataset([recording])
    upload_server.breaks, upload_server.offsets = [], []
    make_client(server.url, memory=tmp_path / "memory").upload_dataset([recording])  # another process
    assert upload_server.offsets == [1_000_000]
    assert upload_server.bytes == recording.read_bytes()
    assert list((tmp_path / "memory").iterdir()) == []


def test_an_upload_that_the_server_forgot_begins_anew(upload_server, client, server, recording, tmp_path):
    upload_server.breaks = [1_000_000] + [0] * 20
    with pytest.raises(ConnectionFailed):
        client.upload_dataset([recording])
    for note in (tmp_path / "memory").iterdir():
        note.write_text(note.read_text().replace("upl_1", "upl_0"))
    upload_server.breaks = []
    client.upload_dataset([recording])
    assert upload_server.bytes == recording.read_bytes()


def test_bytes_that_the_server_has_are_not_sent(upload_server, client, recording):
    upload_server.known.add(hashlib.sha256(recording.read_bytes()).hexdigest())
    client.upload_dataset([recording])
    assert (upload_server.name, upload_server.offsets) == ("a.wav", [])


def test_other_bytes_than_were_sent_are_noticed(upload_server, client, recording):
    upload_server.breaks = [1_000_000]
    take = upload_server.take

    def take_badly(request):
        take(request)
        upload_server.bytes = b"x" + upload_server.bytes[1:]

    upload_server.take = take_badly
    with pytest.raises(BadUpload, match="other bytes than were sent"):
        client.upload_dataset([recording])


def test_a_missing_or_empty_folder_is_an_error_before_anything_is_sent(server, client, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        client.upload_dataset([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="contains no recordings"):
        client.upload_dataset([tmp_path / "empty"])
    assert server.seen == []


def test_the_error_of_a_refused_upload_has_the_servers_message(server, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1")
    server.answer = lambda request: request.send_problem(413, "upload_too_large", "at most 4 GiB are taken")
    with pytest.raises(ApiError, match="at most 4 GiB") as caught:
        client.upload_dataset([tmp_path / "a.wav"])
    assert caught.value.problem.code == "upload_too_large"


def test_an_answer_of_another_program_is_an_error_with_the_advice_to_check_the_address(server, client):
    server.answer = lambda request: request.send(502, b"<html>proxy</html>", "text/html")
    with pytest.raises(ApiError, match="check the server's address"):
        client.queue()


def test_fields_at_fault_are_named(server, client):
    errors = [{"detail": "must be at least 1", "pointer": "/config/batch_size"}]
    server.answer = lambda request: request.send_problem(422, "invalid_request", "the request is wrong", errors=errors)
    with pytest.raises(ApiError, match=r"the request is wrong \(config\.batch_size: must be at least 1\)"):
        client.queue()
