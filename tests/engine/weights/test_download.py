"""Downloads from a real server on loopback that aborts, ignores ranges, redirects or serves wrong data on request."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity
from typer.testing import CliRunner

from rvc_engine.cli.weights import app
from rvc_engine.errors import DiskFull, MissingWeights, WorkspaceBusy
from rvc_engine.weights.catalogue import PublishedFile, Weights
from rvc_engine.weights.download import _download_lock, fetch

DATA = bytes(range(256)) * 4000
SIZE = len(DATA)
PATH = "/someone/things/resolve/main/folder/net.pth"
QUICK = tenacity.wait_none()


class Hub(ThreadingHTTPServer):
    """Server of DATA at PATH; its attributes select the faults."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {PATH: DATA}
        self.etag = '"one"'
        self.break_after: list[int] = []
        """Bytes after which each next response ends; empty: complete responses."""
        self.supports_ranges = True
        self.statuses: list[int] = []
        """Status codes of the next responses, instead of a file."""
        self.redirect_to = None
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range of each request."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server
        requested_range = self.headers.get("Range")
        hub.requests.append((self.path, requested_range))
        if hub.statuses:
            self._answer(hub.statuses.pop(0))
        elif hub.redirect_to and self.path == PATH:
            self._answer(302, Location=hub.redirect_to)
        elif self.path not in hub.files:
            self._answer(404)
        else:
            self._send(hub.files[self.path], requested_range)

    def _answer(self, status, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data, requested_range):
        hub = self.server
        is_same = self.headers.get("If-Range", hub.etag) == hub.etag
        can_resume = requested_range and hub.supports_ranges and is_same
        start = int(requested_range.removeprefix("bytes=").rstrip("-")) if can_resume else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", hub.etag)
        self.end_headers()
        end = start + hub.break_after.pop(0) if hub.break_after else None
        self.wfile.write(data[start:end])
        self.close_connection = True


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def weights(tmp_path):
    digest = hashlib.sha256(DATA).hexdigest()
    file = PublishedFile(id="things", repo="someone/things", path="folder/net.pth", size=SIZE, sha256=digest)
    return Weights(tmp_path / "weights", (file,))


def download(weights, **options):
    fetch(weights, weights.files, wait=QUICK, **options)
    return weights.path_of(weights.files[0])


def names_in(weights):
    return sorted(path.name for path in (weights.folder / "things").iterdir())


def part_of(weights):
    path = weights.path_of(weights.files[0]).with_name("net.pth.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_file_is_fetched_from_the_mirror_verified_and_nothing_else_is_left(hub, weights):
    progress = []
    path = download(weights, progress=lambda file, done: progress.append((file.name, done)))
    assert path.read_bytes() == DATA
    assert names_in(weights) == ["net.pth"]
    assert weights.state(weights.files[0]) == "verified"
    assert progress[0] == ("net.pth", 0)
    assert progress[-1] == ("net.pth", SIZE)


def test_a_file_that_is_here_is_not_asked_for_again(hub, weights):
    download(weights)
    download(weights)
    assert len(hub.requests) == 1


def test_an_interrupted_download_goes_on_where_it_was(hub, weights):
    hub.break_after = [300_000, 200_000]
    assert download(weights).read_bytes() == DATA
    assert [requested for _, requested in hub.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_run_goes_on_with_the_piece_that_an_earlier_one_left(hub, weights):
    hub.break_after = [300_000] + [0] * 20
    with pytest.raises(MissingWeights, match="was interrupted"):
        download(weights)
    assert part_of(weights).stat().st_size == 300_000
    hub.break_after, hub.requests = [], []
    assert download(weights).read_bytes() == DATA
    assert hub.requests == [(PATH, "bytes=300000-")]


def test_many_interruptions_are_tolerated_as_long_as_each_attempt_adds_bytes(hub, weights):
    hub.break_after = [50_000] * 15
    assert download(weights).read_bytes() == DATA


def test_attempts_without_progress_end_after_a_few(hub, weights):
    hub.break_after = [0] * 20
    with pytest.raises(MissingWeights, match="HF_ENDPOINT"):
        download(weights)
    assert len(hub.requests) == 5


def test_a_server_that_ignores_ranges_starts_the_file_over(hub, weights):
    hub.break_after, hub.supports_ranges = [300_000], False
    assert download(weights).read_bytes() == DATA


def test_pieces_of_two_different_files_are_never_joined(hub, weights):
    hub.break_after = [300_000] + [0] * 20
    with pytest.raises(MissingWeights):
        download(weights)
    part_of(weights).write_bytes(b"x" * 300_000)  # the file on the server at that time
    hub.etag, hub.break_after = '"two"', []
    assert download(weights).read_bytes() == DATA


def test_a_foreign_piece_costs_a_second_download_and_no_more(hub, weights):
    part_of(weights).write_bytes(b"x" * 300_000)
    assert download(weights).read_bytes() == DATA
    assert [requested for _, requested in hub.requests] == ["bytes=300000-", None]


@pytest.mark.parametrize("length", [SIZE, SIZE + 5])
def test_a_whole_but_wrong_piece_is_thrown_away(hub, weights, length):
    part_of(weights).write_bytes(b"x" * length)
    assert download(weights).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [b"y" * SIZE, b"y" * (SIZE + 1000)], ids=["same size", "longer"])
def test_wrong_content_is_deleted_and_reported(hub, weights, wrong):
    hub.files[PATH] = wrong
    with pytest.raises(MissingWeights, match="sha256 differs"):
        download(weights)
    assert names_in(weights) == []


def test_a_range_that_the_server_cannot_satisfy_starts_the_file_over(hub, weights):
    part_of(weights).write_bytes(DATA[:300_000])
    hub.statuses = [416]
    assert download(weights).read_bytes() == DATA
    assert hub.requests[-1] == (PATH, None)


def test_a_server_in_trouble_is_asked_again(hub, weights):
    hub.statuses = [503, 429, 500]
    assert download(weights).read_bytes() == DATA


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_reported_at_once(hub, weights, status):
    hub.statuses = [status]
    with pytest.raises(MissingWeights, match=rf"answered {status}.*HF_ENDPOINT.*weights import"):
        download(weights)
    assert len(hub.requests) == 1


def test_redirects_to_a_store_are_followed_ranges_and_all(hub, weights):
    hub.redirect_to = "/store/blob"
    hub.files["/store/blob"] = DATA
    hub.break_after = [300_000]
    assert download(weights).read_bytes() == DATA
    assert hub.requests[-1] == ("/store/blob", "bytes=300000-")


def test_a_revision_is_part_of_the_address(hub, weights):
    pinned = weights.files[0].model_copy(update={"revision": "70ed56"})
    hub.files["/someone/things/resolve/70ed56/folder/net.pth"] = DATA
    download(Weights(weights.folder, (pinned,)))
    assert hub.requests == [("/someone/things/resolve/70ed56/folder/net.pth", None)]


def test_an_unreachable_hub_is_reported_with_the_other_ways(weights, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingWeights, match="weights import FOLDER"):
        download(weights)


def test_a_file_larger_than_the_disk_is_refused_before_anything_is_asked(hub, weights):
    huge = weights.files[0].model_copy(update={"size": 10**18})
    with pytest.raises(DiskFull, match="MB are free"):
        download(Weights(weights.folder, (huge,)))
    assert hub.requests == []


def test_two_programs_never_download_into_one_folder_at_once(hub, weights):
    weights.folder.mkdir()
    with _download_lock(weights.folder), pytest.raises(WorkspaceBusy, match="another program"):
        download(weights)
    assert download(weights).read_bytes() == DATA


@pytest.fixture
def published(weights, monkeypatch):
    """Catalogue of the command line with the one file of these tests."""
    monkeypatch.setattr("rvc_engine.weights.catalogue.published_files", lambda: weights.catalogue)
    return weights


def command(weights, *words):
    return CliRunner().invoke(app, [*words, "--weights", str(weights.folder)])


def test_the_command_line_fetches_lists_and_verifies(hub, published):
    assert "missing" in command(published, "list").output
    fetched = command(published, "fetch", "things")
    assert fetched.exit_code == 0, fetched.output
    assert '"state": "verified"' in command(published, "list", "--json").output
    verified = command(published, "verify")
    assert "verified   things/net.pth" in verified.output
    assert verified.exit_code == 0


def test_the_command_line_reports_damage_by_its_exit_code(hub, published):
    command(published, "fetch", "things")
    published.path_of(published.files[0]).write_bytes(b"z" * SIZE)
    verified = command(published, "verify")
    assert verified.exit_code == 1
    assert "damaged    things/net.pth" in verified.output


def test_the_command_line_imports(published, tmp_path):
    (tmp_path / "rvc").mkdir()
    (tmp_path / "rvc" / "some.pth").write_bytes(DATA)
    imported = command(published, "import", str(tmp_path / "rvc"))
    assert imported.exit_code == 0
    assert "things/net.pth" in imported.output
    assert published.path_of(published.files[0]).read_bytes() == DATA


def test_the_command_line_reports_an_error_in_a_sentence(hub, published):
    hub.files.clear()
    for name, words in (("things", "the server answered 404"), ("nothing", "known are things")):
        result = command(published, "fetch", name)
        assert result.exit_code == 1
        assert words in result.output
        assert "Traceback" not in result.output
