"""Clients generated from the OpenAPI document, and tus' own client, walk from upload to download."""

import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent


@pytest.fixture
def document(served: Any, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(served.http.get("/openapi.json").content)
    return path


def test_typescript(
    run_client: Callable[..., str], node_folder: Path, document: Path, recording: Path, tmp_path: Path
) -> None:
    folder = node_folder / "walk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(HERE / "walk.ts", folder)
    programs = node_folder / "node_modules" / ".bin"
    run_client(
        programs / "openapi-typescript", document, "-o", folder / "api.d.ts", "--default-non-nullable=false", cwd=folder
    )
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck")
    run_client(programs / "tsc", *options, "walk.ts", cwd=folder)
    lines = run_client("node", "walk.js", recording, cwd=folder).splitlines()
    found = {line.split()[0]: line.split()[1:] for line in lines}
    for kind in ("voice", "index"):
        assert found[kind][0] == found[kind][1] != "0"
    assert found["webhook"] == ["false", "https://1.1.1.1/hook", "3"]


def test_python(
    run_client: Callable[..., str], python_programs: Path, document: Path, recording: Path, tmp_path: Path
) -> None:
    generate = ("generate", "--path", document, "--output-path", tmp_path / "generated", "--meta", "none")
    run_client(python_programs / "openapi-python-client", *generate, cwd=tmp_path)
    (tmp_path / "walk.py").write_text(
        textwrap.dedent(
            """
            import importlib, io, os, pkgutil, sys, time
            from generated import AuthenticatedClient, api, models
            from generated.types import File

            names = [module.name for module in pkgutil.walk_packages(api.__path__, "generated.api.")]

            def operation(an_id):
                (name,) = (name for name in names if name.rpartition(".")[2] == an_id)
                return importlib.import_module(name)

            client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"])
            body = File(payload=io.BytesIO(open(sys.argv[1], "rb").read()))
            dataset = operation("datasets_upload").sync("generated", client=client, body=body)
            request = models.JobCreate(name="generated", dataset_id=dataset.id)
            job = operation("jobs_create").sync(client=client, body=request)
            while job.status not in ("succeeded", "failed", "cancelled"):
                time.sleep(0.1)
                job = operation("jobs_get").sync(job.id, client=client)
            print(job.status)
            for file in operation("jobs_list_artifacts").sync(job.id, client=client).data:
                found = operation("jobs_download_artifact").sync(job.id, file.name, client=client)
                print(file.kind, file.size, len(found.payload.read()))
            print(len(operation("jobs_get_log").sync(job.id, client=client)) > 0)
            webhook = models.WebhookCreate(url="https://1.1.1.1/hook")
            webhook = operation("webhooks_create").sync(client=client, body=webhook)
            change = operation("webhooks_update").sync
            print(change(webhook.id, client=client, body=models.WebhookPatch(is_enabled=False)).is_enabled)
            patch = models.WebhookPatch(url="https://1.1.1.1/other")
            changed = change(webhook.id, client=client, body=patch)
            print(changed.is_enabled, changed.url)
            """
        )
    )
    lines = run_client(python_programs / "python", "walk.py", recording, cwd=tmp_path).splitlines()
    assert lines[0] == "succeeded"
    for line in lines[1:3]:
        _, size, received = line.split()
        assert size == received != "0"
    assert lines[3:] == ["True", "False", "False https://1.1.1.1/other"]


def test_tus_in_chunks(run_client: Callable[..., str], node_folder: Path, served: Any, tmp_path: Path) -> None:
    shutil.copy(HERE / "upload.mjs", node_folder)
    file = tmp_path / "recording.wav"
    file.write_bytes(bytes(20_000_000))
    done = json.loads(run_client("node", "upload.mjs", file, "1000000", cwd=node_folder))
    assert done["statuses"] == {"201": 1, "204": 20}
    assert served.http.head(done["url"], headers={"Tus-Resumable": "1.0.0"}).headers["Upload-Offset"] == "20000000"
