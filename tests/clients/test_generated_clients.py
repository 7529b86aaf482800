"""Clients generated from the OpenAPI document walk from upload to download."""

import shutil
import sys
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
    shutil.copy(HERE / "walk.py", tmp_path)
    # The generated code is not strict itself.
    strict = ("--strict", "--allow-untyped-calls", "--follow-imports=silent", "--ignore-missing-imports")
    mypy = (sys.executable, "-m", "mypy", "--python-executable", python_programs / "python")
    run_client(*mypy, *strict, "walk.py", cwd=tmp_path)
    lines = run_client(python_programs / "python", "walk.py", recording, cwd=tmp_path).splitlines()
    assert lines[0] == "succeeded"
    for line in lines[1:3]:
        _, size, received = line.split()
        assert size == received != "0"
    assert lines[3:] == [
        "True",
        "True True",
        "not_found",
        "1 True",
        "False",
        "False https://1.1.1.1/other",
    ]


def test_pydantic_models(
    run_client: Callable[..., str], python_programs: Path, document: Path, served: Any, recording: Path, tmp_path: Path
) -> None:
    options = (
        "--input-file-type",
        "openapi",
        "--output-model-type",
        "pydantic_v2.BaseModel",
        "--formatters",
        "builtin",
    )
    program = python_programs / "datamodel-codegen"
    run_client(program, "--input", document, "--output", tmp_path / "models.py", *options, cwd=tmp_path)
    dataset = served.http.put("/v1/datasets/models/content", content=recording.read_bytes()).json()
    job = served.http.post("/v1/jobs", json={"name": "models", "dataset_id": dataset["id"]}).json()
    stream = {"Accept": "text/event-stream"}
    assert "event: end" in served.http.get(f"/v1/jobs/{job['id']}/events", headers=stream, timeout=60).text
    for name, path in (
        ("JobList", "/v1/jobs"),
        ("EventList", f"/v1/jobs/{job['id']}/events?limit=1000"),
        ("ArtifactList", f"/v1/jobs/{job['id']}/artifacts"),
        ("DatasetReport", f"/v1/datasets/{dataset['id']}/report"),
        ("WorkerList", "/v1/workers"),
        ("Problem", "/v1/jobs/nothing"),
    ):
        (tmp_path / "answer.json").write_bytes(served.http.get(path).content)
        code = f"import models; models.{name}.model_validate_json(open('answer.json').read())"
        run_client(python_programs / "python", "-c", code, cwd=tmp_path)
