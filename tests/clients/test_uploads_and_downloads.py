"""Uploads by tus' own clients, downloads that programs continue, and a proxy's probe."""

import json
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "samples" / "vm-review.flac"
TOKEN = "the-token-of-these-tests"
TUS = {"Tus-Resumable": "1.0.0"}
SIZE = 20_000_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "recording.wav"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def tus_js(run_client: Callable[..., str], node_folder: Path) -> Callable[..., Any]:
    """`tus_js(file, **options)`: the report of an upload by tus-js-client."""
    shutil.copy(HERE / "upload.mjs", node_folder)

    def upload(file: Path, **options: object) -> Any:
        return json.loads(run_client("node", "upload.mjs", file, json.dumps(options), cwd=node_folder))

    return upload


def offset_of(served: Any, url: str) -> str:
    return str(served.http.head(url, headers=TUS).headers["Upload-Offset"])


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ({}, {"201": 1, "204": 1}),
        ({"chunkSize": 1_000_000}, {"201": 1, "204": 20}),
        ({"endpoint": "/v1/uploads/"}, {"201": 1, "204": 1}),
        ({"overridePatchMethod": True, "chunkSize": 5_000_000}, {"201": 1, "204": 4}),
        ({"uploadDataDuringCreation": True, "chunkSize": 5_000_000}, {"201": 1, "204": 3}),
    ],
    ids="-".join,
)
def test_tus_js_client(
    tus_js: Callable[..., Any], served: Any, file: Path, options: dict[str, object], statuses: dict[str, int]
) -> None:
    done = tus_js(file, **options)
    assert (done["error"], done["statuses"]) == (None, statuses)
    assert offset_of(served, done["url"]) == str(SIZE)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parallelUploads": 3}, "set parallelUploads to 1"),
        ({"uploadLengthDeferred": True, "chunkSize": 1_000_000}, "set uploadLengthDeferred to false"),
    ],
    ids=["concatenation", "deferred"],
)
def test_tus_js_client_is_told_at_the_first_request_what_is_not_there(
    tus_js: Callable[..., Any], file: Path, options: dict[str, object], sentence: str
) -> None:
    done = tus_js(file, **options)
    assert set(done["statuses"]) == {"400"}  # no piece was sent
    assert sentence in done["error"]


def test_tus_js_client_is_told_that_a_file_is_empty(tus_js: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert "the file is empty" in tus_js(tmp_path / "empty.wav")["error"]


def test_uppy(run_client: Callable[..., str], node_folder: Path, served: Any, file: Path) -> None:
    shutil.copy(HERE / "uppy.mjs", node_folder)
    done = json.loads(run_client("node", "uppy.mjs", file, cwd=node_folder).splitlines()[-1])
    assert done["numFailed"] == 0
    assert offset_of(served, done["urls"][0]) == str(SIZE)


def test_tuspy(
    run_client: Callable[..., str], python_programs: Path, served: Any, recording: Path, tmp_path: Path
) -> None:
    (tmp_path / "upload.py").write_text(
        textwrap.dedent(
            """
            import os, sys
            from tusclient.client import TusClient
            from tusclient.storage.filestorage import FileStorage

            client = TusClient(os.environ["URL"] + "/v1/uploads/", {"Authorization": "Bearer " + os.environ["TOKEN"]})
            again = {"chunk_size": 3000, "store_url": True, "url_storage": FileStorage("urls.json")}
            client.uploader(sys.argv[1], **again).upload_chunk()
            resumed = client.uploader(sys.argv[1], upload_checksum=True, **again)
            assert resumed.offset == 3000
            resumed.upload()
            print(resumed.url)
            """
        )
    )
    url = run_client(python_programs / "python", "upload.py", recording, cwd=tmp_path).strip()
    assert offset_of(served, url) == str(recording.stat().st_size)


@pytest.fixture(scope="module")
def voice(served: Any) -> Any:
    """The artifact of a job's voice."""
    dataset = served.http.put("/v1/datasets/Ана 声/content", content=SAMPLE.read_bytes()).json()
    job = served.http.post("/v1/jobs", json={"name": "Ана 声", "dataset_id": dataset["id"]}).json()
    path = f"/v1/jobs/{job['id']}"
    deadline = time.monotonic() + 60
    while served.http.get(path).json()["status"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return next(each for each in served.http.get(f"{path}/artifacts").json()["data"] if each["kind"] == "voice")


CONTINUED = {
    "curl": ["curl", "-sS", "-C", "-", "-H", "{token}", "-o", "voice.pth", "{url}"],
    "wget": ["wget", "-q", "-c", "--header", "{token}", "-O", "voice.pth", "{url}"],
    "aria2c": ["aria2c", "-q", "-c", "--checksum=sha-256={sha256}", "--header", "{token}", "-o", "voice.pth", "{url}"],
}


@pytest.mark.parametrize("program", CONTINUED)
def test_a_download_is_continued(
    run_client: Callable[..., str], served: Any, voice: Any, tmp_path: Path, program: str
) -> None:
    if shutil.which(program) is None and program == "aria2c":
        pytest.skip("aria2c is not installed")
    url, token = served.url + voice["url"], f"Authorization: Bearer {TOKEN}"
    whole = served.http.get(voice["url"]).content
    (tmp_path / "voice.pth").write_bytes(whole[: len(whole) // 2])
    command = [word.format(url=url, token=token, sha256=voice["sha256"]) for word in CONTINUED[program]]
    run_client(*command, cwd=tmp_path)
    assert (tmp_path / "voice.pth").read_bytes() == whole
    run_client(*command, cwd=tmp_path)  # a whole file is left as it is
    assert (tmp_path / "voice.pth").read_bytes() == whole


def test_wget_fetches_a_file_again_only_when_it_is_newer(
    run_client: Callable[..., str], served: Any, voice: Any, tmp_path: Path
) -> None:
    token = f"Authorization: Bearer {TOKEN}"
    command = ["wget", "-N", "-S", "--header", token, served.url + voice["url"]]
    run_client(*command, cwd=tmp_path)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "304" in done.stderr
    assert run_client("wget", "--spider", "-q", "--header", token, served.url + voice["url"], cwd=tmp_path) == ""


@pytest.fixture
def haproxy(served: Any, tmp_path: Path) -> Iterator[str]:
    """URL of an HAProxy that probes the server with HEAD, and has a page with the state of it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (tmp_path / "haproxy.cfg").write_text(
        textwrap.dedent(
            f"""\
            defaults
                mode http
                timeout connect 5s
                timeout client 20s
                timeout server 20s
            listen voices
                bind 127.0.0.1:{port}
                stats enable
                stats uri /state
                option httpchk HEAD /readyz
                server server 127.0.0.1:{served.port} check inter 200ms
            """
        )
    )
    proxy = subprocess.Popen(["haproxy", "-q", "-f", tmp_path / "haproxy.cfg"], env={"PATH": "/usr/sbin:/usr/bin"})
    yield f"http://127.0.0.1:{port}"
    proxy.terminate()
    proxy.wait(20)


def test_haproxys_probe_finds_the_server_up(haproxy: str) -> None:
    deadline, state = time.monotonic() + 20, ""
    while ",L7OK," not in state:
        assert time.monotonic() < deadline, state
        with suppress(httpx.TransportError):
            state = httpx.get(f"{haproxy}/state;csv").text
        time.sleep(0.05)
    assert httpx.get(f"{haproxy}/livez").status_code == 200
