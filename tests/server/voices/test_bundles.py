"""Voices that move: a bundle out of one server and into another, and bundles that strangers made up."""

import hashlib
import io
import json
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import httpx
import numpy as np
import pytest
import torch

from rvc_engine.config import TrainingConfig
from rvc_engine.events import PreviewReady
from rvc_engine.hyperparameters import Hyperparameters
from rvc_engine.models.discriminators import Discriminators
from rvc_engine.models.synthesizer import Synthesizer
from rvc_engine.voices.export import VoiceDetails, write_voice
from rvc_train.schemas.access import Quota
from rvc_train.schemas.jobs import JobCreate
from server.database.clock import utc_now
from server.database.engine import write_session
from server.database.result_tables import Evaluation
from server.results.evaluations import PreviewFiles
from server.storage.orphans import Orphans
from server.storage.sizes import JobSizes
from tests.programs import run_program
from tests.server.conftest import USUAL_TOKEN, Running, wait_until
from tests.server.conftest import zip_of as zipped

CONFIG = {"width": 24, "pretrained": "none", "content": "whisper-tiny"}
PNG = b"\x89PNG\r\n\x1a\n picture"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small voice, its index and its last pair, as the engine writes them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("voice")
    hparams = Hyperparameters.from_config(TrainingConfig.model_validate(CONFIG))
    generator = Synthesizer(hparams, True)
    for parameter in generator.parameters():
        parameter.data += 1e-3  # as after a step: some are zeros before
    write_voice(folder / "anna.pth", generator.state_dict(), hparams, VoiceDetails("anna", 5, 10, "whisper-tiny", 60))
    for letter, model in (("G", generator), ("D", Discriminators("v2", 24 / 192))):
        tree = {"model": model.state_dict(), "iteration": 1, "optimizer": {}, "learning_rate": 1e-4}
        torch.save(tree, folder / f"{letter}_10.pth")
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(768), 768, 1)
    rows = np.random.default_rng(0).standard_normal((50, 768)).astype(np.float32)
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(folder / "anna.index"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def servers(
    serve_for_module: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with serve_for_module(folders[0]) as first, serve_for_module(folders[1]) as second:
        yield first, second


@pytest.fixture
def clients(servers: tuple[Running, Running]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with servers[0].client() as first, servers[1].client() as second:
        for client in (first, second):
            client.timeout = httpx.Timeout(200)
        yield first, second


def dataset(http: httpx.Client) -> str:
    content = zipped({"a.wav": b"RIFF one", "sub/ä.wav": b"RIFF two"})
    made = http.put("/v1/datasets/recordings/content", content=content, headers={"Content-Type": "application/zip"})
    assert made.status_code in {200, 201, 202}, made.text
    dataset_id = made.json()["id"]
    wait_until(lambda: http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "ready")
    return str(dataset_id)


@pytest.fixture(scope="module")
def trained(servers: tuple[Running, Running], files: dict[str, bytes]) -> str:
    """A version of the voice anna on the first server, with all that a training leaves; its job's id."""
    server = servers[0]
    with server.client() as http:
        context = server.context
        request = JobCreate(name="anna", dataset_id=dataset(http), config=CONFIG, labels={"kind": "song"})
        job_id = context.jobs.submit(request).job_id
        lease = server.bench.claim()
        assert lease.job_id == job_id
        workspace = context.storage.workspace(job_id)
        workspace.mkdir(parents=True, exist_ok=True)
        for name in ("G_10.pth", "D_10.pth"):
            (workspace / name).write_bytes(files[name])
        for kind, name in (("voice", "anna.pth"), ("index", "anna.index")):
            (workspace / name).write_bytes(files[name])
            stored = context.storage.store_artifact(job_id, lease.token, workspace / name)
            context.jobs.publish_artifact(lease, kind, name, stored.path, stored.size, stored.sha256)
        stored_files = []
        for content in (b"fLaC converted", PNG, b"fLaC recorded"):
            (workspace / "made").write_bytes(content)
            stored_files.append(context.storage.store_artifact(job_id, lease.token, workspace / "made"))
        event = PreviewReady(step=10, epoch=5, clip=1, seconds=2, scores={}, audio="a", picture="p", recording="r")
        context.jobs.publish_preview(lease, event, PreviewFiles(*stored_files))
        row = Evaluation(
            job_number=lease.job_number,
            step=10,
            epoch=5,
            values={"eval/mel": 0.5},
            held_out=True,
            num_clips=1,
            is_best=True,
            created_at=datetime.now(UTC),
        )
        with write_session(context.engine) as session:
            session.add(row)
        context.jobs.succeed(lease)
        http.patch("/v1/voices/anna", json={"notes": "for the game", "labels": {"kind": "voice"}})
    return job_id


def upload(http: httpx.Client, content: bytes) -> str:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))}
    headers |= {"Content-Type": "application/offset+octet-stream"}
    answer = http.post("/v1/uploads", content=content, headers=headers)
    return answer.headers["Location"].rpartition("/")[2]


def take_in(http: httpx.Client, content: bytes, **more: Any) -> httpx.Response:
    return http.post("/v1/voices", json={"upload_id": upload(http, content), **more})


def test_a_voice_moves_to_another_server_with_all_it_has_and_training_goes_on_there(
    servers: tuple[Running, Running],
    clients: tuple[httpx.Client, httpx.Client],
    trained: str,
    files: dict[str, bytes],
) -> None:
    first, second = clients
    answer = first.get("/v1/voices/anna/bundle.zip", params={"dataset": "true"})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        named = [each["file"] for each in manifest["artifacts"]] + list(manifest["save"].values())[1:]
        for file in [*named, manifest["dataset"]["recordings"]]:
            content = bundle.read(file["path"])
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["size"])
    made = take_in(second, answer.content)
    assert made.status_code == 201, made.text
    voice = made.json()
    assert made.headers["Location"] == voice["url"] == "/v1/voices/anna"
    assert (voice["notes"], voice["labels"]) == ("for the game", {"kind": "voice"})
    version = voice["current"]
    origin = version["imported"]
    assert (origin["job_id"], origin["version"]) == (trained, 1)
    assert origin["bundle_sha256"] == hashlib.sha256(answer.content).hexdigest()
    assert version["best_save"]["scores"] == {"eval/mel": 0.5}
    assert {each["name"]: second.get(each["url"]).content for each in version["files"]} == {
        name: files[name] for name in ("anna.index", "anna.pth")
    }
    job = second.get(f"/v1/jobs/{version['job_id']}").json()
    assert (job["status"], job["labels"], job["progress"]) == ("succeeded", {"kind": "song"}, 1)
    events = second.get(f"/v1/jobs/{job['id']}/events").json()["data"]
    assert [event["type"] for event in events] == ["created", "succeeded"]
    assert "taken in from a bundle" in events[0]["message"]
    clip = second.get(f"/v1/jobs/{job['id']}/previews").json()["data"][0]
    assert second.get(clip["audio"]["url"]).content == b"fLaC converted"
    orphans = Orphans(servers[1].context.engine, servers[1].context.storage, 30, 60).find()
    assert [each.path for each in orphans if job["id"] in str(each.path)] == []
    assert JobSizes(servers[1].context.engine, servers[1].context.storage, utc_now).measure() > 0
    assert second.get(f"/v1/jobs/{job['id']}").json()["disk_bytes"] >= sum(map(len, files.values()))
    wait_until(lambda: second.get(f"/v1/datasets/{job['dataset_id']}").json()["status"] == "ready")
    report = second.get(f"/v1/datasets/{job['dataset_id']}/report").json()
    assert [each["name"] for each in report["files"]] == ["a.wav", "sub/ä.wav"]
    assert second.get("/v1/uploads").status_code in {404, 405}
    body = {"name": "anna", "dataset_id": job["dataset_id"], "config": CONFIG, "start_from": {"voice": "anna"}}
    submitted = second.post("/v1/jobs", json=body)
    assert submitted.status_code == 202, submitted.text
    generator, discriminator = servers[1].context.storage.start_files(submitted.json()["id"])
    assert (generator.read_bytes(), discriminator.read_bytes()) == (files["G_10.pth"], files["D_10.pth"])
    assert second.get("/v1/voices/anna").json()["newest"]["version"] == 2

    again = take_in(second, answer.content)
    assert (again.status_code, "it is version 1" in again.json()["detail"]) == (409, True)
    other = take_in(second, answer.content, name="anna again")
    assert other.status_code == 201, other.text
    assert other.json()["current"]["dataset_id"] == job["dataset_id"], "the same recordings are not stored twice"
    back = second.get("/v1/voices/anna again/bundle.zip")
    home = take_in(first, back.content)
    assert home.status_code == 201, home.text
    assert home.json()["name"] == "anna again"


def test_a_bundle_without_recordings_makes_a_voice_whose_dataset_is_not_there(
    clients: tuple[httpx.Client, httpx.Client], trained: str
) -> None:
    first, second = clients
    content = first.get("/v1/voices/anna/bundle.zip", params={"job_id": trained}).content
    voice = take_in(second, content, name="berta").json()
    job = second.get(f"/v1/jobs/{voice['current']['job_id']}").json()
    assert job["dataset_deleted"]
    assert second.get("/v1/voices/berta/bundle.zip").status_code == 200
    lacking = second.get("/v1/voices/berta/bundle.zip", params={"dataset": "true"})
    assert (lacking.status_code, "dataset=false" in lacking.json()["detail"]) == (409, True)
    assert second.delete("/v1/voices/berta").status_code == 204
    assert take_in(second, content, name="berta").json()["current"]["version"] == 1, "it can be taken in once more"


def rebuilt(content: bytes, change: Callable[[dict[str, bytes], Any], None], compression: int = 0) -> bytes:
    """A bundle with changed members: `change` gets these and the manifest."""
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(members, manifest)
    if manifest is not None and "manifest.json" not in members:
        members["manifest.json"] = json.dumps(manifest).encode()
    return zipped(members, compression)


def described(members: dict[str, bytes], file: dict[str, Any], content: bytes) -> None:
    """Put other bytes in a file's place, with their size and hash."""
    members[file["path"]] = content
    file |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('/tmp/ran-from-a-bundle').touch()",)


def with_code() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": {"x": torch.zeros(1)}, "config": Evil()}, buffer)
    return buffer.getvalue()


def voice_of(manifest: Any) -> dict[str, Any]:
    return next(each["file"] for each in manifest["artifacts"] if each["kind"] == "voice")


def index_of(manifest: Any) -> dict[str, Any]:
    return next(each["file"] for each in manifest["artifacts"] if each["kind"] == "index")


def _set(*path: Any, to: Any) -> Callable[[dict[str, bytes], Any], None]:
    def change(_members: dict[str, bytes], manifest: Any) -> None:
        for part in path[:-1]:
            manifest = manifest[part]
        manifest[path[-1]] = to

    return change


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes], Any], None], str]] = {
    "no manifest": (lambda members, _: members.update({"manifest.json": b""}), "is not valid"),
    "a newer format": (_set("format", to=2), "upgrade this server"),
    "other bytes": (
        lambda members, m: members.update({voice_of(m)["path"]: b"x" * voice_of(m)["size"]}),
        "other bytes",
    ),
    "another size": (lambda members, m: members.update({voice_of(m)["path"]: b"x"}), "another size"),
    "a missing file": (lambda members, m: members.pop(index_of(m)["path"]) and None, "lacks"),
    "an unknown file": (lambda members, _: members.update({"more": b"x"}), "does not name"),
    "a path": (lambda members, _: members.update({"../more": b"x"}), "outside of it"),
    "code": (lambda members, m: described(members, voice_of(m), with_code()), "contains code"),
    "no model": (lambda members, m: described(members, voice_of(m), b"x" * 100), "cannot be used"),
    "no index": (lambda members, m: described(members, index_of(m), b"x" * 100), "is not a FAISS index"),
    "no clip": (lambda members, m: described(members, m["previews"][0]["audio"], b"<html>"), "not a FLAC file"),
    "a folder as a name": (_set("artifacts", 0, "name", to="../../x.pth"), "not the name of a file"),
    "a name that is no voice's": (_set("voice", "name", to="\n"), "is not valid"),
    "another width": (_set("version", "config", "width", to=48), "width=24"),
    "an unknown option": (_set("version", "config", "later", to=1), "upgrade the older one"),
    "no voice": (_set("artifacts", 0, "kind", to="report"), "is not valid"),
    "two best saves": (lambda _, m: m["evaluations"].append({**m["evaluations"][0], "step": 11}), "two saves"),
    "not a number": (_set("evaluations", 0, "values", to={"eval/mel": 1e999}), "is not valid"),
    "a time before all": (_set("evaluations", 0, "created_at", to="0001-01-01T00:00:00+14:00"), "no year from 1"),
    "a time after all": (_set("previews", 0, "created_at", to="9999-12-31T23:59:59-14:00"), "no year from 1"),
    "a negative size": (lambda _, m: voice_of(m).update(size=-1), "is not valid"),
}


CHECKED_BY_THE_ENGINE = ("no model", "no index", "another width")
"""With "code", which is tested each day: seconds each."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind in CHECKED_BY_THE_ENGINE)) for kind in HOSTILE]
)
def test_a_bundle_that_is_not_what_it_claims_is_refused_and_leaves_nothing(
    servers: tuple[Running, Running], clients: tuple[httpx.Client, httpx.Client], trained: str, kind: str
) -> None:
    first, second = clients
    content = first.get("/v1/voices/anna/bundle.zip", params={"job_id": trained}).content
    change, part = HOSTILE[kind]
    if kind == "no voice":
        change = lambda _, m: [each.update(kind="report") for each in m["artifacts"]] and None  # noqa: E731
    answer = take_in(second, rebuilt(content, change), name="eve")
    assert answer.status_code == 422, answer.text
    assert part in answer.json()["detail"], answer.json()["detail"]
    assert not Path("/tmp/ran-from-a-bundle").exists()
    assert second.get("/v1/voices/eve").status_code == 404
    assert list(servers[1].context.storage.incoming.iterdir()) == []


def test_zips_that_unpack_to_more_than_they_are_are_refused(
    clients: tuple[httpx.Client, httpx.Client], trained: str
) -> None:
    first, second = clients
    content = first.get("/v1/voices/anna/bundle.zip", params={"job_id": trained}).content
    bomb = rebuilt(content, lambda members, m: described(members, voice_of(m), bytes(10**7)), zipfile.ZIP_DEFLATED)
    for sent, part in ((bomb, "is compressed"), (b"PK not a zip", "not a zip"), (content[:-50], "zip")):
        answer = take_in(second, sent, name="eve")
        assert answer.status_code == 422, answer.text
        assert part in answer.json()["detail"]


def test_a_quota_holds_for_voices_that_are_taken_in(
    servers: tuple[Running, Running], clients: tuple[httpx.Client, httpx.Client], trained: str
) -> None:
    first, second = clients
    content = first.get("/v1/voices/anna/bundle.zip", params={"job_id": trained}).content
    token = second.post("/v1/tokens", json={"owner": "bert", "scopes": ["submit"]}).json()["secret"]
    with servers[1].client(Authorization=f"Bearer {token}") as bert:
        bert.timeout = httpx.Timeout(200)
        servers[1].context.quotas.set("bert", Quota(max_bytes=len(content) // 2))
        refused = bert.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": str(len(content))})
        assert refused.status_code == 507
        servers[1].context.quotas.set("bert", Quota(max_bytes=len(content) + 1000))
        made = take_in(bert, content)
        assert made.status_code == 201, made.text
        used = bert.get("/v1/me").json()["usage"]["bytes"]
        assert 0 < used <= len(content), "the upload counts no more"


def test_only_a_version_that_succeeded_is_bundled(
    servers: tuple[Running, Running], clients: tuple[httpx.Client, httpx.Client], trained: str
) -> None:
    first, _ = clients
    waiting = servers[0].bench.job(name="anna").id
    assert first.get("/v1/voices/anna/bundle.zip", params={"job_id": waiting}).status_code == 422
    servers[0].bench.job(name="carl")
    assert first.get("/v1/voices/carl/bundle.zip").status_code == 409
    assert first.get("/v1/voices/dora/bundle.zip").status_code == 404


def cli(server: Running, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RVC_TRAIN_SERVER": server.url, "RVC_TRAIN_TOKEN": USUAL_TOKEN, "LANG": "C.UTF-8"}
    return run_program("rvc_train.cli.main", "voices", *words, environment=environment, seconds=300)


def test_the_command_line_lists_shows_sets_shares_moves_and_deletes_voices(
    servers: tuple[Running, Running], trained: str, tmp_path: Path
) -> None:
    first, second = servers
    bundle = tmp_path / "moved.zip"
    exported = cli(first, "export", "anna", "-o", str(bundle), "--dataset", "--job", trained)
    assert exported.returncode == 0, exported.stderr
    assert "exists already" in cli(first, "export", "anna", "-o", str(bundle)).stderr
    taken = cli(second, "import", str(bundle), "--name", "greta")
    assert taken.returncode == 0, taken.stderr
    assert "greta: version 1" in taken.stdout
    assert "greta" in cli(second, "list", "--search", "gret").stdout
    shown = cli(second, "show", "greta")
    assert "the current version is 1, the newest" in shown.stdout
    assert "0.50" in shown.stdout
    chosen = cli(second, "set", "greta", "--current", "1", "--notes", "mine", "--label", "kind=song")
    assert "as you chose" in chosen.stdout, chosen.stderr
    assert "has no version '7'; it has 1" in cli(second, "set", "greta", "--current", "7").stderr
    made = json.loads(cli(second, "share", "greta", "--expires", "2d", "--listen-only", "--json").stdout)
    assert httpx.get(f"{second.url}/v1/shared/{made['secret']}").json()["files"] == []
    assert made["begins"] in cli(second, "links", "greta").stdout
    assert "is not a time" in cli(second, "share", "greta", "--expires", "soon").stderr
    assert cli(second, "unshare", "greta", made["id"]).returncode == 0
    assert httpx.get(f"{second.url}/v1/shared/{made['secret']}").status_code == 404
    assert cli(second, "delete", "greta", "--yes").returncode == 0
    assert cli(second, "show", "greta").returncode != 0
