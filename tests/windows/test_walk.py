"""From recordings to a verified voice on Windows, and the same voice after server, worker and `up` were terminated."""

import hashlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from rvc_engine.environment.processes import process_identity
from tests.windows.conftest import NAME, SAMPLES, TOKEN

pytestmark = [pytest.mark.windows, pytest.mark.timeout(500)]
if sys.platform != "win32":
    pytest.skip("these tests are for Windows", allow_module_level=True)

PAGES = re.compile(r"""(?:href|src)="(/assets/[^"]+)""")
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def tensors(home: Any, job: Any, folder: Path) -> dict[str, Any]:
    """The weights of a job's voice."""
    import torch

    (voice,) = (file for file in home.client.artifacts(job.id) if file.kind == "voice")
    path = home.client.download_artifact(voice, folder)
    return torch.load(path, weights_only=True)["weight"]


def test_recordings_become_a_voice_whose_files_are_verified(home: Any, tmp_path: Path) -> None:
    recordings = tmp_path / "录音"
    recordings.mkdir()
    for path in sorted(SAMPLES.glob("*.flac"))[:6]:
        shutil.copy(path, recordings)
    up = home.start("rvc_train.cli.main", "up", "--data", str(home.data), "--no-browser")
    home.wait_until(lambda: "ready:" in up.text, "`rvc-train up`", 180)
    home.cli("dataset", "upload", str(recordings), "--name", NAME)
    job = home.submit()
    watched = home.cli("watch", job.id, "--after", "0", encoding="cp936", seconds=300)
    assert f"{NAME}.pth" in watched, watched
    folder = tmp_path / "voices"
    output = home.cli("download", job.id, "--output", str(folder))
    files = {file.name: file for file in home.client.artifacts(job.id) if file.kind in {"voice", "index"}}
    assert set(files) >= {f"{NAME}.pth", f"{NAME}.index"}
    for name, file in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file.sha256, output
        assert file.sha256 in output
    home.reference = tensors(home, job, tmp_path)
    home.up = up


def test_the_page_and_all_that_it_loads_come_with_their_types(home: Any) -> None:
    with httpx.Client(base_url=home.url, trust_env=False, follow_redirects=True) as http:
        page = http.get("/sign-in", headers={"Accept": "text/html"})
        paths = set(PAGES.findall(page.text))
        assert any(path.partition("?")[0].endswith(".js") for path in paths), page.text
        for path in paths:
            answer = http.get(path)
            assert answer.status_code == 200, path
            expected = TYPES.get(Path(path.partition("?")[0]).suffix)
            assert expected is None or answer.headers["content-type"].startswith(expected), (path, answer.headers)
        system = http.get("/v1/system", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert system["memory_total_bytes"] > 2**30


def test_with_a_terminated_up_server_worker_and_engine_end_in_mid_training(home: Any) -> None:
    home.job = home.submit()
    home.wait_for_step(home.job, 1)
    assert any("rvc_engine" in words for words in home.running())
    home.up.end()
    home.wait_until(lambda: not home.running(), "the end of all that `up` started", 60)


def test_a_job_whose_worker_and_server_were_terminated_goes_on_and_makes_the_same_voice(
    home: Any, tmp_path: Path
) -> None:
    server, worker = home.start_server(), home.start("worker")
    home.wait_for_step(home.job, 3)
    home.wait_until(lambda: any("rvc_engine" in words for words in home.running()), "an engine", 60)
    worker.end()
    home.wait_until(lambda: not any("rvc_engine" in words for words in home.running()), "the engine's end", 20)
    worker = home.start("worker")
    home.wait_for_step(home.job, 4)
    server.end()
    assert process_identity(worker.process.pid) is not None
    home.start_server()
    job = home.wait_for(home.job, "succeeded", "failed")
    assert job.status == "succeeded", (job.error, home.words())
    resumed = tensors(home, job, tmp_path)
    assert resumed.keys() == home.reference.keys()
    assert all((resumed[name] == home.reference[name]).all() for name in resumed)
