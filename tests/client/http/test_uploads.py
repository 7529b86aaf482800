"""Uploads of recordings: packing, resuming, errors."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rvc_engine.audio.recordings import list_dataset
from rvc_train.client import AsyncClient
from rvc_train.errors import ApiError, BadUpload, ConnectionFailed, UsageError
from server.datasets.ingest import ingest
from server.datasets.zips import UnpackLimits
from tests.systems import IS_WINE

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
        self.limit = None
        """Most bytes of a body that a proxy before the server takes."""

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
        if self.limit is not None and length > self.limit:
            request.rfile.read(length)
            request.send(413, b"<html>413 Request Entity Too Large</html>", "text/html")
            return
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


@pytest.fixture
def sends_end(request):
    """A send ends with an error when the server closes without reading it."""
    if IS_WINE and request.node.callspec.params["make_client"] is AsyncClient:
        pytest.skip("Wine never completes an overlapped send of a megabyte whose receiver has closed")


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes symbolic links for administrators alone")
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


@pytest.mark.usefixtures("sends_end")
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


def test_pieces_are_halved_until_a_proxy_before_the_server_takes_them(upload_server, client, recording):
    upload_server.limit = 1 << 20
    calls = []
    client.upload_dataset([recording], progress=lambda done, total: calls.append(done))
    assert upload_server.bytes == recording.read_bytes()
    assert upload_server.offsets == [0, 0, 0, 750_000, 1_500_000, 2_250_000]  # the size that passed is remembered
    assert calls[-1] == 3_000_000


@pytest.mark.usefixtures("sends_end")
def test_an_upload_in_small_pieces_goes_on_after_broken_connections(upload_server, client, recording):
    upload_server.limit, upload_server.breaks = 1 << 20, [100_000, 0, 200_000]
    client.upload_dataset([recording])
    assert upload_server.bytes == recording.read_bytes()


def test_a_proxy_that_takes_no_piece_at_all_is_named_with_the_setting_to_change(upload_server, client, recording):
    upload_server.limit = 1000
    with pytest.raises(ApiError, match=r"a proxy before the server .* client_max_body_size"):
        client.upload_dataset([recording])


@pytest.mark.usefixtures("sends_end")
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a shell with limits")
def test_a_temporary_folder_without_room_for_the_zip_is_named_with_its_variable(server, tmp_path):
    server.answer = lambda request: request.send_problem(404, "not_found", "no such path")
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(bytes(600_000))
    upload = [
        sys.executable,
        "-m",
        "rvc_train.cli.main",
        "dataset",
        "upload",
        str(tmp_path),
        "--server",
        server.url,
    ]
    limited = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "bash", *upload]  # kB of a file
    environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "1000"}
    done = subprocess.run(limited, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert f"the disk of {tmp_path} is full" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


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


def zip_with(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def recordings_of(body, tmp_path):
    """Names that the server gives to the recordings of an upload."""
    (tmp_path / "sent.zip").write_bytes(body)
    ingest(tmp_path / "sent.zip", "voice", tmp_path / "ingested", LIMITS)
    return [recording.name for recording in list_dataset(tmp_path / "ingested").recordings]


def test_zips_in_a_folder_are_taken_with_what_is_in_them(upload_server, client, tmp_path):
    folder = tmp_path / "voice"
    (folder / "more").mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"1")
    zip_with(folder / "more" / "backup.ZIP", "b.wav", "c/d.wav", "notes.txt")
    contents = []
    client.upload_dataset([folder], on_contents=contents.append)
    assert recordings_of(upload_server.bytes, tmp_path) == ["a.wav", "more/backup/b.wav", "more/backup/c/d.wav"]
    assert [other.name for other in contents[0].left_out] == ["more/backup/notes.txt"]


def test_several_zips_are_taken_and_zips_of_one_name_stay_apart(upload_server, client, tmp_path):
    (tmp_path / "other").mkdir()
    zips = [zip_with(tmp_path / "anna.zip", "1.wav"), zip_with(tmp_path / "other" / "anna.zip", "2.wav")]
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "3.wav").write_bytes(b"3")
    client.upload_dataset([*zips, tmp_path / "anna"], name="both")
    found = recordings_of(upload_server.bytes, tmp_path)
    assert sorted(found) == ["anna (2)/2.wav", "anna.zip/1.wav", "anna/3.wav"]


def test_folders_of_one_name_are_two_speakers(upload_server, client, tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "anna").mkdir(parents=True)
        (tmp_path / place / "anna" / f"{place}.wav").write_bytes(place.encode())
    folders = [tmp_path / "one" / "anna", tmp_path / "two" / "anna"]
    client.upload_dataset([*folders, folders[0]], name="both")
    assert names_in(upload_server.bytes) == ["anna/one.wav", "anna (2)/two.wav"]


def test_colons_backslashes_and_bytes_that_are_no_utf8_are_names_too(upload_server, client, tmp_path):
    folder = tmp_path / "voice"
    folder.mkdir()
    names = [b"A: voice.flac", b"1: first.flac", b"AC\\DC.flac", b"AC_DC.flac", b"tab\there.flac", b"tab?here.flac"]
    names += ["录音/张三.flac".encode("gbk"), "录音/李四.flac".encode("gbk"), "录音/x.flac".encode()]
    for number, name in enumerate(names):
        path = os.fsencode(folder) + b"/" + name
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(str(number).encode())
    contents = []
    client.upload_dataset([folder], on_contents=contents.append)
    assert contents[0].notes == ["file names that are not UTF-8 were read as GBK"]
    found = recordings_of(upload_server.bytes, tmp_path)
    spelled = ["A: voice.flac", "1: first.flac", "AC_DC.flac", "AC_DC (2).flac", "tab?here.flac", "tab?here (2).flac"]
    assert sorted(found) == sorted([*spelled, "录音 (2)/张三.flac", "录音 (2)/李四.flac", "录音/x.flac"])


@pytest.mark.parametrize(
    "name", ["👩\u200d🎤 vocals", "صدای می\u200cخواهم", "My Voice vol.", "-takes", "x" * 117, "A: live", "CON"]
)
def test_a_dataset_may_have_any_name_that_a_folder_has(upload_server, client, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.wav").write_bytes(b"1")
    client.upload_dataset([tmp_path / name])
    assert upload_server.name == name


def test_a_name_that_is_refused_is_refused_before_anything_is_packed_and_names_the_option(server, client, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1")
    with pytest.raises(UsageError, match=r"--name: the name has 201 characters; choose one of at most 200"):
        client.upload_dataset([tmp_path / "a.wav"], name="x" * 201)
    assert server.seen == []


def test_the_code_page_of_a_zip_goes_to_the_server(server, upload_server, client, tmp_path):
    client.upload_dataset([zip_with(tmp_path / "a.zip", "a.wav")], zip_names="gbk")
    bodies = [json.loads(body) for method, path, _, body in server.seen if path == "/v1/datasets"]
    assert [body["zip_names"] for body in bodies] == ["gbk", "gbk"]
