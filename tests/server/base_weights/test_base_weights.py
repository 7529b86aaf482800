"""Base weights over HTTP: taken in from uploads and addresses, checked by the real engine in its confined process."""

import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rvc_engine.checkpoints.retention import Save, SaveRegistry
from rvc_engine.config import TrainingConfig
from rvc_engine.events import Evaluated
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.synthesizer import Synthesizer
from rvc_train.schemas.access import Quota
from server.database.engine import write_session
from server.fetching import download as fetching
from server.results.evaluations import write_evaluations
from tests.web_files import WebFile, web_files

SMALL = {"width": 24, "pretrained": "none"}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small G_ and D_ file."""
    torch.manual_seed(0)
    hparams = Hyperparameters.from_config(TrainingConfig.model_validate(SMALL))
    made = {}
    for role, model in (("generator", Synthesizer(hparams, True)), ("discriminator", Discriminators("v2", 24 / 192))):
        path = tmp_path_factory.mktemp("pair") / "file.pth"
        torch.save({"model": model.state_dict(), "iteration": 1, "optimizer": {}, "learning_rate": 1e-4}, path)
        made[role] = path.read_bytes()
    return made


@pytest.fixture(scope="module")
def server(serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serve_for_module(tmp_path_factory.mktemp("data"), outbound_networks="127.0.0.1") as running:
        yield running


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.timeout = httpx.Timeout(120)
        yield client


def upload(http: httpx.Client, content: bytes) -> dict[str, str]:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))}
    headers |= {"Content-Type": "application/offset+octet-stream"}
    answer = http.post("/v1/uploads", content=content, headers=headers)
    return {"upload_id": answer.headers["Location"].rpartition("/")[2]}


def add(http: httpx.Client, name: str, **sources: Any) -> httpx.Response:
    return http.post("/v1/base-weights", json={"name": name, **sources})


def submit(http: httpx.Client, server: Any, **config: Any) -> httpx.Response:
    body = {"name": "anna", "dataset_id": server.bench.dataset(), "config": {"content": "whisper-tiny"} | config}
    return http.post("/v1/jobs", json=body)


def test_base_weights_are_taken_in_listed_with_what_they_fit_used_and_deleted_once_unused(
    http: httpx.Client, server: Any, pair: dict[str, bytes]
) -> None:
    sources = {role: upload(http, content) for role, content in pair.items()}
    before = http.get("/v1/me").json()["usage"]["bytes"]
    answer = add(http, "mine", **sources)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["generator"]["fits"] == {"version": "v2", "sample_rate": "40k", "f0": True, "width": 24}
    assert made["discriminator"]["description"] == "v2 discriminators of width 24"
    assert answer.headers["Location"] == f"/v1/base-weights/{made['id']}"
    assert http.get("/v1/base-weights").json()["data"] == [made]
    assert http.get(answer.headers["Location"]).json() == made
    assert http.get("/v1/me").json()["usage"]["bytes"] == before, "the uploads' bytes are theirs now"
    gone = http.head(f"/v1/uploads/{sources['generator']['upload_id']}", headers={"Tus-Resumable": "1.0.0"})
    assert gone.status_code in {404, 410}

    unfit = submit(http, server, width=48, pretrained="mine")
    assert unfit.status_code == 422
    assert "these are v2 40k weights with pitch of width 24 and v2 discriminators of width 24" in unfit.json()["detail"]
    assert "the job asks for v2 40k weights with pitch of width 48" in unfit.json()["detail"]
    unknown = submit(http, server, width=24, pretrained="theirs")
    assert unknown.status_code == 422
    assert "known are auto, none, mine" in unknown.json()["detail"]
    job = submit(http, server, width=24, pretrained="mine").json()
    generator, discriminator = server.context.storage.start_files(job["id"])
    assert (generator.read_bytes(), discriminator.read_bytes()) == (pair["generator"], pair["discriminator"])

    again = add(http, "mine", generator=upload(http, pair["generator"]))
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    used = http.delete(f"/v1/base-weights/{made['id']}")
    assert used.status_code == 409
    assert job["id"] in used.json()["detail"]
    assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    folder = server.context.storage.base_weights_folder(made["id"])
    assert folder.is_dir()
    assert http.delete(f"/v1/base-weights/{made['id']}").status_code == 204
    assert not folder.exists()
    retried = http.post(f"/v1/jobs/{job['id']}/retry", json={"from": "start"})
    assert retried.status_code == 202, "the job keeps what it started from"
    assert all(server.context.storage.start_files(retried.json()["id"]))


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('/tmp/ran').touch()",)


def hostile(kind: str, pair: dict[str, bytes], path: Path) -> bytes:
    if kind == "half":
        return pair["generator"][: len(pair["generator"]) // 2]
    if kind == "the other file":
        return pair["discriminator"]
    if kind == "code":
        torch.save({"model": Evil()}, path)
    elif kind == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    else:
        path.write_text("no weights at all")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("text", "the generator's file is not a file of tensors", marks=pytest.mark.long),
        pytest.param("half", "it is damaged, incomplete", marks=pytest.mark.long),
        ("code", "contains code, which is never run"),
        ("bomb", "the file is compressed"),
        ("the other file", "these are v2 discriminators of width 24"),
    ],
)
def test_a_hostile_file_is_refused_with_the_reason_and_leaves_nothing(
    http: httpx.Client, server: Any, pair: dict[str, bytes], tmp_path: Path, kind: str, message: str
) -> None:
    answer = add(http, "evil", generator=upload(http, hostile(kind, pair, tmp_path / "file")))
    assert (answer.status_code, answer.json()["code"]) == (422, "refused")
    assert message in answer.json()["detail"]
    assert str(server.context.storage.root) not in answer.text
    assert "evil" not in http.get("/v1/base-weights").text
    assert not list(server.context.storage.incoming.iterdir())


@pytest.mark.parametrize(
    "body",
    [
        {"name": "auto", "generator": {"url": "https://example.org/G.pth"}},
        {"name": "../up", "generator": {"url": "https://example.org/G.pth"}},
        {"name": "mine"},
        {"name": "mine", "generator": {}},
        {"name": "mine", "generator": {"url": "https://example.org/G.pth", "upload_id": "upl_1"}},
        {"name": "mine", "generator": {"url": "file:///etc/passwd"}},
    ],
)
def test_a_request_without_a_usable_name_or_source_is_refused(http: httpx.Client, body: dict[str, Any]) -> None:
    assert http.post("/v1/base-weights", json=body).status_code == 422


class Files(BaseHTTPRequestHandler):
    """A server of files, of redirects, and of files without an end."""

    server: "FileServer"

    def do_GET(self) -> None:
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args: object) -> None:
        pass


class FileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Files)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_is_downloaded_through_a_redirect(
    http: httpx.Client, files: FileServer, pair: dict[str, bytes]
) -> None:
    files.files["/G.pth"] = pair["generator"]
    files.redirects["/latest"] = "/G.pth"
    before = http.get("/v1/me").json()["usage"]["bytes"]
    answer = add(http, "fetched", generator={"url": f"{files.url}/latest"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["generator"]["size_bytes"] == len(pair["generator"])
    assert http.get("/v1/me").json()["usage"]["bytes"] == before + len(pair["generator"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/away", "has an address that is not public"),
        ("/round", "redirects more than"),
        ("/local", "is not an http or https URL"),
        ("/missing", "answered 404"),
        ("/large", "there is room for"),
        ("/endless", "there is room for"),
    ],
)
def test_an_address_that_the_server_may_not_or_cannot_download_from_is_refused(
    http: httpx.Client, files: FileServer, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.setattr("server.api.weights.MAX_BYTES", 1000)
    files.redirects |= {"/away": "http://169.254.169.254/latest/meta-data", "/round": "/round", "/local": "file:///etc"}
    files.files |= {"/large": b"0" * 2000, "/endless": b"0" * 2000}
    answer = add(http, "remote", generator={"url": f"{files.url}{path}"})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert answer.json()["errors"][0]["pointer"] == "/generator/url"


def test_a_private_address_and_one_with_a_password_are_refused(http: httpx.Client) -> None:
    for url, message in (
        ("http://192.168.0.1/G.pth", "not public"),
        ("http://[::1]:1/G.pth", "not public"),
        ("https://me:secret@example.org/G.pth", "user name or password"),
    ):
        answer = add(http, "private", discriminator={"url": url})
        assert answer.status_code == 422
        assert message in answer.json()["detail"]


def test_the_quota_of_bytes_counts_base_weights(
    http: httpx.Client, server: Any, files: FileServer, pair: dict[str, bytes]
) -> None:
    files.files["/G.pth"] = pair["generator"]
    used = http.get("/v1/me").json()["usage"]["bytes"]
    server.context.quotas.set("local", Quota(max_bytes=used + len(pair["generator"]) - 1))
    try:
        answer = add(http, "one-too-many", generator={"url": f"{files.url}/G.pth"})
    finally:
        server.context.quotas.set("local", None)
    assert (answer.status_code, answer.json()["code"]) == (507, "quota_exceeded")
    assert "one-too-many" not in http.get("/v1/base-weights").text


def test_the_quota_and_the_number_of_uploads_are_checked_while_a_download_comes(
    http: httpx.Client, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.weights.MAX_BYTES", 100 << 20)
    monkeypatch.setattr("server.api.weights.REPORT_BYTES", 1 << 20)
    used = http.get("/v1/me").json()["usage"]["bytes"]
    with web_files() as web:
        web.files["/endless"] = WebFile(is_endless=True)
        server.context.quotas.set("local", Quota(max_bytes=used + 2_000_000))
        try:
            answer = add(http, "endless", generator={"url": f"{web.url}/endless"})
        finally:
            server.context.quotas.set("local", None)
        assert (answer.status_code, answer.json()["code"]) == (507, "quota_exceeded")
        with contextlib.ExitStack() as uploads:
            for _ in range(server.context.settings.max_uploads):
                uploads.enter_context(server.context.open_uploads.hold("local"))
            answer = add(http, "ninth", generator={"url": f"{web.url}/endless"})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_requests")


def test_a_download_of_a_stalled_server_ends(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.3)
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Files)  # accepts, and never answers
    try:
        answer = add(http, "stalled", generator={"url": f"http://127.0.0.1:{listening.server_address[1]}/G.pth"})
    finally:
        listening.server_close()
    assert answer.status_code == 422
    assert "took more than" in answer.json()["detail"]


def test_a_job_begins_with_a_save_of_an_earlier_one_that_fits(
    http: httpx.Client, server: Any, pair: dict[str, bytes]
) -> None:
    first = submit(http, server, **SMALL).json()
    workspace = server.context.storage.workspace(first["id"])
    body = {"name": "berta", "dataset_id": server.bench.dataset(), "config": {"content": "whisper-tiny"} | SMALL}

    def begin(**start: Any) -> httpx.Response:
        return http.post("/v1/jobs", json=body | {"start_from": start})

    none = begin(job_id=first["id"])
    assert none.status_code == 422
    assert "has no pair of G_ and D_ files on this server" in none.json()["detail"]
    workspace.mkdir(parents=True)
    for number in (10, 20):
        (workspace / f"G_{number}.pth").write_bytes(pair["generator"] + bytes([number]))
        (workspace / f"D_{number}.pth").write_bytes(pair["discriminator"])
    (workspace / "G_30.pth").write_bytes(b"its D_ file is not there yet")
    job = begin(job_id=first["id"]).json()
    assert job["start_from"] == {"job_id": first["id"], "voice": "anna", "save": 20}
    assert http.get(f"/v1/jobs/{job['id']}").json()["start_from"] == job["start_from"]
    generator, _ = server.context.storage.start_files(job["id"])
    assert generator.read_bytes().endswith(bytes([20]))
    assert begin(job_id=first["id"], save=10).json()["start_from"]["save"] == 10
    missing = begin(job_id=first["id"], save=30).json()
    assert "has no save 30; it has 10, 20" in missing["detail"]
    assert begin(job_id="job_unknown").status_code == 422
    assert begin(voice="anna").status_code == 422, "no job of the voice has succeeded"
    assert begin(voice="anna", job_id=first["id"]).status_code == 422
    body["config"] = {"content": "whisper-tiny", "width": 24, "pretrained": "none", "sample_rate": "48k"}
    unfit = begin(job_id=first["id"]).json()
    assert "these are v2 40k weights with pitch of width 24; the job asks for v2 48k" in unfit["detail"]
    assert unfit["errors"][0]["pointer"] == "/start_from"


def test_a_job_begins_with_the_best_save_of_an_earlier_one(
    http: httpx.Client, server: Any, pair: dict[str, bytes]
) -> None:
    first = submit(http, server, **SMALL).json()
    workspace = server.context.storage.workspace(first["id"])
    workspace.mkdir(parents=True)
    body = {"name": "berta", "dataset_id": server.bench.dataset(), "config": {"content": "whisper-tiny"} | SMALL}
    body |= {"start_from": {"job_id": first["id"], "save": "best"}}
    saves = SaveRegistry(workspace)
    for epoch, (step, number) in enumerate(((5, 12), (9, 16)), 1):  # numbers above those of another program's pairs
        (workspace / f"G_{number}.pth").write_bytes(pair["generator"])
        (workspace / f"D_{number}.pth").write_bytes(pair["discriminator"])
        saved = Save(step=step, epoch=epoch, files=[f"G_{number}.pth", f"D_{number}.pth"])
        saves.add(saved, TrainingConfig(), lambda step: 0.0)
    unknown = http.post("/v1/jobs", json=body)
    assert unknown.status_code == 422
    assert "no save of the job" in unknown.json()["detail"]
    now, number = server.context.jobs.clock(), server.context.jobs.get(first["id"]).number
    with write_session(server.context.engine) as session:
        for step, is_best in ((5, True), (9, False)):
            score = Evaluated(step=step, epoch=1, values={}, held_out=True, is_best=is_best, num_clips=1, seconds=1)
            write_evaluations(session, number, [score], now)
    assert http.post("/v1/jobs", json=body).json()["start_from"]["save"] == 12
    (workspace / "D_12.pth").unlink()
    gone = http.post("/v1/jobs", json=body).json()
    assert "(epoch 1, step 5) has no pair of G_ and D_ files" in gone["detail"]
    assert "it has 16: name one" in gone["detail"]
    assert gone["errors"][0]["pointer"] == "/start_from/save"
    body["start_from"]["save"] = "worst"
    assert http.post("/v1/jobs", json=body).status_code == 422


def test_a_repeated_submission_begins_one_job(http: httpx.Client, server: Any, pair: dict[str, bytes]) -> None:
    first = submit(http, server, **SMALL).json()
    workspace = server.context.storage.workspace(first["id"])
    workspace.mkdir(parents=True)
    for letter, role in (("G", "generator"), ("D", "discriminator")):
        (workspace / f"{letter}_5.pth").write_bytes(pair[role])
    body = {"name": "berta", "dataset_id": server.bench.dataset(), "config": {"content": "whisper-tiny"} | SMALL}
    body |= {"start_from": {"job_id": first["id"]}}
    made = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"}).json()
    for path in workspace.glob("*.pth"):
        path.unlink()
    again = http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == made["id"]
